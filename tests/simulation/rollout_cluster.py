"""The toy cluster: pods live and die, requests flow, things go wrong by chance."""

from collections.abc import Callable

from tests.simulation.rollout_checks import RolloutChecks
from tests.simulation.rollout_parts import (
    RENEW_DEADLINE,
    REQUESTS_PER_SECOND,
    SICK,
    START,
    Faults,
    Pod,
    Revision,
)
from tunesmith_operator.planning.serving import (
    MetricSample,
    Traffic,
)
from tunesmith_operator.reconcile.looking import Looks


class RolloutCluster(RolloutChecks):
    def die(self) -> None:
        """End the process: all that is not in the status is lost, and it starts again soon."""
        self.looks, self.measuring, self.counted = Looks(), None, {}
        stable = self.revisions.get(self.status.stable.name) if self.status.stable else None
        if stable is not None:
            # Stable's pods count from when they are first seen.
            metrics = self.deployment.spec.rollout.analysis.metrics
            self.counted = {(stable.name, m.name): stable.requests for m in metrics}

    def go_away(self, seconds: int, *, with_api_server: bool) -> None:
        """The operator is gone; with the API server no pod is started or replaced either."""
        self.away_for, self.due, self.is_cluster_away = seconds, None, with_api_server
        if not with_api_server:
            self.die()
        elif seconds > RENEW_DEADLINE:
            self.term += 1  # the Lease cannot be renewed either

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
                self.counted = {k: n for k, n in self.counted.items() if k[0] != revision.name}
        self.traffic = traffic
        self.weights.append(((self.now - START).total_seconds(), traffic.weight))
        self.is_settled = not self.chance(self.faults.router_slow)

    def disturb(self) -> None:
        self.is_settled = self.is_settled or self.chance(0.7)
        for clock in ("router_silent_for", "away_for", "dry_for", "provider_sick_for"):
            left = max(0, getattr(self, clock) - 1)
            if clock == "away_for" and getattr(self, clock) and not left:
                self.due, self.is_cluster_away = self.now, False
            setattr(self, clock, left)
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
        if self.dry_for or self.provider_sick_for:
            self.blinded = self.now
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
            revision.requests += sent
            if not sent:
                continue
            if share and revision.ready == 0:
                self.unserved += sent
            bad = sent if revision.ready == 0 else round(sent * self.model(revision).error_rate)
            revision.failed += bad
            revision.consecutive = revision.consecutive + sent if bad == sent else 0
