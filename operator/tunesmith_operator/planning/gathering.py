"""Puts the objects of a ModelDeployment together into what its decisions are made on.

Pure; called by reconcile/ with what it has just read. A revision is a record (a ConfigMap), the
Deployment that the record controls, and that Deployment's pods.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tunesmith_api.revision import RevisionTemplate
from tunesmith_operator.planning.serving import SeenRevision, ServingPod


@dataclass(frozen=True, slots=True)
class SeenRecord:
    """A revision's record."""

    name: str
    uid: str
    owner_uid: str
    digest: str
    number: int
    template: RevisionTemplate


@dataclass(frozen=True, slots=True)
class SeenWorkload:
    """A revision's Deployment."""

    name: str
    uid: str
    owner_uid: str
    replicas: int
    failure: str = ""
    """Why the cluster makes no pods for it, such as a quota."""


def gather_revisions(
    owner_uid: str,
    records: Iterable[SeenRecord],
    workloads: Iterable[SeenWorkload],
    pods: Sequence[ServingPod],
) -> tuple[SeenRevision, ...]:
    """Give the revisions whose record ``owner_uid`` controls, by number."""
    by_owner = {workload.owner_uid: workload for workload in workloads}
    own = sorted((r for r in records if r.owner_uid == owner_uid), key=lambda r: r.number)
    return tuple(_revision(r, by_owner.get(r.uid), pods_of(r.number, pods)) for r in own)


def pods_of(number: int, pods: Sequence[ServingPod]) -> tuple[ServingPod, ...]:
    """Give the pods of a revision that are not on their way out."""
    return tuple(pod for pod in pods if pod.revision == number and not pod.is_terminating)


def _revision(
    record: SeenRecord, workload: SeenWorkload | None, pods: Sequence[ServingPod]
) -> SeenRevision:
    waiting = next((pod.waiting for pod in pods if pod.waiting and not pod.is_ready), "")
    return SeenRevision(
        name=record.name,
        uid=record.uid,
        digest=record.digest,
        number=record.number,
        template=record.template,
        has_workload=workload is not None,
        replicas=workload.replicas if workload else 0,
        ready_replicas=sum(pod.is_ready for pod in pods),
        restarts=sum(pod.restarts for pod in pods),
        waiting=waiting or (workload.failure if workload else ""),
        refusal=next((pod.refusal for pod in pods if pod.refusal), ""),
    )
