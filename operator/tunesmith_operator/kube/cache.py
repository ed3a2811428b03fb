"""What watch events and lists told us, as small frozen extracts, grouped by owner.

Fed by handlers/ (events), by the client (answers to our own writes, so that we read what we wrote)
and by resync (lists, the only remedy for events that never came). Read by reconcile/. It is a
view, never the truth: before a create or a delete the truth is asked.

Of own objects only names and versions are kept: a pass reads the object itself live.
"""

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace

from tunesmith_operator.kube.kinds import Object
from tunesmith_operator.kube.known import (
    Child,
    Key,
    Own,
    is_gone,
    is_newer,
    number,
    read_child,
    read_own,
)
from tunesmith_operator.kube.uses import Uses
from tunesmith_operator.planning.observed import SeenJob, SeenPod, SeenVersion

OWN_KINDS = ("FineTuneJob", "ModelVersion", "ModelDeployment")
_TOMBSTONES = 8192


class Cache:
    """The store. Not thread-safe: it lives in the event loop, and no method waits."""

    def __init__(self, touched: Callable[[Key], None] = lambda _: None) -> None:
        """``touched`` is told of ModelVersions whose use has changed."""
        self.uses = Uses(lambda *where: touched(Key("ModelVersion", *where)))
        self._own: dict[str, Own] = {}
        self._uid_of: dict[Key, str] = {}
        self._children: dict[str, Child] = {}
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
        """Return pods of the owner that some Job made, not gone, whose Job is gone or disowned."""
        children = self._of(owner_uid)
        jobs = {
            child.uid
            for child in children
            if isinstance(child.seen, SeenJob) and child.seen.owner_uid == owner_uid
        }
        return tuple(
            child.seen
            for child in children
            if isinstance(child.seen, SeenPod)
            and not child.seen.is_gone
            and child.seen.job_uid not in jobs | {""}
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
            if item.kind != kind or item.uid in alive or is_gone(item):
                continue
            if number(item.resource_version) <= listed_from:
                key = self._forget(item.uid)
                if key is not None:
                    changed.add(key)
        return changed

    # -- inside ----------------------------------------------------------------------------------

    def _saw_own(self, kind: str, body: Object) -> Key | None:
        meta = body["metadata"]
        known = self._own.get(meta["uid"])
        if known is not None and not is_newer(meta, known.resource_version):
            return None
        own = read_own(kind, body)
        replaced = self._uid_of.get(own.key)
        if replaced is not None and replaced != own.uid:
            # Deleted and made again under the same name; its DELETED event got lost.
            if number(self._own[replaced].resource_version) > number(own.resource_version):
                return None
            self._forget(replaced)
        self._own[own.uid] = own
        self._uid_of[own.key] = own.uid
        self.uses.saw(kind, body)
        if own.version is not None:
            self._versions.setdefault((own.namespace, own.version.model), set()).add(own.uid)
        return own.key

    def _saw_child(self, kind: str, body: Object) -> Key | None:
        meta = body["metadata"]
        known = self._children.get(meta["uid"])
        if known is not None and not is_newer(meta, known.resource_version):
            return None
        child = read_child(kind, body)
        if known is not None and (child is None or child.owner_uid != known.owner_uid):
            # Somebody took our labels off it, or gave it another owner's.
            self._drop_with_pods(known)
        if child is None:
            return self._owner_key(known.owner_uid) if known is not None else None
        self._children[child.uid] = child
        self._by_owner.setdefault(child.owner_uid, set()).add(child.uid)
        if known is not None and known.seen == child.seen:
            return None  # it also changes in ways that mean nothing to us
        return self._owner_key(child.owner_uid)

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
        self._drop_with_pods(child)
        return owner

    def _forget_own(self, own: Own) -> Key:
        if self._uid_of.get(own.key) == own.uid:
            del self._uid_of[own.key]
            self.uses.forget(own.kind, own.namespace, own.name)
        if own.version is not None:
            self._versions.get((own.namespace, own.version.model), set()).discard(own.uid)
        for child in self._of(own.uid):
            if is_gone(child):
                self._drop(child)
        return own.key

    def _drop_with_pods(self, child: Child) -> None:
        """Drop a child, and the pods that are kept only for as long as it is there."""
        self._drop(child)
        if isinstance(child.seen, SeenJob):
            for other in self._of(child.owner_uid):
                if is_gone(other) and _job_of(other) == child.uid:
                    self._drop(other)

    def _drop(self, child: Child) -> None:
        self._children.pop(child.uid, None)
        siblings = self._by_owner.get(child.owner_uid, set())
        siblings.discard(child.uid)
        if not siblings:
            self._by_owner.pop(child.owner_uid, None)

    def _all(self) -> list["Own | Child"]:
        return [*self._own.values(), *self._children.values()]

    def _of(self, owner_uid: str) -> list[Child]:
        return [self._children[uid] for uid in self._by_owner.get(owner_uid, ())]

    def _owner_key(self, owner_uid: str) -> Key | None:
        own = self._own.get(owner_uid)
        return own.key if own is not None else None


def _pods_of(job: SeenJob, pods: Iterable[SeenPod]) -> list[SeenPod]:
    return [pod for pod in pods if pod.job_uid == job.uid]


def _job_of(child: Child) -> str:
    return child.seen.job_uid if isinstance(child.seen, SeenPod) else ""
