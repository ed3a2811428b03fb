"""The closed set of things a roll-out's decision can ask for, and the decision itself.

Data only. reconcile/ writes the status first and carries the actions out after it, in order: a
weight that was granted, or a rejection, is never known to the router alone. An operator that
dies in between finds the status and asks for the same actions again; each may be carried out
twice with the same result.
"""

from dataclasses import dataclass
from datetime import timedelta

from tunesmith_api.adapters import WantedAdapters
from tunesmith_api.deploymentstatus import ModelDeploymentStatus, RollbackStatus
from tunesmith_api.revision import RevisionTemplate
from tunesmith_operator.planning.actions import Emit
from tunesmith_operator.planning.serving import Traffic


@dataclass(frozen=True, slots=True)
class EnsureRevision:
    """Create the revision's record, Deployment and Service, as far as they are missing."""

    name: str
    number: int
    digest: str
    template: RevisionTemplate
    replicas: int
    host: str = ""
    """Deployment of the pods that serve it beside others; empty: it has pods of its own."""


@dataclass(frozen=True, slots=True)
class ScaleRevision:
    """Ask for this many pods."""

    name: str
    uid: str
    replicas: int


@dataclass(frozen=True, slots=True)
class RetireRevision:
    """Take its own pods away and keep its record. Asked for only when the router sends it
    nothing."""

    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class ScaleHost:
    """Ask for this many pods that adapters share."""

    name: str
    uid: str
    """uid of the Deployment."""
    replicas: int


@dataclass(frozen=True, slots=True)
class HoldAdapters:
    """Tell the pods of a host the whole set of adapters that they should serve. What is not among
    them is unloaded; left out only when the router sends it nothing."""

    name: str
    adapters: WantedAdapters


@dataclass(frozen=True, slots=True)
class DeleteHost:
    """Delete the Deployment of pods that no revision in use is served by."""

    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class DeleteRevision:
    """Delete a retired revision that history has forgotten."""

    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class SetTraffic:
    """Tell the router the whole wanted split."""

    traffic: Traffic


@dataclass(frozen=True, slots=True)
class Notify:
    """POST the rollback to rollout.rollback.notify, once and without waiting for it."""

    url: str
    rollback: RollbackStatus


PodAction = (
    EnsureRevision
    | ScaleRevision
    | RetireRevision
    | ScaleHost
    | HoldAdapters
    | DeleteHost
    | DeleteRevision
)
ServingAction = PodAction | SetTraffic | Notify | Emit


@dataclass(frozen=True, slots=True)
class ServingDecision:
    """What to say first, what to do then, and when to look again."""

    status: ModelDeploymentStatus
    actions: tuple[ServingAction, ...] = ()
    look_again: timedelta | None = None
    """None: only when something changes."""
