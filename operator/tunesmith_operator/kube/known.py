"""What the cache keeps of an object, and which of two states of it is newer.

Small frozen extracts; made here of what the API server says, used by ``cache``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from tunesmith_operator.kube.kinds import Object
from tunesmith_operator.kube.parse import parse_version
from tunesmith_operator.kube.parse_child import parse_child, parse_source
from tunesmith_operator.planning.observed import SeenJob, SeenPod, SeenVersion
from tunesmith_operator.planning.serving import ServingPod


class Key(NamedTuple):
    """Names an object that is reconciled."""

    kind: str
    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class Own:
    """One of our objects as last seen."""

    kind: str
    namespace: str
    name: str
    uid: str
    resource_version: str
    is_deleting: bool
    stage: str = ""
    """status.stage of a FineTuneJob, status.phase of a ModelDeployment, for the metrics."""
    version: SeenVersion | None = None
    """What others want to know of a ModelVersion."""
    follows: tuple[str, str] = ("", "")
    """Names of the model and of the ModelVersion in a ModelDeployment's source."""

    @property
    def key(self) -> Key:
        """Its key in the work queue."""
        return Key(self.kind, self.namespace, self.name)


@dataclass(frozen=True, slots=True)
class Child:
    """A Job or a pod as last seen."""

    kind: str
    namespace: str
    name: str
    uid: str
    resource_version: str
    owner_uid: str
    seen: SeenJob | SeenPod | ServingPod


def read_own(kind: str, body: Object) -> Own:
    """Extract what is kept of one of our objects."""
    meta, status = body["metadata"], body.get("status") or {}
    return Own(
        kind=kind,
        namespace=meta["namespace"],
        name=meta["name"],
        uid=meta["uid"],
        resource_version=meta["resourceVersion"],
        is_deleting="deletionTimestamp" in meta,
        stage=status.get("stage") or status.get("phase") or "Pending",
        version=parse_version(body) if kind == "ModelVersion" else None,
        follows=parse_source(body) if kind == "ModelDeployment" else ("", ""),
    )


def read_child(kind: str, body: Object) -> Child | None:
    """Extract what is kept of a child; None where it is nobody's."""
    seen, owner = parse_child(kind, body)
    if seen is None or not owner:
        return None
    meta = body["metadata"]
    return Child(
        kind=kind,
        namespace=meta["namespace"],
        name=meta["name"],
        uid=meta["uid"],
        resource_version=meta["resourceVersion"],
        owner_uid=owner,
        seen=seen,
    )


def is_gone(item: Own | Child) -> bool:
    """Whether it is a pod that was deleted and is kept for its last words."""
    return isinstance(item, Child) and isinstance(item.seen, SeenPod) and item.seen.is_gone


def number(resource_version: str) -> int:
    """Give the number that a resourceVersion is."""
    # Kubernetes promises since 1.35 that they are numbers which rise; all before did the same.
    return int(resource_version) if resource_version.isdecimal() else 0


def is_newer(meta: Mapping[str, str], known: str) -> bool:
    """Whether an object's metadata is later than a known resourceVersion."""
    return number(meta["resourceVersion"]) > number(known)
