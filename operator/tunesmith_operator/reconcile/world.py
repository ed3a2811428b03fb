"""What a reconciler may touch: the calls, the cache, Events, the trainers and the clock.

Protocols and one bag that carries them; no behaviour. ``main`` fills the bag with the real things,
tests with toys.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, Protocol

from tunesmith_api.adapters import AdaptersReport, WantedAdapters
from tunesmith_api.analysis import Analysis, AnalysisMetric
from tunesmith_api.deploymentstatus import RollbackStatus
from tunesmith_api.result import TrainerProgress
from tunesmith_api.router import RouterState
from tunesmith_operator.config import Config
from tunesmith_operator.kube.cache import Cache
from tunesmith_operator.kube.kinds import Object
from tunesmith_operator.kube.known import Key
from tunesmith_operator.metrics.sampling import Measured, PromptsError
from tunesmith_operator.planning.routing import RouterAnswer
from tunesmith_operator.planning.serving import RevisionCounts, Sampling, ServingPod


class Kube(Protocol):
    """Live calls. All raise the errors of kube/errors.py; writes go through the leader's fence."""

    async def get(self, kind: str, namespace: str, name: str) -> Object | None:
        """Read an object live, or None."""

    async def list(
        self, kind: str, namespace: str | None = None, labels: str = "", fields: str = ""
    ) -> Sequence[Object]:
        """Read all objects that both selectors find, live; namespace None is everywhere."""

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
    ) -> bool:
        """Delete exactly that object; False if it is gone; raises Conflict if it is another one."""

    async def apply_status(
        self,
        kind: str,
        namespace: str,
        name: str,
        status: Object,
        *,
        resource_version: str,
        is_urgent: bool = False,
    ) -> Object:
        """Write the whole status by server-side apply; raises Gone, or Conflict if it changed."""

    async def patch_status(
        self, kind: str, namespace: str, name: str, status: Object, *, resource_version: str
    ) -> Object:
        """Write some fields of the status and leave the others; raises Gone, or Conflict."""

    async def apply(self, manifest: Object) -> Object:
        """Server-side apply: what we no longer say is removed, what others say stays."""

    async def scale(self, kind: str, namespace: str, name: str, replicas: int, *, uid: str) -> None:
        """Ask exactly that object for so many pods; raises Gone, or Conflict if it is another."""


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


class Routers(Protocol):
    """The agents of router pods. What does not answer is None."""

    def token(self, deployment_uid: str) -> str:
        """Give the token of a deployment's agents."""

    async def ask(self, deployment_uid: str, pods: Sequence[ServingPod]) -> list[RouterAnswer]:
        """Ask all pods side by side what they do."""

    async def tell(
        self, deployment_uid: str, pods: Sequence[ServingPod], state: RouterState
    ) -> list[RouterAnswer]:
        """Tell all pods side by side what to do; they answer once they do it."""


class Adapters(Protocol):
    """The sidecars of pods that serve adapters. What does not answer is left out."""

    def token(self, deployment_uid: str) -> str:
        """Give the token of a deployment's pods."""

    async def ask(
        self, deployment_uid: str, pods: Sequence[ServingPod]
    ) -> Mapping[str, AdaptersReport]:
        """Ask all pods side by side what they hold; give it by their uid."""

    async def tell(
        self, deployment_uid: str, pods: Sequence[ServingPod], wanted: WantedAdapters
    ) -> Mapping[str, AdaptersReport]:
        """Tell all pods side by side what to hold; they answer at once and begin."""


class Samples(Protocol):
    """Measures canaries; never raises for what others do wrong."""

    async def remember(self, canary: Measured, stable: Measured | None) -> None:
        """Begin to count now, unless it is counted already."""

    async def take(
        self,
        analysis: Analysis,
        canary: Measured,
        stable: Measured | None,
        prompts: Mapping[str, str | PromptsError],
        now: datetime,
        *,
        only: Sequence[AnalysisMetric] | None = None,
        excuses_ends: bool = False,
    ) -> Sampling:
        """Measure all metrics once, or only some of them."""

    def forget(self, namespace: str, name: str) -> None:
        """Forget a canary, by its revision's name; its next roll-out begins anew."""


class Answers(Protocol):
    """Counts what canaries answer, by their pods; what does not answer is no news."""

    async def begin(self, canary: Measured) -> None:
        """Count from now on."""

    async def count(self, canary: Measured) -> RevisionCounts:
        """Give what it has answered since."""


Tell = Callable[[str, RollbackStatus, str, str], Awaitable[None]]
"""(url, rollback, namespace, name): one POST that never raises."""


@dataclass(frozen=True, slots=True)
class ServingWorld:
    """What only roll-outs need."""

    routers: Routers
    adapters: Adapters
    sampler: Samples
    answers: Answers
    notify: Tell
    analysis_token: Callable[[str], str]
    """uid of a deployment -> the token that its golden prompts are asked with."""


@dataclass(frozen=True, slots=True)
class World:
    """All that a pass may touch."""

    kube: Kube
    cache: Cache
    record: Recorder
    poll_progress: PollProgress
    now: Callable[[], datetime]
    config: Config
    serving: ServingWorld
    wake: Callable[[Key], None]
    """Asks for a pass over an object."""
    term: Callable[[], int]
    """How many times this process has become the leader."""


Reconcile = Callable[[World, str, str], Awaitable[timedelta | None]]
"""One pass: (world, namespace, name) -> when to look again, or None for only on a change."""
