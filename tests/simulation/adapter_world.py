"""The toy cluster for adapters: revisions on shared pods, gathered by the real ``gathering``.

A host's pods start with a base model, are told which adapters they should hold, and load each in a
few seconds. A model's faults are an adapter's here: one that is never ready cannot be fetched, one
that is refused has another digest, one that crashes takes the engine with it.
"""

from dataclasses import dataclass, field
from datetime import datetime
from math import ceil
from typing import Any

from tests.simulation.rollout_parts import GOOD, KEY, Model, Pod, Revision
from tests.simulation.rollout_world import RolloutWorld
from tunesmith_api.adapters import (
    AdapterPhase,
    AdaptersReport,
    HeldAdapter,
    WantedAdapter,
    WantedAdapters,
)
from tunesmith_api.deploymentstatus import RolloutStatus
from tunesmith_api.modelversion import ModelVersion
from tunesmith_api.rollout import CapacityMode
from tunesmith_operator.planning.gathering import (
    SeenObjects,
    SeenRecord,
    SeenWorkload,
    gather_hosts,
    gather_revisions,
)
from tunesmith_operator.planning.hosting import assumed
from tunesmith_operator.planning.serving import (
    SeenRevision,
    SeenRouter,
    ServingObservation,
    ServingPod,
)
from tunesmith_operator.planning.serving_actions import (
    DeleteHost,
    EnsureRevision,
    HoldAdapters,
    RetireRevision,
    ScaleHost,
    ScaleRevision,
    ServingAction,
)

OTHER_BASE = 5
"""Number of the version that was trained on another base model than all others."""
LOADS_IN = 2


@dataclass
class HostPod(Pod):
    """A pod that adapters share."""

    name: str = ""
    told: WantedAdapters | None = None
    loading: dict[str, int] = field(default_factory=dict)
    """Seconds until each adapter is loaded."""
    last_restart: datetime | None = None
    is_silent: bool = False

    def holds(self, name: str) -> bool:
        return self.loading.get(name, 1) <= 0

    def tell(self, wanted: WantedAdapters) -> None:
        self.told = wanted
        named = [a.revision for a in wanted.adapters]
        self.loading = {name: self.loading.get(name, LOADS_IN) for name in named}


@dataclass
class Host:
    """A Deployment of such pods."""

    name: str
    replicas: int
    pods: list[HostPod] = field(default_factory=list)


@dataclass
class Guest(Revision):
    """A revision that is an adapter."""

    host: Host = field(default_factory=lambda: Host("", 0))

    @property
    def ready(self) -> int:
        return sum(p.is_ready and p.holds(self.name) for p in self.host.pods)

    @property
    def is_whole(self) -> bool:
        return 1 <= self.host.replicas <= self.ready


