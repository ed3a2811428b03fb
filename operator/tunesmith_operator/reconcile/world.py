"""What a reconciler may touch: the calls, the cache, Events, the trainers and the clock.

Protocols and one bag that carries them; no behaviour. ``main`` fills the bag with the real things,
tests with toys.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, Protocol

from tunesmith_api.run import TrainerProgress
from tunesmith_operator.config import Config
from tunesmith_operator.kube.cache import Cache
from tunesmith_operator.kube.kinds import Object


class Kube(Protocol):
    """Live calls. All raise the errors of kube/errors.py; writes go through the leader's fence."""

    async def get(self, kind: str, namespace: str, name: str) -> Object | None:
        """Read an object live, or None."""

    async def list(
        self, kind: str, namespace: str | None = None, labels: str = ""
    ) -> Sequence[Object]:
        """Read all objects that a label selector finds, live; namespace None is everywhere."""

    async def create(self, manifest: Object) -> Object:
        """Create; raises AlreadyExists."""

    async def create_or_adopt(self, manifest: Object, owner_uid: str) -> Object:
        """Create, or return the one that is there if ``owner_uid`` controls it, else NotOurs."""

    async def delete(
        self,
        kind: str,
        namespace: str,
        name: str,
        *,
        uid: str,
        resource_version: str = "",
        propagation: Literal["Foreground", "Background", "Orphan"] = "Foreground",
        grace_seconds: int | None = None,
    ) -> bool:
        """Delete exactly that object; False if it is gone; raises Conflict if it is another one."""

    async def apply_status(
        self, kind: str, namespace: str, name: str, status: Object, *, resource_version: str
    ) -> Object:
        """Write the whole status by server-side apply; raises Gone, or Conflict if it changed."""


class Recorder(Protocol):
    """Kubernetes Events. Returns at once, never raises, and repeats are counted, not multiplied."""

    def __call__(
        self,
        kind: str,
        namespace: str,
        name: str,
        uid: str,
        *,
        type: Literal["Normal", "Warning"],
        reason: str,
        message: str,
    ) -> None:
        """Record an Event on an object."""


PollProgress = Callable[[str, int], Awaitable[TrainerProgress | None]]
"""(pod ip, port) -> what the trainer says, or None where it says nothing that can be read."""


@dataclass(frozen=True, slots=True)
class World:
    """All that a pass may touch."""

    kube: Kube
    cache: Cache
    record: Recorder
    poll_progress: PollProgress
    now: Callable[[], datetime]
    config: Config


Reconcile = Callable[[World, str, str], Awaitable[timedelta | None]]
"""One pass: (world, namespace, name) -> when to look again, or None for only on a change."""
