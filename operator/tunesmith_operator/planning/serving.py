"""What the operator has seen of a ModelDeployment, frozen: the only input of its decisions.

Built by the edge from live reads, the router's answers and the metrics' provider; read by
planning. Holds facts and draws no conclusions.
"""

from dataclasses import dataclass
from datetime import datetime

from tunesmith_api.adapters import WantedAdapters
from tunesmith_api.deploymentstatus import RevisionStatus
from tunesmith_api.modeldeployment import ModelDeployment
from tunesmith_api.modelversion import ModelVersion
from tunesmith_api.revision import RevisionTemplate


@dataclass(frozen=True, slots=True)
class SeenRevision:
    """The objects of one revision: its record and its pods."""

    name: str
    uid: str
    """uid of its record, the immutable ConfigMap."""
    digest: str
    number: int
    template: RevisionTemplate
    """What the record says."""
    host: str = ""
    """Deployment of the pods that serve it beside others; empty: it has pods of its own."""
    has_workload: bool = True
    """Whether the Deployment of its pods, and its Service, exist."""
    replicas: int = 0
    """Pods that are asked for; of shared ones none while none of them has anything of it."""
    ready_replicas: int = 0
    """Pods that are ready with just this model, as they say themselves."""
    restarts: int = 0
    """Restarts of its containers, over all pods there are; of pods that it shares none."""
    waiting: str = ""
    """What a pod that is not ready waits for: the scheduler's or the kubelet's words."""
    is_starting: bool = False
    """Whether a pod is there that its node has not started, and whose status says not why."""
    refusal: str = ""
    """Why a pod will never serve this model, such as another digest; empty if none said so."""
    loaded_replicas: int = 0
    """Of the pods that it shares, those that say that they hold it, ready or not."""
    is_unloadable: bool = False
    """Whether one of them says that it cannot be had, such as without its files in S3."""

    @property
    def is_fully_ready(self) -> bool:
        """Whether it has pods and all of them are ready."""
        return self.has_workload and 1 <= self.replicas <= self.ready_replicas


@dataclass(frozen=True, slots=True)
class SeenHost:
    """The Deployment of pods that revisions with the same base model share."""

    name: str
    uid: str
    replicas: int
    """Pods that are asked for."""
    told: tuple[WantedAdapters | None, ...] = ()
    """What each of its pods that has an address was told last; None where it does not say."""
    failure: str = ""
    """Why the cluster makes no pods for it, such as a quota."""
    restarts: int = 0
    """Restarts of its containers, over all pods there are."""
    most_restarts: int = 0
    """Of the pod that has most."""
    last_restart: datetime | None = None
    """When one of them ended last; None where none was started again."""


@dataclass(frozen=True, slots=True)
class ServingPod:
    """A pod of a revision, of a host, or of the router."""

    name: str
    uid: str
    revision: int
    """Number of its revision; 0 for a pod of the router or of a host."""
    host: str = ""
    """Name of its host; empty for any other."""
    address: str = ""
    """IP address; empty until it has one."""
    is_ready: bool = False
    is_terminating: bool = False
    restarts: int = 0
    """Restarts of its containers, but for those that all of them went through together."""
    last_restart: datetime | None = None
    """When one of them ended last; None where none was started again, or all ended together."""
    waiting: str = ""
    """What it waits for, in the scheduler's or the kubelet's words."""
    starting: datetime | None = None
    """When it was made; None once its node has started a container, or its status says why not."""
    refusal: str = ""
    """Why it will never serve its model, as it said itself."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """Where requests go: all to ``main``, but ``weight`` percent to ``canary``."""

    main: str
    canary: str = ""
    weight: int = 0
    mirror_percent: int = 0
    """Copies that the canary gets; only where it has no weight."""

    def share(self, name: str) -> int:
        """Percent of the requests that the revision ``name`` answers."""
        if name == self.main:
            return 100 - self.weight
        return self.weight if name == self.canary else 0

    def touches(self, name: str) -> bool:
        """Whether the revision gets any request or copy."""
        return self.share(name) > 0 or (name == self.canary and self.mirror_percent > 0)


@dataclass(frozen=True, slots=True)
class RevisionCounts:
    """What the router has counted of one revision, or its pods where the router does not count."""

    name: str
    requests: int = 0
    """Answers since the revision was last taken in by the router."""
    consecutive_errors: int = 0
    """Failed ones since the last good one, or since it was taken in: what an earlier try of the
    same revision counted is no evidence against this one. Of the router pod, or the pod of the
    revision, that has most."""


@dataclass(frozen=True, slots=True)
class SeenRouter:
    """What the router says of itself."""

    traffic: Traffic | None
    """None before it was first told."""
    is_settled: bool = True
    """Whether every router pod has it, or the route is Accepted."""
    counts: tuple[RevisionCounts, ...] = ()
    since: datetime | None = None
    """When all router pods had confirmed this traffic, where that is known: before this look."""
    refusal: str = ""
    """Why no Gateway does what the route says, in its controller's words."""
    trouble: str = ""
    """Which router pods do not answer or do not take what they are told, and why."""
    is_moving: bool = False
    """Whether the router of the spec is not in effect yet, and the former one serves meanwhile."""
    is_reachable: bool = True
    """Whether requests get to any of its pods; of a Gateway's own nobody knows better."""

    def counted(self, name: str) -> RevisionCounts:
        """Give the counts of a revision."""
        return next((c for c in self.counts if c.name == name), RevisionCounts(name))


