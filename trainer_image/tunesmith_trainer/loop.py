"""The training loop: global batch by global batch, exact about tokens, stoppable at every step.

Called by `recipe`. Must not load, export or know about S3: saving is a function it is given.
"""

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from tunesmith_api.report import LossPoint, Rewards
from tunesmith_api.result import UserErrorReason
from tunesmith_api.training import Hyperparameters
from tunesmith_trainer.batches import (
    Batch,
    BatchPlan,
    Rows,
    collate,
    collate_packed,
    rank_share,
    supervised_targets,
)
from tunesmith_trainer.curve import Curve
from tunesmith_trainer.data.prepared import Split
from tunesmith_trainer.distributed import Ranks
from tunesmith_trainer.evaluation import held_out_score
from tunesmith_trainer.logs import log
from tunesmith_trainer.objective import SupervisedLoss
from tunesmith_trainer.outcome import Interrupted, UserError
from tunesmith_trainer.preference import REWARDS, PairBatch, PairLoss, Pairs, collate_pairs
from tunesmith_trainer.progress import Progress
from tunesmith_trainer.report import peak_memory_bytes
from tunesmith_trainer.schedule import learning_rate
from tunesmith_trainer.sharding import without_exchange
from tunesmith_trainer.state import Chance, TrainState
from tunesmith_trainer.stopping import StopSignal
from tunesmith_trainer.tracking.session import Tracking


@dataclass
class Training:
    """All that a step needs. `state` and `curve` change as training goes on."""

    settings: Hyperparameters
    ranks: Ranks
    loss: SupervisedLoss
    """The model on this rank's device."""
    optimizer: torch.optim.Optimizer
    train: Split
    validation: Split | None
    pad_id: int
    plan: BatchPlan
    total_steps: int
    checkpoint_every: int
    state: TrainState
    curve: Curve
    tracking: Tracking = field(default_factory=lambda: Tracking(None))
    pairs: Pairs | None = None
    """With objective DPO: the plan's rows are pairs then."""
    kernels: tuple[str, ...] = ()
    """What computes the model, for the report."""
    computed: int = 0
    """Tokens that the ranks worked on in this attempt, padding included."""
    prepared: nn.Module = field(init=False)
    """The loss of the run's objective, wrapped where gradients are averaged over ranks."""

    def __post_init__(self) -> None:
        self.prepared = self.ranks.accelerator.prepare_model(
            PairLoss(self.loss, self.pairs.settings) if self.pairs else self.loss,
            device_placement=False,
            # The wrapper of whole models; one in parts averages gradients by itself.
            evaluation_mode=self.ranks.size == 1 or self.ranks.is_sharded,
        )

    def batch(self, rows: Rows) -> Batch | PairBatch:
        """Give a micro-batch on this rank's device, packed where the model can do it."""
        packed, device = self.loss.can_pack, self.ranks.device
        # Noise on the embeddings has to be each row's own.
        share = not float(self.settings.neftune_alpha)
        if self.pairs is not None:
            reference = self.pairs.reference("train")
            return collate_pairs(
                self.train, rows, reference, self.pad_id, packed=packed, share=share
            ).to(device)
        if not packed:
            return collate(self.train, rows, self.pad_id).to(device)
        return collate_packed(self.train, rows, self.pad_id, share=share).to(device)

    def units(self, rows: Rows) -> int:
        """Count what the loss of a global batch is the mean over: tokens to predict, or pairs."""
        return len(rows) if self.pairs else max(1, supervised_targets(self.train, rows))

    def accumulating(self, *, is_last: bool) -> AbstractContextManager[None]:
        """Put off the exchange of gradients in the backward pass inside, unless it is the last.

        Not where all weights of a model in parts are trained: gradients of the whole model would
        take the memory that parting it has saved.
        """
        if is_last:
            return nullcontext()
        if not self.ranks.is_sharded:
            return self.ranks.accelerator.no_sync(self.prepared)
        is_full = all(weight.requires_grad for weight in self.loss.parameters())
        return nullcontext() if is_full else without_exchange(self.loss)

    @property
    def scaler(self) -> torch.amp.GradScaler | None:
        """Scales the loss so that FP16 gradients do not vanish; None for other precisions."""
        return self.ranks.accelerator.scaler


