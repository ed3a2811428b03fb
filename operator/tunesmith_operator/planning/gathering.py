"""Puts the objects of a ModelDeployment together into what its decisions are made on.

Pure; called by reconcile/ with what it has just read. A revision is a record (a ConfigMap), the
Deployment that the record controls, and that Deployment's pods; or, for an adapter, a record, the
host whose pods it shares, and what those pods say they hold.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tunesmith_api.adapters import AdapterPhase, AdaptersReport, HeldAdapter, WantedAdapters
from tunesmith_api.artifacts import refusal
from tunesmith_api.meta import ObjectMeta
from tunesmith_api.revision import RevisionTemplate
from tunesmith_operator.planning.hosting import host_of
from tunesmith_operator.planning.serving import SeenHost, SeenRevision, ServingPod


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
    """A revision's Deployment, or a host's."""

    name: str
    uid: str
    owner_uid: str
    """uid of the record, or of the ModelDeployment that a host belongs to."""
    replicas: int
    failure: str = ""
    """Why the cluster makes no pods for it, such as a quota."""
    is_host: bool = False


@dataclass(frozen=True, slots=True)
class SeenObjects:
    """All that was read of a deployment's revisions."""

    records: Sequence[SeenRecord]
    workloads: Sequence[SeenWorkload]
    pods: Sequence[ServingPod]
    services: frozenset[str] = frozenset()
    """uids of the records that have a Service."""
    reports: Mapping[str, AdaptersReport] = field(default_factory=dict)
    """What pods of hosts said, by their uid; those that were silent are not in it."""


def gather_hosts(owner: ObjectMeta, objects: SeenObjects) -> tuple[SeenHost, ...]:
    """Give the hosts that ``owner`` controls."""
    found = (w for w in objects.workloads if w.is_host and w.owner_uid == owner.uid)
    return tuple(_host(workload, objects) for workload in found)


def _host(workload: SeenWorkload, objects: SeenObjects) -> SeenHost:
    pods = [p for p in objects.pods if p.host == workload.name and not p.is_terminating]
    return SeenHost(
        name=workload.name,
        uid=workload.uid,
        replicas=workload.replicas,
        told=_told(pods, objects),
        failure=workload.failure,
        restarts=sum(pod.restarts for pod in pods),
        most_restarts=max((pod.restarts for pod in pods), default=0),
        last_restart=max((p.last_restart for p in pods if p.last_restart), default=None),
    )


def _told(pods: Iterable[ServingPod], objects: SeenObjects) -> tuple[WantedAdapters | None, ...]:
    reports = (objects.reports.get(pod.uid) for pod in pods if pod.address)
    return tuple(report.wanted if report else None for report in reports)


def gather_revisions(
    owner: ObjectMeta, objects: SeenObjects, assumed: frozenset[str] = frozenset()
) -> tuple[SeenRevision, ...]:
    """Give the revisions whose record ``owner`` controls, by number.

    ``assumed`` are those that a pod holds which is ready and does not answer.
    """
    by_owner = {workload.owner_uid: workload for workload in objects.workloads}
    hosts = {host.name: host for host in gather_hosts(owner, objects)}
    own = sorted((r for r in objects.records if r.owner_uid == owner.uid), key=lambda r: r.number)
    made = []
    for record in own:
        host = host_of(owner.name, record.template)
        pods = pods_of(record, host, objects, assumed)
        seen = _seen(record, host, pods)
        if host:
            made.append(_on_host(seen, hosts.get(host), pods, objects))
        else:
            has_service = record.uid in objects.services
            workload = by_owner.get(record.uid)
            made.append(_on_own_pods(seen, workload, pods, has_service=has_service))
    return tuple(_without_shared_restarts(made))