@dataclass(frozen=True, slots=True)
class MetricSample:
    """One value, as the provider gave it."""

    name: str
    value: str = ""
    """Empty where there was no value; may be no number at all."""
    stable_value: str = ""
    requests: int | None = None
    """Canary's requests the value was taken over; None where it needs none."""
    stable_requests: int | None = None
    error: str = ""
    """Why the provider could not be asked; nothing else counts then."""
    needs_change: bool = False
    """Whether it stays so until somebody changes what is asked."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """Values of metrics at one time: of all, unless it is early."""

    digest: str
    """The revision they are about."""
    taken: datetime
    samples: tuple[MetricSample, ...]
    is_early: bool = False
    """Whether they are of an early look (planning.early), at some of the metrics."""


@dataclass(frozen=True, slots=True)
class ServingObservation:
    """A ModelDeployment and all that belongs to it."""

    deployment: ModelDeployment
    versions: tuple[ModelVersion, ...] = ()
    """The ModelVersion that the source names, or all versions of its model."""
    unreadable: tuple[str, ...] = ()
    """Those of them that this operator cannot read, with why."""
    revisions: tuple[SeenRevision, ...] = ()
    """All revisions whose record the deployment controls, by uid."""
    hosts: tuple[SeenHost, ...] = ()
    """The hosts that the deployment controls."""
    router: SeenRouter | None = None
    """None while it cannot be asked."""
    unservable: str = ""
    """Why no pods can be made of what the spec asks for, as the builder of their manifests says."""
    sampling: Sampling | None = None
    """Fresh values; the edge takes them when planning.analysis.is_sample_due says so."""
    was_away: bool = False
    """Whether nobody has looked for a while before this, be it that the operator was gone or the
    API server: what was awaited meanwhile may have had no chance to come."""
    refused: str | None = None
    """What the cluster refused in the pass before, with what to change: empty for nothing, None
    where this process has made no pass yet."""

    def revision(self, name: str) -> SeenRevision | None:
        """Give a revision by its name."""
        return next((r for r in self.revisions if r.name == name), None)

    def host(self, name: str) -> SeenHost | None:
        """Give a host by its name."""
        return next((h for h in self.hosts if h.name == name), None)

    def shares_host(self, one: RevisionStatus | None, other: RevisionStatus | None) -> bool:
        """Whether two revisions are served by the same pods."""
        found = [self.revision(role.name) for role in (one, other) if role is not None]
        hosts = {there.host if there else "" for there in found}
        return len(found) == 2 and len(hosts) == 1 and "" not in hosts

    @property
    def traffic(self) -> Traffic | None:
        """What the router was seen to do."""
        return self.router.traffic if self.router else None

    def may_serve(self, name: str) -> bool:
        """Whether the revision may have requests: where the router is silent, all may."""
        if self.router is None:
            return True
        traffic = self.router.traffic
        if traffic is None:
            return False
        # Router pods that have not taken the last change still do what they did before.
        return traffic.touches(name) or not self.router.is_settled
