"""Whether training fits into the GPUs it will get, and how these hold the model. Pure.

Called by ``prepare``, before a GPU is taken. How much memory something takes says `memory`.
"""

from dataclasses import replace

from tunesmith_api.result import UserErrorReason
from tunesmith_api.run import PlannedGpus, TrainingRun
from tunesmith_api.sharding import UNSHARDED_OPTIMIZERS, Placement, Sharding
from tunesmith_api.training import Method, Precision, QLora, Switch
from tunesmith_trainer.memory import FLOAT32, GIB, ModelShape, Workload, estimate
from tunesmith_trainer.outcome import UserError

# GPUs of the largest group that is proposed: compute.nodes times compute.gpusPerNode at most.
_MOST_GPUS = 64 * 16


def place(shape: ModelShape, run: TrainingRun, longest: int) -> Placement:
    """Choose how the GPUs of a run's train stage hold the model.

    Whole copies where they fit, as they exchange least; else parts. A batch that is too large is
    halved when it comes to that, so only what does not fit with one row at a time and recomputed
    activations raises UserError DoesNotFit.
    """
    gpus = run.planned_gpus or PlannedGpus()
    work = planned_work(run, longest)
    choices = {kind: replace(work, parts=parts) for kind, parts in _choices(run, gpus).items()}
    totals = {kind: _total(shape, run, one) for kind, one in choices.items()}
    room = gpus.memory_bytes
    fitting = [kind for kind in totals if totals[kind] <= room]
    possible = [kind for kind in choices if _total(shape, run, _least(run, choices[kind])) <= room]
    if room and not possible:
        raise _does_not_fit(shape, run, list(choices.values())[-1], gpus)
    # Where all of the batch fits nowhere, parts leave most room for what can be had of it.
    chosen = (fitting or possible[-1:] or list(choices))[0]
    reason = _reason(gpus, chosen, totals) if gpus.ranks > 1 else ""
    return Placement(sharding=chosen, memory_bytes=totals[chosen], reason=reason)


def _choices(run: TrainingRun, gpus: PlannedGpus) -> dict[Sharding, int]:
    """Give the ways that may be taken, the preferred first, and the parts of the model in each."""
    whole, parted = {Sharding.DDP: 1}, {Sharding.FSDP: gpus.ranks}
    if gpus.sharding is Sharding.FSDP and gpus.ranks > 1:
        return parted
    if gpus.sharding is Sharding.DDP or gpus.ranks == 1 or not _can_part(run):
        return whole
    return whole | parted


def _can_part(run: TrainingRun) -> bool:
    optimizer = run.hyperparameters.optimizer
    return run.method.qlora is None and optimizer not in UNSHARDED_OPTIMIZERS


def planned_work(run: TrainingRun, longest: int) -> Workload:
    """Give what a device will work on, as the train stage will decide it."""
    settings = run.hyperparameters
    is_full = run.method.adapter is None
    wanted = settings.gradient_checkpointing
    return Workload(
        rows=settings.per_device_batch_size * run.objective.sides,
        longest=longest,
        width=FLOAT32 if settings.precision is Precision.FP32 else 2,
        checkpointing=wanted is Switch.ENABLED or (wanted is Switch.AUTO and is_full),
        optimizer=settings.optimizer,
    )


def _least(run: TrainingRun, work: Workload) -> Workload:
    return replace(work, rows=run.objective.sides, checkpointing=True)


def _total(
    shape: ModelShape, run: TrainingRun, work: Workload, method: Method | None = None
) -> int:
    return estimate(shape, method or run.method, work).total


def _reason(gpus: PlannedGpus, chosen: Sharding, totals: dict[Sharding, int]) -> str:
    said = {Sharding.DDP: "with a whole copy", Sharding.FSDP: "with a part of the model"}
    takes = " and ".join(f"{_gib(totals[kind])} {said[kind]}" for kind in totals)
    has = f"the largest {gpus.type} has {_gib(gpus.memory_bytes)}"
    if not gpus.memory_bytes:
        has = f"how much memory a {gpus.type} has is not known"
    return f"The GPUs train with {chosen.value}: each would hold {takes}; {has}."


def _does_not_fit(
    shape: ModelShape, run: TrainingRun, work: Workload, gpus: PlannedGpus
) -> UserError:
    smallest = _least(run, work)
    least, room = _total(shape, run, smallest), gpus.memory_bytes
    ways = []
    if run.method.qlora is None:
        quantized = _total(shape, run, replace(smallest, parts=1), Method(qlora=QLora()))
        if quantized <= room:
            ways.append(f"method.qlora (about {_gib(quantized)})")
    ways += _with_more_gpus(shape, run, smallest, gpus)
    shorter = _total(shape, run, replace(smallest, longest=smallest.longest // 4))
    if shorter <= room:
        ways.append("a lower hyperparameters.maxSequenceLength with checks.tooLong Truncate")
    ways.append(f"a compute.gpuType with {_gib(least)} or more")
    parted = f" in {smallest.parts} parts" if smallest.parts > 1 else ""
    return UserError(
        UserErrorReason.DOES_NOT_FIT,
        f"Training {run.model.uri}{parted} takes at least {_gib(least)} of GPU memory, the largest"
        f" {gpus.type} has {_gib(room)}. Use {', or '.join(ways)}.",
    )


def _with_more_gpus(
    shape: ModelShape, run: TrainingRun, smallest: Workload, gpus: PlannedGpus
) -> list[str]:
    """Propose the fewest GPUs, a power of two, that could hold the model in parts."""
    parts = 2
    while _can_part(run) and parts <= _MOST_GPUS:
        needed = _total(shape, run, replace(smallest, parts=parts))
        if needed <= gpus.memory_bytes and parts <= gpus.ranks:
            return [f"compute.sharding FSDP (about {_gib(needed)} each)"]
        if needed <= gpus.memory_bytes:
            return [f"{parts} GPUs in all with compute.sharding Auto (about {_gib(needed)} each)"]
        parts *= 2
    return []


def _gib(count: int) -> str:
    return f"{count / GIB:.1f} GiB"