SaveCheckpoint = Callable[[Training, Chance], None]
"""Called by all ranks at the same step, with the generators' state to go on with."""


def train(run: Training, save: SaveCheckpoint, progress: Progress, stop: StopSignal) -> None:
    """Train from `run.state.step` to the last step, or until early stopping.

    Raises Interrupted on SIGTERM, after `save`, and UserError NonFiniteLoss.
    """
    run.prepared.train()
    started = _Start(time.monotonic(), run.state.step, run.state.tokens)
    for rows in run.plan.batches_from(run.state.step):
        # Taken before anything of the step: an abandoned step must leave no trace.
        chance = Chance.capture()
        try:
            _look_if_due(run, progress, stop)
            if run.state.stopped_early or run.state.step >= run.total_steps:
                return
            point = optimizer_step(run, rows, stop)
        except Interrupted as interrupted:
            save(run, chance)
            raise Interrupted(
                f"Stopped by SIGTERM; step {run.state.step} of {run.total_steps} is saved and "
                "another attempt goes on from there."
            ) from interrupted
        run.curve.add(point)
        _report(run, point, started, progress)
        if run.state.step % run.checkpoint_every == 0 and run.state.step < run.total_steps:
            save(run, Chance.capture())


def optimizer_step(run: Training, rows: Rows, stop: StopSignal) -> LossPoint:
    """Do one optimizer step on a global batch.

    The gradient is that of the mean over all supervised tokens, or pairs, of the global batch,
    whatever micro-batch or rank they are in: each adds its sum divided by the count of all. Raises
    Interrupted, with weights and counters unchanged, and UserError NonFiniteLoss.
    """
    sums = _accumulate_gradients(run, rows, run.units(rows), stop)
    # One exchange a step: the sums, and whether anybody was told to stop.
    stopping, loss, tokens, computed, *rewards = run.ranks.total(float(stop.requested), *sums)
    if stopping:
        run.optimizer.zero_grad(set_to_none=True)
        raise Interrupted
    rate = learning_rate(run.state.step, run.total_steps, run.settings)
    _refuse_non_finite("loss", loss, run.state.step + 1, rate)
    norm = _update_weights(run, rate)
    run.state.step += 1
    run.state.tokens += int(tokens)
    run.computed += int(computed)
    return LossPoint(
        step=run.state.step,
        loss=repr(loss),
        learning_rate=repr(rate),
        gradient_norm=repr(norm),
        tokens=run.state.tokens,
        rewards=Rewards(**dict(zip(REWARDS, map(repr, rewards), strict=True))) if rewards else None,
    )


def _accumulate_gradients(
    run: Training, rows: Rows, units: int, stop: StopSignal
) -> tuple[float, ...]:
    """Add up gradients; give this rank's part of the mean loss, its tokens, and those computed.

    With objective DPO its part of the mean REWARDS follows.
    """
    ranks = run.ranks
    shares = rank_share(rows, run.settings.per_device_batch_size, ranks.rank, ranks.size)
    nats = torch.zeros((), dtype=torch.float64, device=ranks.device)
    rewards = torch.zeros(len(REWARDS) if run.pairs else 0, device=ranks.device)
    tokens, computed = 0, 0
    for turn, share in enumerate(shares):
        # Alone, stop at once. Several ranks have to agree first, at the end of the step.
        if stop.requested and ranks.size == 1:
            break
        is_last = turn == len(shares) - 1
        batch = run.batch(share)
        with run.accumulating(is_last=is_last):
            part, besides = run.prepared(batch)
            # The wrapper takes the mean over ranks; what is wanted is the sum.
            scaled = part * (ranks.size / units)
            (run.scaler.scale(scaled) if run.scaler else scaled).backward()
        nats += part.detach().double()
        if run.pairs:
            rewards += besides
        tokens += batch.tokens
        computed += batch.computed
    means = (float(reward) / units for reward in rewards)
    return nats.item() / units, float(tokens), float(computed), *means


