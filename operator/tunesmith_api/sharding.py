"""How the processes of a run hold the model, and what cannot be held in parts.

Shared by the job's spec and status and by the TrainingRun. The trainer decides what Auto is.
"""

from enum import StrEnum

from tunesmith_api.meta import Count, Rule, Status


class Sharding(StrEnum):
    """How the processes of a run hold the model."""

    AUTO = "Auto"
    DDP = "DDP"
    """Each holds all of it (Li et al. 2020, arXiv:2006.15704)."""
    FSDP = "FSDP"
    """Each holds a part of every weight (Zhao et al. 2023, arXiv:2304.11277)."""


class Placement(Status):
    """How the GPUs of a run hold the model, as the prepare stage has found best."""

    sharding: Sharding
    """DDP or FSDP."""
    memory_bytes: Count
    """What each GPU is expected to hold at the peak of a training step."""
    reason: str = ""
    """A sentence; empty where there was nothing to choose."""


UNSHARDED_OPTIMIZERS = ("AdamW8bit", "Adafactor")
"""Their states are not one number a weight, so they cannot be parted as the weights are."""

SHARDING_RULES = (
    Rule(
        "self.compute.sharding != 'FSDP' || self.compute.nodes > 1 || self.compute.gpusPerNode > 1",
        "compute.sharding FSDP needs two processes at least: raise compute.gpusPerNode or nodes, "
        "or choose Auto",
    ),
    Rule(
        "self.compute.sharding != 'FSDP' || !has(self.method.qlora)",
        "compute.sharding FSDP cannot part 4-bit weights: choose method.lora, or sharding Auto",
    ),
    Rule(
        "self.compute.sharding != 'FSDP'"
        f" || !(self.hyperparameters.optimizer in {list(UNSHARDED_OPTIMIZERS)})",
        "compute.sharding FSDP cannot part the state of hyperparameters.optimizer "
        f"{' and '.join(UNSHARDED_OPTIMIZERS)}: choose AdamW, or sharding Auto",
    ),
)
"""Rules of a FineTuneJob's spec."""
