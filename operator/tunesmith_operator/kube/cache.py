"""What watch events and lists told us, as small frozen extracts, grouped by owner.

Fed by handlers/ (events), by the client (answers to our own writes, so that we read what we wrote)
and by resync (lists, the only remedy for events that never came). Read by reconcile/. It is a
view, never the truth: before a create or a delete the truth is asked.

Of own objects only names and versions are kept: a pass reads the object itself live.
"""

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from tunesmith_operator.kube.kinds import Object
from tunesmith_operator.kube.parse import parse_version
from tunesmith_operator.kube.parse_child import parse_child, parse_source
from tunesmith_operator.kube.uses import Uses
from tunesmith_operator.planning.observed import SeenJob, SeenPod, SeenVersion
from tunesmith_operator.planning.serving import ServingPod

OWN_KINDS = ("FineTuneJob", "ModelVersion", "ModelDeployment")
_TOMBSTONES = 8192


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
class _Child:
    kind: str
    namespace: str
    name: str
    uid: str
    resource_version: str
    owner_uid: str
    seen: SeenJob | SeenPod | ServingPod


class Cache:
    """The store. Not thread-safe: it lives in the event loop, and no method waits."""

    def __init__(self, touched: Callable[[Key], None] = lambda _: None) -> None:
        """``touched`` is told of ModelVersions whose use has changed."""
        self.uses = Uses(lambda *where: touched(Key("ModelVersion", *where)))
        self._own: dict[str, Own] = {}
        self._uid_of: dict[Key, str] = {}
        self._children: dict[str, _Child] = {}
        self._by_owner: dict[str, set[str]] = {}
        self._versions: dict[tuple[str, str], set[str]] = {}
        self._gone: OrderedDict[str, None] = OrderedDict()

    # -- reading ---------------------------------------------------------------------------------

    def own(self, kind: str, namespace: str, name: str) -> Own | None:
        """Return one of our objects as last seen."""
        return self._own.get(self._uid_of.get(Key(kind, namespace, name), ""))

    def all_own(self, kind: str) -> list[Own]:
        """Return all of our objects of a kind."""
        return [own for own in self._own.values() if own.kind == kind]

    def jobs_of(self, owner_uid: str) -> tuple[SeenJob, ...]:
        """Return the Jobs that the owner controls, by attempt, with their pods, gone ones too."""
        children = self._of(owner_uid)
        pods = [child.seen for child in children if isinstance(child.seen, SeenPod)]
        jobs = [child.seen for child in children if isinstance(child.seen, SeenJob)]
        return tuple(
            replace(job, pods=tuple(sorted(_pods_of(job, pods), key=lambda pod: pod.index)))
            for job in sorted(jobs, key=lambda job: (job.attempt, job.name))
            if job.owner_uid == owner_uid
        )

    def stray_pods_of(self, owner_uid: str) -> tuple[SeenPod, ...]:
        """Return pods of the owner, not gone, whose Job does not exist any more."""
        children = self._of(owner_uid)
        jobs = {child.uid for child in children if isinstance(child.seen, SeenJob)}
        return tuple(
            child.seen
            for child in children
            if isinstance(child.seen, SeenPod)
            and not child.seen.is_gone
            and child.seen.job_uid not in jobs
        )

    def versions_of(self, namespace: str, model: str) -> tuple[SeenVersion, ...]:
        """Return the ModelVersions of a model."""
        found = (self._own[uid].version for uid in self._versions.get((namespace, model), ()))
        return tuple(sorted((v for v in found if v is not None), key=lambda v: v.name))

    def followers_of(self, version: Own) -> list[Key]:
        """Return the ModelDeployments whose source is this ModelVersion or its model."""
        model = version.version.model if version.version else ""
        return [
            own.key
            for own in self._own.values()
            if own.namespace == version.namespace
            and any(own.follows)
            and (own.follows[0] == model or own.follows[1] == version.name)
        ]

    def counts(self) -> dict[str, int]:
        """Return how many objects of each kind are known."""
        counts = dict.fromkeys((*OWN_KINDS, "Job", "Pod"), 0)
        for item in self._all():
            counts[item.kind] += 1
        return counts

    # -- feeding ---------------------------------------------------------------------------------

    def saw(self, kind: str, body: Object) -> Key | None:
        """Take in an object; return whose turn it is because of it, None if nothing changed."""
        meta = body["metadata"]
        if meta["uid"] in self._gone:
            return None
        if kind in OWN_KINDS:
            return self._saw_own(kind, body)
        return self._saw_child(kind, body)

    def deleted(self, kind: str, body: Object) -> Key | None:
        """Take in that an object is gone; return whose turn it is because of it."""
        uid = str(body["metadata"]["uid"])
        if kind == "Pod" and uid not in self._gone:
            # Its last state may be all that says why the attempt ended.
            self._saw_child(kind, body)
        return self._forget(uid)

    def drop_missing(self, kind: str, alive: Collection[str], listed_from: int) -> set[Key]:
        """Forget what a complete list did not show; return the keys of the owners.

        ``alive`` are the listed uids, ``listed_from`` the resourceVersion at which the list was
        true: what is known from a later event or write stays.
        """
        changed: set[Key] = set()
        for item in self._all():
            if item.kind != kind or item.uid in alive or _is_gone(item):
                continue
            if _number(item.resource_version) <= listed_from:
                key = self._forget(item.uid)
                if key is not None:
                    changed.add(key)
        return changed

    # -- inside ----------------------------------------------------------------------------------

    def _saw_own(self, kind: str, body: Object) -> Key | None:
        meta = body["metadata"]
        known = self._own.get(meta["uid"])
        if known is not None and not _is_newer(meta, known.resource_version):
            return None
        status = body.get("status") or {}
        own = Own(
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
        replaced = self._uid_of.get(own.key)
        if replaced is not None and replaced != own.uid:
            # Deleted and made again under the same name; its DELETED event got lost.
            if _number(self._own[replaced].resource_version) > _number(own.resource_version):
                return None
            self._forget(replaced)
        self._own[own.uid] = own
        self._uid_of[own.key] = own.uid
        if kind == "ModelDeployment":
            self.uses.saw(body)
        if own.version is not None:
            self._versions.setdefault((own.namespace, own.version.model), set()).add(own.uid)
        return own.key

    def _saw_child(self, kind: str, body: Object) -> Key | None:
        meta = body["metadata"]
        known = self._children.get(meta["uid"])
        if known is not None and not _is_newer(meta, known.resource_version):
            return None
        seen, owner = parse_child(kind, body)
        if seen is None or not owner:
            return None
        child = _Child(
            kind=kind,
            namespace=meta["namespace"],
            name=meta["name"],
            uid=meta["uid"],
            resource_version=meta["resourceVersion"],
            owner_uid=owner,
            seen=seen,
        )
        self._children[child.uid] = child
        self._by_owner.setdefault(owner, set()).add(child.uid)
        if known is not None and _without_version(known.seen) == _without_version(seen):
            return None
        return self._owner_key(owner)

    def _forget(self, uid: str) -> Key | None:
        self._gone[uid] = None
        if len(self._gone) > _TOMBSTONES:
            self._gone.popitem(last=False)
        own = self._own.pop(uid, None)
        if own is not None:
            return self._forget_own(own)
        child = self._children.get(uid)
        if child is None:
            return None
        owner = self._owner_key(child.owner_uid)
        if isinstance(child.seen, SeenPod) and child.seen.job_uid in self._children:
            self._children[uid] = replace(child, seen=replace(child.seen, is_gone=True))
            return owner
        self._drop(child)
        if isinstance(child.seen, SeenJob):
            for other in self._of(child.owner_uid):
                if _is_gone(other) and _job_of(other) == uid:
                    self._drop(other)
        return owner

    def _forget_own(self, own: Own) -> Key:
        if self._uid_of.get(own.key) == own.uid:
            del self._uid_of[own.key]
            if own.kind == "ModelDeployment":
                self.uses.forget(own.namespace, own.name)
        if own.version is not None:
            self._versions.get((own.namespace, own.version.model), set()).discard(own.uid)
        for child in self._of(own.uid):
            if _is_gone(child):
                self._drop(child)
        return own.key

    def _drop(self, child: _Child) -> None:
        self._children.pop(child.uid, None)
        siblings = self._by_owner.get(child.owner_uid, set())
        siblings.discard(child.uid)
        if not siblings:
            self._by_owner.pop(child.owner_uid, None)

    def _all(self) -> list["Own | _Child"]:
        return [*self._own.values(), *self._children.values()]

    def _of(self, owner_uid: str) -> list[_Child]:
        return [self._children[uid] for uid in self._by_owner.get(owner_uid, ())]

    def _owner_key(self, owner_uid: str) -> Key | None:
        own = self._own.get(owner_uid)
        return own.key if own is not None else None


def _pods_of(job: SeenJob, pods: Iterable[SeenPod]) -> list[SeenPod]:
    return [pod for pod in pods if pod.job_uid == job.uid]


def _job_of(child: _Child) -> str:
    return child.seen.job_uid if isinstance(child.seen, SeenPod) else ""


def _is_gone(item: Own | _Child) -> bool:
    return isinstance(item, _Child) and isinstance(item.seen, SeenPod) and item.seen.is_gone


def _number(resource_version: str) -> int:
    # Kubernetes promises since 1.35 that they are numbers which rise; all before did the same.
    return int(resource_version) if resource_version.isdecimal() else 0


def _is_newer(meta: Mapping[str, str], known: str) -> bool:
    return _number(meta["resourceVersion"]) > _number(known)


def _without_version(seen: SeenJob | SeenPod | ServingPod) -> SeenJob | SeenPod | ServingPod:
    return replace(seen, resource_version="") if isinstance(seen, SeenJob) else seen
