"""What the agent knows after a restart: one file in the shared folder, replaced as a whole.

The folder lives as long as the pod; a new pod starts from nothing and is told by the operator.
Called by ``router``.
"""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from tunesmith_api.router import RouterState
from tunesmith_process.logs import log
from tunesmith_router.counting import Tally
from tunesmith_router.placement import Placement


class Memory(BaseModel):
    """The content of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    state: RouterState | None = None
    """What should be in effect."""
    placement: Placement = Placement()
    tallies: dict[str, Tally] = {}
    """What was counted, by mark; up to a second old."""
    haproxy_restarts: int = 0


class MemoryFile:
    """The file."""

    def __init__(self, path: Path) -> None:
        """Remember where it is."""
        self._path = path

    def read(self) -> Memory:
        """Read it; an empty memory if it is not there or of no use."""
        try:
            return Memory.model_validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return Memory()
        except (OSError, ValidationError) as error:
            # Without it the pod is as a new one: the operator tells it, and what HAProxy still
            # has is drained then.
            log.error("started with an empty memory", error=str(error))
            return Memory()

    def write(self, memory: Memory) -> None:
        """Replace it. Raises OSError."""
        draft = self._path.with_suffix(".tmp")
        draft.write_text(memory.model_dump_json(by_alias=True))
        draft.replace(self._path)
