"""The ranks of a run: who this process is, and what all of them agree on.

Wraps accelerate's state, so that nothing else reads RANK or WORLD_SIZE. Called by `recipe` first
of all; must not load models or data.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar, cast

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, broadcast_object_list, gather_object

from tunesmith_api.result import UserErrorReason
from tunesmith_api.run import World
from tunesmith_api.sharding import Sharding
from tunesmith_api.training import Precision
from tunesmith_trainer.cpus import available_cpus
from tunesmith_trainer.outcome import Infrastructure, Interrupted, UserError

_T = TypeVar("_T")

_PATIENCE = timedelta(days=1)
"""How long ranks wait for one that judges or exports alone. NCCL's 10 minutes would end them; one
that hangs is found by the operator, as Stalled."""


class Ranks:
    """The processes that train together, seen from one of them."""

    def __init__(self, accelerator: Accelerator, sharding: Sharding = Sharding.DDP) -> None:
        self.accelerator = accelerator
        self.is_sharded = sharding is Sharding.FSDP
        """Whether a forward pass needs all ranks, each of which holds a part of the model."""
        self.rank: int = accelerator.process_index
        self.size: int = accelerator.num_processes
        self.device: torch.device = accelerator.device

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, the only one that writes."""
        return self.rank == 0

    def total(self, *values: float) -> tuple[float, ...]:
        """Add up each value over all ranks, in float64. All ranks must call this."""
        if self.size == 1:
            return values
        # Metal and the like have no float64; there is one rank there.
        sums = torch.tensor(values, dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(sums)
        return tuple(sums.tolist())

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on at least one rank. All ranks must call this."""
        return self.total(float(flag))[0] > 0

    def gather(self, value: _T) -> list[_T]:
        """Give every rank's value, in the order of ranks. All ranks must call this."""
        return gather_object([value]) if self.size > 1 else [value]

    def from_main(self, value: _T) -> _T:
        """Give every rank rank 0's value. All ranks must call this."""
        if self.size == 1:
            return value
        box = [value]
        broadcast_object_list(box, from_process=0)
        return box[0]

    def on_main(self, work: Callable[[], _T]) -> _T:
        """Do `work` on rank 0 and give every rank what it found. All ranks must call this.

        Raises on rank 0 what `work` raises, and Interrupted on the others then.
        """
        error: Exception | None = None
        found = cast("_T", None)
        if self.is_main:
            try:
                found = work()
            except Exception as caught:
                error = caught
        # Nobody may wait for what does not come.
        is_done, found = self.from_main((error is None, found))
        if error is not None:
            raise error
        if not is_done:
            raise Interrupted
        return found

    def wait(self) -> None:
        """Wait until all ranks are here."""
        self.accelerator.wait_for_everyone()

    @contextmanager
    def one_per_node_first(self) -> Iterator[bool]:
        """Let one rank of each node run the block before the others, to share what it fetched.

        Gives whether this rank is that one.
        """
        first = self.accelerator.is_local_main_process
        if not first:
            self.wait()
        yield first
        if first:
            self.wait()


def join(world: World, precision: Precision) -> Ranks:
    """Join the other ranks, if there are any, on this process's device.

    Call `check_devices` and `choose_precision` first. Blocks until all ranks have come. Raises
    Infrastructure RanksMissing where the launcher started another number of them.
    """
    use_cpu = world.gpus_per_node == 0
    mixed = {Precision.FP16: "fp16", Precision.BF16: "bf16"}.get(precision, "no")
    accelerator = Accelerator(
        cpu=use_cpu,
        mixed_precision=mixed,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=_PATIENCE)],
    )
    if accelerator.num_processes != world.ranks:
        # Each would train a model of its own and take the others for late attempts.
        raise Infrastructure(
            "RanksMissing",
            f"The run is for {world.ranks} ranks, but the launcher made a group of "
            f"{accelerator.num_processes}.",
        )
    if use_cpu:
        torch.set_num_threads(threads_per_rank())
        # Kernels whose sums depend on the order of threads would make a resumed run differ.
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return Ranks(accelerator, world.sharding if world.ranks > 1 else Sharding.DDP)


def check_devices(world: World) -> None:
    """Raise UserError GpuNotFound where fewer GPUs are visible than the run was given."""
    seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if seen < world.gpus_per_node:
        raise UserError(
            UserErrorReason.GPU_NOT_FOUND,
            f"The job asks for {world.gpus_per_node} GPU(s) on each node, but the container sees "
            f"{seen}. Check that the node's NVIDIA driver and device plugin work and fit the "
            f"image's CUDA {torch.version.cuda}, or set compute.gpusPerNode to 0 to train on CPU.",
        )


def choose_precision(wanted: Precision, world: World) -> Precision:
    """Resolve Auto, and raise UserError PrecisionUnsupported for what the device cannot do."""
    on_gpu = world.gpus_per_node > 0
    has_bf16 = not on_gpu or torch.cuda.is_bf16_supported(including_emulation=False)
    if wanted is Precision.AUTO:
        return Precision.BF16 if on_gpu and has_bf16 else Precision.FP32
    if wanted is Precision.FP16 and not on_gpu:
        raise UserError(
            UserErrorReason.PRECISION_UNSUPPORTED,
            "hyperparameters.precision FP16 needs a GPU: on a CPU small gradients would vanish. "
            "Use Auto, FP32 or BF16.",
        )
    if wanted is Precision.BF16 and not has_bf16:
        raise UserError(
            UserErrorReason.PRECISION_UNSUPPORTED,
            f"The GPU {torch.cuda.get_device_name()} has no BF16. Set hyperparameters.precision "
            "to Auto, FP16 or FP32, or compute.gpuType to an Ampere or newer GPU.",
        )
    return wanted


def threads_per_rank() -> int:
    """Give this rank's share of the CPUs that the container may use, at least 1.

    torch itself counts the machine's cores and would start dozens of threads on a small quota.
    OMP_NUM_THREADS, which a launcher sets, decides where it is given.
    """
    given = os.environ.get("OMP_NUM_THREADS", "")
    if given.isdigit():
        return max(1, int(given))
    local_ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, int(available_cpus()) // local_ranks)