def _update_weights(run: Training, rate: float) -> float:
    """Clip, step, forget the gradients; give the gradient's norm before clipping."""
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    if run.scaler:
        run.scaler.unscale_(run.optimizer)
    weights = [p for group in run.optimizer.param_groups for p in group["params"]]
    limit = float(run.settings.max_gradient_norm) or math.inf
    total = nn.utils.clip_grad_norm_(weights, limit)
    norm = float(total.full_tensor() if isinstance(total, DTensor) else total)
    if run.scaler:
        # An overflow is expected now and then: the scaler skips the step and scales less.
        run.scaler.step(run.optimizer)
        run.scaler.update()
    else:
        _refuse_non_finite("gradient norm", norm, run.state.step + 1, rate)
        run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)
    return norm


def _refuse_non_finite(what: str, value: float, step: int, rate: float) -> None:
    if math.isfinite(value):
        return
    do = (
        "Lower hyperparameters.learningRate, raise warmupSteps, set maxGradientNorm to 1 or below, "
        "or use precision BF16 or FP32 instead of FP16."
    )
    if what == "loss" and step == 1:
        do = "Nothing was trained yet: see whether the base model's weights are whole."
    said = f"The {what} is {value} at step {step} (learning rate {rate:.3g}). {do}"
    raise UserError(UserErrorReason.NON_FINITE_LOSS, said)


def _look_if_due(run: Training, progress: Progress, stop: StopSignal) -> None:
    settings, validation = run.settings.early_stopping, run.validation
    if settings is None or validation is None or not run.state.look_is_due(settings):
        return
    score = held_out_score(
        run.loss,
        validation,
        run.ranks,
        stop,
        batch_size=run.settings.per_device_batch_size,
        pad_id=run.pad_id,
        pairs=run.pairs.held_out("validation") if run.pairs else None,
    )
    run.prepared.train()
    run.state.note_validation_loss(score.loss, settings)
    run.curve.note_validation_loss(score.loss)
    log.info("validation", step=run.state.step, loss=repr(score.loss))
    progress.measured({"eval_loss": score.loss})
    run.tracking.add(run.state.step, {"eval/loss": score.loss})


@dataclass(frozen=True)
class _Start:
    """Where this attempt began, to tell its speed."""

    clock: float
    step: int
    tokens: int


def _report(run: Training, point: LossPoint, started: _Start, progress: Progress) -> None:
    seconds = time.monotonic() - started.clock
    speed = (run.state.tokens - started.tokens) / seconds
    left = run.total_steps - run.state.step
    epoch = f"{run.state.step / run.plan.steps_per_epoch:.3f}"
    values = {
        "loss": point.loss,
        "learning_rate": point.learning_rate,
        "gradient_norm": point.gradient_norm,
    }
    if point.rewards:
        values |= {f"reward_{name}": value for name, value in point.rewards}
    # The same text as in the curve: the exact numbers, so that runs can be compared by their logs.
    log.info("step", step=run.state.step, epoch=epoch, tokens_per_second=round(speed, 1), **values)
    metrics = {name: float(value) for name, value in values.items()} | {
        "tokens_per_second": speed,
        "packing_efficiency": (run.state.tokens - started.tokens) / run.computed,
        "peak_memory_bytes": peak_memory_bytes(),
    }
    tracked = {f"train/{name}": value for name, value in metrics.items()}
    run.tracking.add(run.state.step, tracked | {"train/epoch": float(epoch)})
    progress.advance(
        run.state.step,
        epoch=epoch,
        metrics=metrics,
        eta_seconds=left * seconds / (run.state.step - started.step),
    )