def _without_shared_restarts(revisions: Sequence[SeenRevision]) -> Iterable[SeenRevision]:
    """Restarts of pods that several revisions are served by say nothing of any of them.

    Nor of one that no pod has anything of: they were before it came.
    """
    guests = Counter(r.host for r in revisions if r.replicas)
    for revision in revisions:
        is_alone = revision.replicas > 0 and guests[revision.host] == 1
        yield revision if is_alone or not revision.host else replace(revision, restarts=0)


def pods_of(
    record: SeenRecord | SeenRevision, host: str, objects: SeenObjects, assumed: frozenset[str]
) -> tuple[ServingPod, ...]:
    """Give the pods that serve a revision and are not on their way out.

    Of a host's pods those that have anything of it; ready are the ones that have all of it.
    """
    alive = [pod for pod in objects.pods if not pod.is_terminating]
    if not host:
        return tuple(pod for pod in alive if pod.revision == record.number)
    found = []
    for pod in alive:
        if pod.host != host:
            continue
        report = objects.reports.get(pod.uid)
        if report is None and record.name in assumed:
            found.append(pod)
        held = _held(record, report)
        if held is not None:
            is_loaded = held.phase is AdapterPhase.LOADED
            found.append(replace(pod, is_ready=pod.is_ready and is_loaded))
    return tuple(found)


def _held(record: SeenRecord | SeenRevision, report: AdaptersReport | None) -> HeldAdapter | None:
    digest = record.template.model.digest
    held = report.held if report else ()
    return next((h for h in held if (h.revision, h.digest) == (record.name, digest)), None)


def _seen(record: SeenRecord, host: str, pods: Sequence[ServingPod]) -> SeenRevision:
    """Give what is known of a revision wherever its pods are."""
    return SeenRevision(
        name=record.name,
        uid=record.uid,
        digest=record.digest,
        number=record.number,
        template=record.template,
        host=host,
        ready_replicas=sum(pod.is_ready for pod in pods),
    )


def _on_own_pods(
    revision: SeenRevision,
    workload: SeenWorkload | None,
    pods: Sequence[ServingPod],
    *,
    has_service: bool,
) -> SeenRevision:
    """Add what the pods say that serve this revision alone."""
    return replace(
        revision,
        has_workload=workload is not None and has_service,
        replicas=workload.replicas if workload else 0,
        restarts=sum(pod.restarts for pod in pods),
        waiting=_waiting(pods) or (workload.failure if workload else ""),
        is_starting=any(pod.starting for pod in pods),
        refusal=next((pod.refusal for pod in pods if pod.refusal), ""),
    )


def _on_host(
    revision: SeenRevision,
    host: SeenHost | None,
    pods: Sequence[ServingPod],
    objects: SeenObjects,
) -> SeenRevision:
    """Add what a host's pods say of the adapter that this revision is; ``pods`` have any of it."""
    said = [h for p in pods if (h := _held(revision, objects.reports.get(p.uid))) is not None]
    trouble = [h.message for h in said if h.phase is AdapterPhase.FAILED and h.message]
    phases = [h.phase for h in said]
    # A pod that was not told yet, because it does not start, has nothing of any revision.
    all_pods = [p for p in objects.pods if p.host == revision.host and not p.is_terminating]
    return replace(
        revision,
        has_workload=host is not None and revision.uid in objects.services,
        replicas=host.replicas if host and pods else 0,
        restarts=host.restarts if host else 0,
        waiting=next(iter(trouble), "") or _waiting(all_pods) or (host.failure if host else ""),
        is_starting=any(pod.starting for pod in all_pods),
        refusal=next((_why(h.message) for h in said if h.phase is AdapterPhase.REFUSED), ""),
        loaded_replicas=phases.count(AdapterPhase.LOADED),
        is_unloadable=AdapterPhase.FAILED in phases or AdapterPhase.REFUSED in phases,
    )


def _waiting(pods: Sequence[ServingPod]) -> str:
    return next((pod.waiting for pod in pods if pod.waiting and not pod.is_ready), "")


def _why(message: str) -> str:
    return refusal(message) or message or "it was refused"
