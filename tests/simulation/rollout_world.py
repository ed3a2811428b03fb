"""A toy cluster for the real ``decide_rollout``: models misbehave, pods vanish, operators die.

It plays what reconcile/ will do (observe, decide, write the status, act) on plain objects. Woken
only by what watches would show or by ``look_again``. What it must never see is in ``check`` and
beside the actions; what the canary's weight may be is kept by an oracle of its own that knows
how good each model really is and never asks the planner.
"""

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from math import ceil
from typing import Any

from tunesmith_api.deploymentstatus import ModelDeploymentStatus, RollbackReason, RolloutStatus
from tunesmith_api.modeldeployment import ModelDeployment
from tunesmith_api.modelversion import ModelVersion
from tunesmith_api.revision import RevisionTemplate
from tunesmith_api.rollout import Approval, CapacityMode
from tunesmith_operator.kube.known import Key
from tunesmith_operator.planning.actions import Emit
from tunesmith_operator.planning.analysis import is_sample_due
from tunesmith_operator.planning.revisions import plan_digest, revision_digest
from tunesmith_operator.planning.rollout import decide_rollout
from tunesmith_operator.planning.serving import (
    MetricSample,
    RevisionCounts,
    Sampling,
    SeenRevision,
    SeenRouter,
    ServingObservation,
    Traffic,
)
from tunesmith_operator.planning.serving_actions import (
    DeleteRevision,
    EnsureRevision,
    Notify,
    RetireRevision,
    ScaleRevision,
    ServingAction,
    ServingDecision,
    SetTraffic,
)
from tunesmith_operator.planning.sources import resolve
from tunesmith_operator.reconcile.looking import Looks

START = datetime(2026, 1, 1, tzinfo=UTC)
REQUESTS_PER_SECOND = 40
MEASURING_TAKES = timedelta(milliseconds=200)
KEY = Key(ModelDeployment.KIND, "team", "chat")
RESYNC = timedelta(seconds=300)
RULES: dict[str, Any] = {
    "steps": [{"weight": 25, "holdSeconds": 10}, {"weight": 50, "holdSeconds": 10}],
    "readyTimeoutSeconds": 40,
    "analysis": {
        "intervalSeconds": 5,
        "window": 5,
        "failureLimit": 3,
        "minRequests": 20,
        "dataTimeoutSeconds": 60,
        "metrics": [
            {"name": "error-rate", "builtin": "ErrorRate", "max": "0.05"},
            {
                "name": "latency",
                "builtin": "LatencyP95",
                "comparedWith": "Stable",
                "maxRegressionPercent": 50,
                "max": "2",
            },
        ],
    },
    "rollback": {"keepStableWarmSeconds": 60},
}
GOLDEN = {"name": "quality", "goldenPrompts": {"configMapRef": {"name": "golden"}}, "min": "0.9"}


@dataclass(frozen=True)
class Model:
    """How a model version really behaves."""

    error_rate: float = 0.0
    latency: str = "0.5"
    quality: str = "0.95"
    crashes_after: int = 0
    """Seconds a pod lives once it is ready; 0 is for ever."""
    never_ready: str = ""
    refused: str = ""


GOOD = Model()


@dataclass(frozen=True)
class Faults:
    """How likely each thing is to go wrong, per second."""

    evict: float = 0.0
    operator_dies: float = 0.0
    conflict: float = 0.0
    answer_lost: float = 0.0
    away: float = 0.0
    provider: float = 0.0
    no_traffic: float = 0.0
    router_silent: float = 0.0
    router_slow: float = 0.0
    router_edited: float = 0.0
    spec_changes: float = 0.0
    scaled: float = 0.0
    paused: float = 0.0
    plan_changes: float = 0.0
    approved: float = 0.0
    slow_samples: float = 0.0


@dataclass
class Pod:
    """A pod of a revision."""

    starts_in: int = 3
    is_ready: bool = False
    restarts: int = 0
    lived: int = 0


