"""Measures a canary as the edge does: beside the passes, by what was counted."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from tests.simulation.rollout_cluster import RolloutCluster
from tests.simulation.rollout_parts import MEASURING_TAKES, Revision
from tunesmith_api.analysis import AnalysisMetric
from tunesmith_api.deploymentstatus import RolloutStatus
from tunesmith_operator.planning.analysis import is_sample_due
from tunesmith_operator.planning.early import is_look_due, urgent
from tunesmith_operator.planning.serving import (
    MetricSample,
    Sampling,
)
from tunesmith_operator.planning.traffic import compared


class RolloutMeasuring(RolloutCluster):
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
            sampling = self.measure(rollout)
        elif is_look_due(rollout, analysis, self.now, self.seen(canary)):
            sampling = self.look(rollout)
        else:
            return
        takes = MEASURING_TAKES
        if self.chance(self.faults.slow_samples):
            takes = timedelta(seconds=self.rng.randint(1, 8))
        self.measuring = self.now + takes, sampling

    def measure(self, rollout: RolloutStatus) -> Sampling:
        self.samples += 1
        samples = self.values_of(rollout, self.deployment.spec.rollout.analysis.metrics)
        if self.is_really_good(samples):
            key = (rollout.digest, rollout.start_time)
            self.earned[key] = max(self.earned.get(key, -1), rollout.step)
        return Sampling(rollout.digest, self.now, samples)

    def look(self, rollout: RolloutStatus) -> Sampling:
        """Measure what is urgent, early. However good it is, it earns the canary nothing."""
        self.early_looks += 1
        samples = self.values_of(rollout, urgent(rollout, self.deployment.spec.rollout.analysis))
        return Sampling(rollout.digest, self.now, samples, is_early=True)

    def values_of(
        self, rollout: RolloutStatus, metrics: Sequence[AnalysisMetric]
    ) -> tuple[MetricSample, ...]:
        canary = next(r for r in self.revisions.values() if r.digest == rollout.digest)
        role = compared(self.status, self.traffic)
        stable = self.revisions.get(role.name) if role else None
        samples = tuple(self.value_of(m.name, canary, stable) for m in metrics)
        least = self.deployment.spec.rollout.analysis.min_requests
        for sample in samples:
            counts = [n for n in (sample.requests, sample.stable_requests) if n is not None]
            if counts and min(counts) >= least:
                # The next one is taken over other requests.
                for revision in (canary, stable):
                    if revision is not None:
                        self.counted[revision.name, sample.name] = revision.requests
        return samples

    def requests_of(self, revision: Revision, metric: str) -> int:
        """Give how many came since the last sample of the metric that had enough."""
        return revision.requests - self.counted.get((revision.name, metric), 0)

    def value_of(self, name: str, canary: Revision, stable: Revision | None) -> MetricSample:
        if self.provider_sick_for and self.provider_says is not None:
            return replace(self.provider_says(), name=name)
        good, known = self.model(canary), self.model(stable) if stable else None
        if name == "quality":
            return MetricSample(name, good.quality)
        value = str(good.error_rate) if name == "error-rate" else good.latency
        requests = self.requests_of(canary, name)
        if known is None or stable is None:
            return MetricSample(name, value, requests=requests)
        base = str(known.error_rate) if name == "error-rate" else known.latency
        return MetricSample(name, value, base, requests, self.requests_of(stable, name))

    def is_really_good(self, samples: tuple[MetricSample, ...]) -> bool:
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
