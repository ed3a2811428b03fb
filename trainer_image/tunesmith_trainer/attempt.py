"""One attempt at the train stage: its orders, and what it reaches the outside with.

Made by `recipe`, handed to whatever needs more than one of them. Holds no state of training.
"""

from dataclasses import dataclass
from pathlib import Path

from tunesmith_api.run import TrainingRun
from tunesmith_trainer.distributed import Ranks
from tunesmith_trainer.progress import Progress
from tunesmith_trainer.stopping import StopSignal
from tunesmith_trainer.storage import Store
from tunesmith_trainer.storage.fence import Fence


@dataclass(frozen=True)
class Attempt:
    """The surroundings of one attempt, as one rank sees them."""

    run: TrainingRun
    work: Path
    """Local directory, shared by the ranks of a node."""
    progress: Progress
    stop: StopSignal
    ranks: Ranks
    storage: Store
    """The run's output. Knows nothing of `stop`: the last checkpoint is written after it."""
    fence: Fence
    """Keeps this attempt from writing once a newer one has begun."""