@dataclass
class Revision:
    """A revision's record and pods."""

    name: str
    number: int
    digest: str
    template: RevisionTemplate
    replicas: int
    pods: list[Pod] = field(default_factory=list)
    requests: int = 0
    failed: int = 0
    consecutive: int = 0
    recent: deque[int] = field(default_factory=lambda: deque(maxlen=25))

    @property
    def ready(self) -> int:
        return sum(p.is_ready for p in self.pods)

    @property
    def is_whole(self) -> bool:
        return 1 <= self.replicas <= self.ready


class OperatorDied(Exception):
    """The process ended in the middle of a pass."""


@dataclass
class RolloutWorld:
    seed: int
    models: dict[int, Model] = field(default_factory=dict)
    """By number of the version; good where it is not said."""
    rules: dict[str, Any] = field(default_factory=dict)
    """Over RULES, for spec.rollout."""
    replicas: int = 4
    faults: Faults = field(default_factory=Faults)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.now = START
        spec = {
            "source": {"modelVersion": "m-v1"},
            "replicas": self.replicas,
            "rollout": {**RULES, **self.rules},
        }
        self.deployment = ModelDeployment.model_validate(
            {"metadata": {"name": "chat", "uid": "u", "generation": 1}, "spec": spec}
        )
        self.revisions: dict[str, Revision] = {}
        self.traffic: Traffic | None = None
        self.traffic_seen: Traffic | None = None
        self.is_settled = self.was_settled = True
        self.was_silent = False
        self.router_silent_for = self.away_for = self.dry_for = self.provider_sick_for = 0
        self.provider_says: Callable[[], MetricSample] | None = None
        self.events: list[Emit] = []
        self.notes: list[Notify] = []
        self.transcript: list[str] = []
        self.weights: list[tuple[float, int]] = []
        self.earned: dict[tuple[str, datetime], int] = {}
        """The oracle: up to which step a roll-out has had a really good sample."""
        self.watched: object = None
        self.due: datetime | None = START
        self.looks = Looks()
        self.measuring: tuple[datetime, Sampling] | None = None
        """When the measurement under way is done, and what it gives."""
        self.is_cluster_away = False
        self.blinded: datetime | None = None
        """When a provider was sick, or there was no traffic to measure."""
        self.evicted: datetime | None = None
        self.is_caught_up = False
        self.passes = self.samples = 0
        self.unserved = 0
        """Requests that were sent to a revision without ready pods."""

    # -- what stands in for people ----------------------------------------------------------------

    def set_spec(self, **changes: Any) -> None:
        spec = self.deployment.spec.model_dump(mode="json", by_alias=True, exclude_none=True)
        spec |= changes
        meta = self.deployment.metadata
        changed = ModelDeployment.model_validate(
            {
                "metadata": meta.model_copy(update={"generation": meta.generation + 1}),
                "spec": spec,
                "status": self.status,
            }
        )
        if changed.spec != self.deployment.spec:
            self.deployment = changed

    def offer(self, version: int) -> None:
        self.transcript.append(f"spec asks for version {version}")
        self.set_spec(source={"modelVersion": f"m-v{version}"})

    def delete(self) -> None:
        """kubectl delete: it is there until the garbage collector has taken its children."""
        meta = self.deployment.metadata.model_copy(update={"deletion_timestamp": self.now})
        self.deployment = self.deployment.model_copy(update={"metadata": meta})
        self.due = self.now

    def set_rules(self, **rules: Any) -> None:
        now = self.deployment.spec.rollout
        old = now.model_dump(mode="json", by_alias=True, exclude_none=True)
        self.set_spec(rollout=old | rules)

    # -- the operator -----------------------------------------------------------------------------

    @property
    def status(self) -> ModelDeploymentStatus:
        return self.deployment.status

    @property
    def rollout(self) -> RolloutStatus:
        assert self.status.rollout is not None
        return self.status.rollout

    @property
    def versions(self) -> tuple[ModelVersion, ...]:
        return VERSIONS

    def wanted(self) -> str:
        template = resolve(self.deployment.spec, self.versions)
        assert isinstance(template, RevisionTemplate)
        return revision_digest(template)

    def observe(self) -> ServingObservation:
        counts = tuple(
            RevisionCounts(r.name, r.requests, r.consecutive) for r in self.revisions.values()
        )
        return ServingObservation(
            deployment=self.deployment,
            versions=self.versions,
            revisions=tuple(self.seen(r) for r in self.revisions.values()),
            router=None
            if self.router_silent_for
            else SeenRouter(self.traffic, self.is_settled, counts),
            sampling=self.delivered(),
            was_away=self.looks.was_away(KEY, self.now),
        )

    def delivered(self) -> Sampling | None:
        """Give what was measured beside the passes, once, to the first one after it is done."""
        if self.measuring is None or self.now < self.measuring[0]:
            return None
        sampling, self.measuring = self.measuring[1], None
        rollout = self.status.rollout
        return sampling if rollout and sampling.digest == rollout.digest else None

    def begin_to_measure(self) -> None:
        """Start the sample that is due; a later pass gets it, as from reconcile/measuring.py."""
        rollout, role = self.status.rollout, self.status.canary
        canary = self.revisions.get(role.name) if role else None
        if rollout is None or rollout.abort or canary is None or self.measuring is not None:
            return
        analysis = self.deployment.spec.rollout.analysis
        if is_sample_due(rollout, analysis, self.now, self.seen(canary)):
            takes = MEASURING_TAKES
            if self.chance(self.faults.slow_samples):
                takes = timedelta(seconds=self.rng.randint(1, 8))
            self.measuring = self.now + takes, self.measure(rollout)

    def die(self) -> None:
        """End the process: all that is not in the status is lost, and it starts again soon."""
        self.looks, self.measuring = Looks(), None
        stable = self.revisions.get(self.status.stable.name) if self.status.stable else None
        if stable is not None:
            # Stable's pods count from when they are first seen.
            stable.recent.clear()

    def go_away(self, seconds: int, *, with_api_server: bool) -> None:
        """The operator is gone; with the API server no pod is started or replaced either."""
        self.away_for, self.due, self.is_cluster_away = seconds, None, with_api_server
        if not with_api_server:
            self.die()

    def seen(self, revision: Revision) -> SeenRevision:
        model = self.model(revision)
        return SeenRevision(
            name=revision.name,
            uid=revision.name,
            digest=revision.digest,
            number=revision.number,
            template=revision.template,
            replicas=revision.replicas,
            ready_replicas=revision.ready,
            restarts=sum(p.restarts for p in revision.pods),
            waiting=model.never_ready,
            refusal=model.refused if revision.pods else "",
        )

    def model(self, revision: Revision) -> Model:
        return self.models.get(int(revision.template.version.removeprefix("m-v")), GOOD)

    def measure(self, rollout: RolloutStatus) -> Sampling:
        self.samples += 1
        canary = next(r for r in self.revisions.values() if r.digest == rollout.digest)
        stable = self.revisions.get(self.status.stable.name) if self.status.stable else None
        samples = tuple(
            self.value_of(m.name, canary, stable)
            for m in self.deployment.spec.rollout.analysis.metrics
        )
        if self.is_really_good(samples, stable):
            key = (rollout.digest, rollout.start_time)
            self.earned[key] = max(self.earned.get(key, -1), rollout.step)
        return Sampling(rollout.digest, self.now, samples)

    def value_of(self, name: str, canary: Revision, stable: Revision | None) -> MetricSample:
        if self.provider_sick_for and self.provider_says is not None:
            return replace(self.provider_says(), name=name)
        good, known = self.model(canary), self.model(stable) if stable else None
        if name == "quality":
            return MetricSample(name, good.quality)
        value = str(good.error_rate) if name == "error-rate" else good.latency
        requests = sum(canary.recent)
        if known is None or stable is None:
            return MetricSample(name, value, requests=requests)
        base = str(known.error_rate) if name == "error-rate" else known.latency
        return MetricSample(name, value, base, requests, sum(stable.recent))

    def is_really_good(self, samples: tuple[MetricSample, ...], stable: Revision | None) -> bool:
        """What no planner may call a Pass is not one here either."""
        limits = {"error-rate": 0.05, "latency": 2.0}
        least = self.deployment.spec.rollout.analysis.min_requests
        for sample in samples:
            if sample.error or (sample.requests is not None and sample.requests < least):
                return False
            try:
                value = float(sample.value)
            except ValueError:
                return False
            if sample.name == "quality":
                if not value >= 0.9:
                    return False
            elif not value <= limits[sample.name]:
                return False
        return True

    def what_watches_show(self) -> object:
        """Everything but the status and the router: own writes and counters wake nobody."""
        pods = {r.name: (r.replicas, r.ready) for r in self.revisions.values()}
        return self.deployment.spec, pods, [self.seen(r).restarts for r in self.revisions.values()]

    def wake(self, until: datetime) -> None:
        """Make all passes that are due before the second is over."""
        for _ in range(60):
            is_due = self.due is not None and self.due <= until
            if self.away_for or not (is_due or self.watched != self.what_watches_show()):
                return
            if self.due is not None and is_due:
                self.now = max(self.now, self.due)
            self.one_pass()
        raise AssertionError(f"sixty passes within a second (seed {self.seed})")

    def one_pass(self) -> ServingDecision:
        self.passes += 1
        seen = self.observe()
        self.was_silent = self.router_silent_for > 0
        self.traffic_seen, self.was_settled = self.traffic, self.is_settled
        decision = decide_rollout(seen, self.now)
        if self.passes % 4 == 0:
            assert decision == decide_rollout(seen, self.now), "the same snapshot, not the same"
        self.is_caught_up = False
        self.watched = self.what_watches_show()
        self.due = None if decision.look_again is None else self.now + decision.look_again
        try:
            self.write(decision.status)
            for action in decision.actions:
                self.maybe(self.faults.operator_dies)
                self.act(action)
                self.maybe(self.faults.answer_lost)
        except OperatorDied:
            self.transcript.append("operator died")
            self.die()
            self.due = self.now + timedelta(seconds=2)
            return decision
        self.looks.promise(KEY, self.now + min(RESYNC, decision.look_again or RESYNC))
        self.begin_to_measure()
        if self.measuring is not None:
            self.due = min(self.measuring[0], self.due or self.measuring[0])
        self.is_caught_up = True
        return decision

    def maybe(self, probability: float) -> None:
        if self.chance(probability):
            raise OperatorDied

    def chance(self, probability: float) -> bool:
        return probability > 0 and self.rng.random() < probability

    def write(self, new: ModelDeploymentStatus) -> None:
        """The status is written first; a conflict ends the pass before anything was done."""
        self.maybe(self.faults.conflict)
        self.maybe(self.faults.operator_dies)
        said = new.model_dump_json(by_alias=True, exclude_none=True)
        new = ModelDeploymentStatus.model_validate_json(said)
        self.check_status(self.status, new)
        self.check_rejection(self.status, new)
        self.deployment = self.deployment.model_copy(update={"status": new})

    def act(self, action: ServingAction) -> None:
        match action:
            case EnsureRevision():
                self.ensure(action)
            case ScaleRevision(name=name, replicas=replicas):
                self.scale(name, replicas)
            case RetireRevision(name=name):
                self.check_idle(name)
                self.scale(name, 0)
            case DeleteRevision(name=name):
                self.check_idle(name)
                self.transcript.append(f"delete {self.revisions[name].number}")
                del self.revisions[name]
            case SetTraffic(traffic=traffic):
                self.set_traffic(traffic)
            case Notify():
                self.notes.append(action)
            case Emit():
                self.events.append(action)

    def ensure(self, action: EnsureRevision) -> None:
        assert revision_digest(action.template) == action.digest
        old = self.revisions.get(action.name)
        if old is None:
            assert all(r.number != action.number for r in self.revisions.values())
            self.transcript.append(f"create {action.number}")
            old = Revision(action.name, action.number, action.digest, action.template, 0)
            self.revisions[action.name] = old
        self.scale(action.name, action.replicas)

    def scale(self, name: str, replicas: int) -> None:
        revision = self.revisions[name]
        if replicas != revision.replicas:
            self.transcript.append(f"scale {revision.number} to {replicas}")
        self.check_scale(revision, replicas)
        revision.replicas = replicas
        while len(revision.pods) > replicas:
            revision.pods.remove(min(revision.pods, key=lambda p: p.is_ready))
        while len(revision.pods) < replicas:
            revision.pods.append(Pod())

    def set_traffic(self, traffic: Traffic) -> None:
        assert not self.router_silent_for
        self.check_traffic(traffic)
        parts = [f"{self.number(traffic.main)}: {100 - traffic.weight}"]
        if traffic.canary:
            mirrored = f" mirror {traffic.mirror_percent}" if traffic.mirror_percent else ""
            parts.append(f"{self.number(traffic.canary)}: {traffic.weight}{mirrored}")
        self.transcript.append("traffic " + ", ".join(parts))
        for revision in self.revisions.values():
            if traffic.touches(revision.name) and not (
                self.traffic and self.traffic.touches(revision.name)
            ):
                revision.requests = revision.consecutive = 0
                revision.recent.clear()
        self.traffic = traffic
        self.weights.append(((self.now - START).total_seconds(), traffic.weight))
        self.is_settled = not self.chance(self.faults.router_slow)

    def number(self, name: str) -> int:
        return self.revisions[name].number

    # -- the cluster ------------------------------------------------------------------------------

    def turn(self) -> None:
        """A second passes: things happen, requests flow, the operator looks."""
        end = self.now.replace(microsecond=0) + timedelta(seconds=1)
        self.now = end
        self.disturb()
        for revision in self.revisions.values():
            self.live(revision)
        self.flow()
        self.wake(end + timedelta(milliseconds=999))
        self.check()

    def disturb(self) -> None:
        self.is_settled = self.is_settled or self.chance(0.7)
        for clock in ("router_silent_for", "away_for", "dry_for", "provider_sick_for"):
            left = max(0, getattr(self, clock) - 1)
            if clock == "away_for" and getattr(self, clock) and not left:
                self.due, self.is_cluster_away = self.now, False
            setattr(self, clock, left)
        if self.dry_for or self.provider_sick_for:
            self.blinded = self.now
        f = self.faults
        if self.chance(f.router_silent):
            self.router_silent_for = self.rng.randint(1, 8)
        if self.chance(f.away):
            seconds = self.rng.randint(5, 120)
            self.go_away(seconds, with_api_server=self.chance(0.5))
        if self.chance(f.no_traffic):
            self.dry_for = self.rng.randint(5, 90)
        if self.chance(f.provider):
            self.fail_provider(self.rng.randint(5, 90), self.rng.choice(SICK))
        if self.chance(f.router_edited) and self.traffic and self.traffic.canary:
            # Only downwards: an edit that raises a weight is somebody's wish, not our rule.
            self.traffic = Traffic(main=self.traffic.main)
            self.due = self.now
        self.edit_spec(f)

    def edit_spec(self, f: Faults) -> None:
        if self.chance(f.spec_changes):
            self.offer(self.rng.randint(1, 6))
        if self.chance(f.scaled):
            self.set_spec(replicas=self.rng.randint(2, 6))
        if self.chance(f.paused):
            self.set_spec(paused=not self.deployment.spec.paused)
        if self.chance(f.plan_changes):
            self.set_rules(failFast={"restarts": 2, "consecutiveErrors": self.rng.randint(10, 30)})

        if self.chance(f.approved) and self.status.canary is not None:
            self.set_rules(approvedDigest=self.status.canary.digest)

    def fail_provider(self, seconds: int, says: Callable[[], MetricSample]) -> None:
        self.provider_sick_for, self.provider_says = seconds, says

    def live(self, revision: Revision) -> None:
        model = self.model(revision)
        for place, pod in enumerate(revision.pods):
            if not self.is_cluster_away and self.chance(self.faults.evict):
                revision.pods[place] = Pod()
                self.evicted = self.now
            elif pod.is_ready:
                pod.lived += 1
                if model.crashes_after and pod.lived >= model.crashes_after:
                    revision.pods[place] = Pod(starts_in=4, restarts=pod.restarts + 1)
            elif not (model.never_ready or model.refused or self.is_cluster_away):
                pod.starts_in -= 1
                pod.is_ready = pod.starts_in <= 0

    def flow(self) -> None:
        """Send a second's requests where the router sends them."""
        rate = 0 if self.dry_for else REQUESTS_PER_SECOND
        for revision in self.revisions.values():
            share = self.traffic.share(revision.name) if self.traffic else 0
            mirror = 0
            if self.traffic and revision.name == self.traffic.canary:
                mirror = self.traffic.mirror_percent
            sent = rate * (share or mirror) // 100
            revision.recent.append(sent)
            revision.requests += sent
            if not sent:
                continue
            if share and revision.ready == 0:
                self.unserved += sent
            bad = sent if revision.ready == 0 else round(sent * self.model(revision).error_rate)
            revision.failed += bad
            revision.consecutive = revision.consecutive + sent if bad == sent else 0

    # -- what must never be -----------------------------------------------------------------------

    def check(self) -> None:
        """At the end of a turn in which the operator could look and act."""
        # A silent router is asked again only every other second.
        is_heard = not self.router_silent_for and not self.was_silent
        if self.deployment.metadata.deletion_timestamp is not None:
            return
        can_act = self.is_caught_up and not self.away_for and is_heard
        if not can_act or self.traffic is None or self.watched != self.what_watches_show():
            return
        for revision in self.revisions.values():
            if self.traffic.share(revision.name) and revision.ready == 0:
                healthy = [r.number for r in self.revisions.values() if r.is_whole]
                assert not healthy, f"traffic rests on {revision.number}, {healthy} are healthy"

    def check_idle(self, name: str) -> None:
        """What goes must have been seen idle before: a router may be slow to let go of it."""
        for traffic in (self.traffic, self.traffic_seen):
            assert traffic is None or not traffic.touches(name), "it may have requests"
        assert self.was_settled, "a router pod may still send it requests"

    def check_scale(self, revision: Revision, replicas: int) -> None:
        if replicas >= revision.replicas:
            return
        share = self.traffic.share(revision.name) if self.traffic else 0
        asked = self.deployment.spec.replicas
        is_lean = self.deployment.spec.rollout.capacity.mode is CapacityMode.NO_SURGE
        # Where pods change hands one is on its way, and weights are whole percents.
        needed = ceil(asked * (share - 1) / 100) - 1 if is_lean else ceil(asked * share / 100)
        assert replicas >= needed, f"{revision.number} was shrunk below its traffic"
        assert replicas >= 1 or not share, f"the last pod of {revision.number} went with traffic"
        stable = self.status.stable
        if stable is not None and revision.name == stable.name and not is_lean:
            assert replicas >= asked, "stable could not take its traffic back"

    def check_traffic(self, new: Traffic) -> None:
        old = self.traffic or Traffic(main="")
        losers = [r for r in self.revisions.values() if new.share(r.name) < old.share(r.name)]
        rollout = self.status.rollout
        rejected = {r.digest for r in self.status.rejected}
        # What serves nobody, or badly, is left for whatever is there.
        is_escape = not old.main or any(r.ready == 0 or r.digest in rejected for r in losers)
        for revision in self.revisions.values():
            if new.share(revision.name) <= old.share(revision.name):
                continue
            assert revision.ready > 0, f"traffic was sent to {revision.number} without pods"
            is_new = old.share(revision.name) == 0
            is_enough = revision.ready >= self.pods_for(new.share(revision.name))
            assert not is_new or is_enough or revision.is_whole or is_escape, "not fully ready"
            canary = self.status.canary
            if canary is not None and rollout is not None and canary.name == revision.name:
                self.check_rise(rollout, new.share(revision.name))

    def pods_for(self, share: int) -> int:
        spec = self.deployment.spec
        is_lean = spec.rollout.capacity.mode is CapacityMode.NO_SURGE
        return ceil(spec.replicas * share / 100) - (1 if is_lean else 0)

    def check_rise(self, rollout: RolloutStatus, share: int) -> None:
        """The canary's share rises only to what really good samples have earned it."""
        stable = self.revisions.get(self.status.stable.name) if self.status.stable else None
        if rollout.skips_analysis or stable is None or stable.ready == 0:
            return
        steps = [s.weight for s in self.deployment.spec.rollout.steps] + [100]
        spec = self.deployment.spec.rollout
        if share == 100 and spec.approval is Approval.MANUAL and stable.is_whole:
            assert spec.approved_digest == rollout.digest, "nobody approved it"
        needed = next(i for i, weight in enumerate(steps) if share <= weight)
        earned = self.earned.get((rollout.digest, rollout.start_time), -1)
        # An outage of stable may end while the stand-in still carries all; it earned nothing then.
        assert needed - 1 <= earned or (stable and not stable.is_whole), (
            f"{share} % needs a Pass of step {needed - 1}, had {earned}"
        )

    def check_status(self, old: ModelDeploymentStatus, new: ModelDeploymentStatus) -> None:
        assert new.observed_generation == self.deployment.metadata.generation
        assert len(new.history) <= self.deployment.spec.revision_history_limit
        digests = [h.digest for h in new.history]
        assert len(digests) == len(set(digests))
        assert new.last_revision >= old.last_revision
        if new.rollout and (not old.rollout or old.rollout.digest != new.rollout.digest):
            held = {(r.digest, r.plan) for r in old.rejected}
            key = (new.rollout.digest, plan_digest(self.deployment.spec.rollout))
            assert old.stable is None or key not in held, "a rejected revision is tried again"
        if old.rollout and old.rollout.abort and new.rollout:
            is_same = old.rollout.start_time == new.rollout.start_time
            assert not is_same or new.rollout.abort, "a rejection was forgotten"
        messages = sum(len(c.message) for c in new.conditions)
        assert messages < 6000

    def check_rejection(self, old: ModelDeploymentStatus, new: ModelDeploymentStatus) -> None:
        """A good canary goes only for what really happened to it since its roll-out began."""
        rollout, role = new.rollout, new.canary
        if rollout is None or rollout.abort is None or role is None or old.rollout is None:
            return
        revision = self.revisions.get(role.name)
        if old.rollout.abort is None:
            assert self.deployment.spec.rollout.rollback.automatic, "nobody asked for a rollback"
        if old.rollout.abort is not None or (revision and self.model(revision) != GOOD):
            return
        if rollout.abort.reason in (
            RollbackReason.INSUFFICIENT_DATA,
            RollbackReason.PROVIDER_ERROR,
        ):
            happened = self.blinded
        else:
            happened = self.evicted
        assert happened is not None, f"a good canary was rejected: {rollout.abort.message}"
        assert happened >= rollout.start_time, f"a good canary was rejected: {rollout.abort}"

    def is_settled_down(self) -> bool:
        """Whether nothing is left to do: wanted is served, or held, and no pods are left over."""
        status = self.status
        if status.rollout is not None or status.stable is None or not self.is_caught_up:
            return False
        if status.observed_generation != self.deployment.metadata.generation:
            return False
        plan = plan_digest(self.deployment.spec.rollout)
        held = {(r.digest, r.plan) for r in status.rejected}
        wanted = self.wanted()
        is_done = status.stable.digest == wanted or (wanted, plan) in held
        return is_done and self.traffic == Traffic(main=status.stable.name)


def _down() -> MetricSample:
    return MetricSample("", error="connection refused")


def _empty() -> MetricSample:
    return MetricSample("", "", "", 1000, 1000)


def _not_a_number() -> MetricSample:
    return MetricSample("", "NaN", "NaN", 1000, 1000)


def _text() -> MetricSample:
    return MetricSample("", "<html>502</html>", "<html>502</html>", 1000, 1000)


def _invalid() -> MetricSample:
    return MetricSample("", error="parse error: unclosed left parenthesis", needs_change=True)


SICK = [_down, _empty, _not_a_number, _text, _invalid]
DOWN, EMPTY, NAN, TEXT, INVALID = SICK


def _version(number: int) -> ModelVersion:
    files = {
        "format": "GGUF",
        "uri": f"s3://models/v{number}/",
        "digest": f"sha256:{number:064d}",
        "sizeBytes": 1,
    }
    return ModelVersion.model_validate(
        {
            "metadata": {"name": f"m-v{number}"},
            "spec": {"model": "m", "version": str(number), "artifacts": [files]},
        }
    )


VERSIONS = tuple(_version(n) for n in range(1, 7))