class AdapterWorld(RolloutWorld):
    """A deployment with delivery Adapter."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.hosts: dict[str, Host] = {}
        self.guests: dict[str, Guest] = {}
        self.born: list[str] = []
        """Every pod that ever was, in order."""
        self.looked: object = None
        """What all pods held when the operator looked last."""
        self.set_spec(delivery="Adapter", engine={"type": "VLLM"})

    @property
    def versions(self) -> tuple[ModelVersion, ...]:
        return VERSIONS

    # -- what the operator sees -------------------------------------------------------------------

    def objects(self) -> SeenObjects:
        guests = self.guests.values()
        pods = [self.pod(host, pod) for host in self.hosts.values() for pod in host.pods]
        return SeenObjects(
            records=[
                SeenRecord(g.name, g.name, "u", g.digest, g.number, g.template) for g in guests
            ],
            workloads=[
                SeenWorkload(h.name, h.name, "u", h.replicas, is_host=True)
                for h in self.hosts.values()
            ],
            pods=pods,
            services=frozenset(g.name for g in guests),
            reports={
                pod.name: self.report(pod)
                for host in self.hosts.values()
                for pod in host.pods
                if not pod.is_silent and pod.starts_in <= 1
            },
        )

    def pod(self, host: Host, pod: HostPod) -> ServingPod:
        return ServingPod(
            name=pod.name,
            uid=pod.name,
            revision=0,
            host=host.name,
            address="127.0.0.1" if pod.starts_in <= 1 else "",
            is_ready=pod.is_ready,
            restarts=pod.restarts,
            last_restart=pod.last_restart,
        )

    def report(self, pod: HostPod) -> AdaptersReport:
        wanted = pod.told.adapters if pod.told else ()
        return AdaptersReport(wanted=pod.told, held=tuple(self.held(pod, a) for a in wanted))

    def held(self, pod: HostPod, adapter: WantedAdapter) -> HeldAdapter:
        model = self.model(self.guests[adapter.revision])
        phase, message = AdapterPhase.LOADING, ""
        if pod.holds(adapter.revision):
            phase = AdapterPhase.LOADED
        elif model.refused:
            phase, message = AdapterPhase.REFUSED, f"ModelRefused: {model.refused}"
        elif model.never_ready:
            phase, message = AdapterPhase.FAILED, model.never_ready
        return HeldAdapter(
            revision=adapter.revision, digest=adapter.digest, phase=phase, message=message
        )

    def observe(self) -> ServingObservation:
        objects = self.objects()
        self.looked = self.holdings()
        meta = self.deployment.metadata
        revisions = gather_revisions(meta, objects, self.assumed())
        return ServingObservation(
            deployment=self.deployment,
            versions=self.versions,
            revisions=revisions,
            hosts=gather_hosts(meta, objects),
            router=None
            if self.router_silent_for
            else SeenRouter(self.traffic, self.is_settled, self.counts()),
            sampling=self.delivered(),
            was_away=self.looks.was_away(KEY, self.now, self.term),
        )

    def assumed(self) -> frozenset[str]:
        return assumed(self.status, None if self.router_silent_for else self.traffic)

    def seen(self, revision: Revision) -> SeenRevision:
        found = gather_revisions(self.deployment.metadata, self.objects(), self.assumed())
        return next(r for r in found if r.name == revision.name)

    def what_watches_show(self) -> object:
        """Pods and whether they are ready; never what they hold."""
        pods = {h.name: [(p.name, p.is_ready, p.restarts) for p in h.pods] for h in self.all_hosts}
        generation = self.deployment.metadata.generation
        return generation, {h.name: h.replicas for h in self.all_hosts}, pods

    def holdings(self) -> object:
        return [(p.name, n, p.holds(n)) for h in self.all_hosts for p in h.pods for n in p.loading]

    @property
    def all_hosts(self) -> list[Host]:
        return list(self.hosts.values())

    # -- what it does -----------------------------------------------------------------------------

    def act(self, action: ServingAction) -> None:
        match action:
            case ScaleHost(name=name, replicas=replicas):
                self.scale_host(name, replicas)
            case HoldAdapters(name=name, adapters=adapters):
                self.hold(name, adapters)
            case DeleteHost(name=name):
                for guest in self.guests.values():
                    if guest.host.name == name:
                        self.check_idle(guest.name)
                self.transcript.append("delete the pods of a base model")
                gone = self.hosts.pop(name)
                gone.replicas, gone.pods = 0, []
            case ScaleRevision() | RetireRevision():
                raise AssertionError(f"no adapter has pods of its own: {action}")
            case _:
                super().act(action)
                self.guests = {n: g for n, g in self.guests.items() if n in self.revisions}

    def ensure(self, action: EnsureRevision) -> None:
        assert action.host
        host = self.hosts.get(action.host)
        if host is None:
            host = self.hosts[action.host] = Host(action.host, 0)
            self.transcript.append("create the pods of a base model")
            self.scale_host(action.host, action.replicas)
        if action.name not in self.revisions:
            self.transcript.append(f"create {action.number}")
            guest = Guest(action.name, action.number, action.digest, action.template, 0, host=host)
            self.revisions[action.name] = self.guests[action.name] = guest
        for guest in self.guests.values():
            # A host that was deleted comes back under its name.
            if guest.host.name == host.name:
                guest.host = host

    def scale_host(self, name: str, replicas: int) -> None:
        host = self.hosts[name]
        if replicas < host.replicas:
            shares = sum(
                self.traffic.share(g.name)
                for g in self.guests.values()
                if self.traffic and g.host is host
            )
            asked = self.deployment.spec.replicas
            is_lean = self.deployment.spec.rollout.capacity.mode is CapacityMode.NO_SURGE
            # As for pods of its own: one changes hands, and weights are whole percents.
            needed = ceil(asked * (shares - 1) / 100) - 1 if is_lean else ceil(asked * shares / 100)
            assert replicas >= needed, f"{name} was shrunk below its traffic"
        self.transcript.append(f"pods of the base model: {replicas}")
        host.replicas = replicas
        while len(host.pods) > replicas:
            host.pods.remove(min(host.pods, key=lambda p: p.is_ready))
        while len(host.pods) < replicas:
            host.pods.append(self.new_pod())

    def new_pod(self) -> HostPod:
        pod = HostPod(name=f"pod-{len(self.born)}")
        self.born.append(pod.name)
        return pod

    def hold(self, name: str, wanted: WantedAdapters) -> None:
        named = [a.revision for a in wanted.adapters]
        numbers = sorted(self.guests[n].number for n in named)
        line = f"hold {', '.join(map(str, numbers))}"
        if self.transcript[-1] != line:
            self.transcript.append(line)
        assert len({a.port for a in wanted.adapters}) == len(wanted.adapters)
        for pod in self.hosts[name].pods:
            if pod.starts_in > 1 or pod.is_silent:
                continue
            for gone in set(pod.loading) - set(named):
                self.check_idle(gone)
            pod.tell(wanted)

    # -- the cluster ------------------------------------------------------------------------------

    def turn(self) -> None:
        if self.chance(self.faults.files_lost):
            self.lose_files(self.rng.randint(1, 5))
        for host in self.all_hosts:
            for place, pod in enumerate(host.pods):
                if self.is_cluster_away:
                    continue
                if self.chance(self.faults.evict):
                    host.pods[place] = self.new_pod()
                    self.evicted = self.now
                else:
                    self.live_on(pod)
        super().turn()

    def live(self, revision: Revision) -> None:
        """Its pods are not its own."""

    def live_on(self, pod: HostPod) -> None:
        pod.starts_in = max(0, pod.starts_in - 1)
        for name in pod.loading:
            model = self.model(self.guests[name]) if name in self.guests else GOOD
            if pod.starts_in == 0 and not (model.never_ready or model.refused):
                pod.loading[name] -= 1
        needed = [a.revision for a in pod.told.adapters if a.is_required] if pod.told else None
        pod.is_ready = (
            pod.starts_in == 0 and needed is not None and all(pod.holds(n) for n in needed)
        )
        self.crash(pod)

    def crash(self, pod: HostPod) -> None:
        """An adapter with traffic may end the engine, and with it all adapters."""
        for name in list(pod.loading):
            guest = self.guests.get(name)
            share = self.traffic.share(name) if self.traffic else 0
            model = self.model(guest) if guest else GOOD
            if not (pod.is_ready and share and model.crashes_after):
                continue
            pod.lived += 1
            if pod.lived >= model.crashes_after:
                pod.lived, pod.is_ready, pod.starts_in = 0, False, 2
                pod.restarts += 1
                pod.last_restart = self.now
                # Whoever shares the pods is hit as by an eviction, however good it is itself.
                self.evicted = self.now
                pod.loading = dict.fromkeys(pod.loading, LOADS_IN)

    def lose_files(self, version: int) -> None:
        """Somebody deletes an adapter's files in S3; pods that have it keep it."""
        self.models[version] = Model(never_ready="S3: 404")

    def replace_pods(self, *places: int) -> None:
        for host in self.all_hosts:
            for place in places or range(len(host.pods)):
                host.pods[place] = self.new_pod()
        self.evicted = self.now

    # -- what must never be -----------------------------------------------------------------------

    def check(self) -> None:
        """Nothing tells the operator that an adapter was loaded: it has to look."""
        if self.looked == self.holdings():
            super().check()

    def may_leave(self, losers: list[Revision]) -> bool:
        """Stable whose files are gone cannot have more pods than it has, and carries all so far."""
        return super().may_leave(losers) or any(self.model(r).never_ready for r in losers)

    def check_rise(self, rollout: RolloutStatus, share: int) -> None:
        super().check_rise(rollout, share)
        canary, stable = (
            self.guests.get(role.name) if role else None
            for role in (self.status.canary, self.status.stable)
        )
        if canary is None or stable is None or canary.host is not stable.host:
            return
        wanted = self.deployment.spec.replicas
        # Pods that stable's own adapter ends all the time, or that cannot get it, are never ready
        # all at once.
        is_broken = rollout.stable_crash_loops or self.model(stable).never_ready
        missing = min(wanted, stable.ready if is_broken else wanted) - canary.ready
        assert missing <= 0 or stable.ready == 0, f"{missing} pods do not hold it"


def _version(number: int) -> ModelVersion:
    files = {
        "format": "Adapter",
        "uri": f"s3://models/v{number}/",
        "digest": f"sha256:{number:064d}",
        "sizeBytes": 1,
    }
    base = {"uri": "hf://org/other" if number == OTHER_BASE else "hf://org/base", "revision": "a"}
    spec: dict[str, Any] = {"model": "m", "version": str(number), "artifacts": [files]}
    return ModelVersion.model_validate(
        {"metadata": {"name": f"m-v{number}"}, "spec": spec | {"baseModel": base}}
    )


VERSIONS = tuple(_version(n) for n in range(1, 7))
