"""Looks at a canary before the interval is over: where a failure begins, and where it is confirmed.

``failureLimit`` asks for so many samples that fail, and every sample needs ``minRequests`` of its
own. For what the pods count both may be had long before the interval is over, so a step is first
looked at early, and what has just failed is looked at again early. Such a look counts, well or
badly, as soon as there are enough requests, and is nothing at all before: choosing among several
looks would find failures that are none. It lets no weight rise; that takes a sample of a whole
interval. Pure; called by decide_rollout's parts, and by the edge before it measures.
"""

from datetime import datetime, timedelta

from tunesmith_api.analysis import Analysis, AnalysisMetric, BuiltinMetric, Verdict
from tunesmith_api.deploymentstatus import MetricStatus, RolloutStatus
from tunesmith_operator.planning.analysis import next_sample_time, take
from tunesmith_operator.planning.serving import Sampling, SeenRevision

_SHARE = 5
"""Looks within an interval, where confirmSeconds is not set."""


def urgent(rollout: RolloutStatus, analysis: Analysis) -> tuple[AnalysisMetric, ...]:
    """Give the metrics to be looked at early: those that failed last, or were not sampled yet."""
    known = {m.name: m for m in rollout.metrics}

    def is_urgent(metric: AnalysisMetric) -> bool:
        last = known.get(metric.name)
        return last is None or last.samples == 0 or last.verdict is Verdict.FAIL

    return tuple(m for m in analysis.metrics if _is_counted(m, analysis) and is_urgent(m))


def is_look_due(
    rollout: RolloutStatus | None, analysis: Analysis, now: datetime, canary: SeenRevision | None
) -> bool:
    """Whether it is time for an early look."""
    due = next_look_time(rollout, analysis)
    is_there = canary is not None and canary.ready_replicas > 0
    return is_there and due is not None and due <= now


def next_look_time(rollout: RolloutStatus | None, analysis: Analysis) -> datetime | None:
    """Give the time of the next early look; None where the next sample is not later."""
    sample = next_sample_time(rollout, analysis)
    if rollout is None or sample is None or not urgent(rollout, analysis):
        return None
    last = sample - timedelta(seconds=analysis.interval_seconds)
    look = max(last, rollout.look_time or last) + _pause(analysis)
    return look if look < sample else None


def take_early(
    analysis: Analysis, rollout: RolloutStatus, looked: Sampling, *, has_stable: bool
) -> tuple[MetricStatus, ...] | None:
    """Give what is known of each metric after an early look; None where it saw too little."""
    least = analysis.min_requests
    # Where stable has too few the pods' counts go on: the next look would count the same again.
    seen = {
        s.name
        for s in looked.samples
        if not has_stable or s.stable_requests is None or s.stable_requests >= least
    }
    some = analysis.model_copy(
        update={"metrics": tuple(m for m in analysis.metrics if m.name in seen)}
    )
    counted = {
        m.name: m
        for m in take(some, rollout.metrics, looked, has_stable=has_stable)
        if m.verdict in (Verdict.PASS, Verdict.FAIL)
    }
    if not counted:
        return None
    known = {m.name: m for m in rollout.metrics} | counted
    return tuple(known[m.name] for m in analysis.metrics if m.name in known)


def was_early(rollout: RolloutStatus) -> bool:
    """Whether the last sample was an early look, which says nothing of what it left out."""
    return rollout.look_time is not None and rollout.look_time == rollout.sample_time


def unlooked(digest: str, now: datetime) -> Sampling:
    """Give an early look that failed altogether: the sample that is due later says so."""
    return Sampling(digest, now, (), is_early=True)


def _is_counted(metric: AnalysisMetric, analysis: Analysis) -> bool:
    """Whether the pods count it since its last sample: other values overlap, or cost answers."""
    is_builtin = metric.builtin not in (None, BuiltinMetric.RESTARTS)
    # Without a least number of requests only the interval says when there are enough.
    return is_builtin and analysis.provider.prometheus is None and analysis.min_requests > 0


def _pause(analysis: Analysis) -> timedelta:
    seconds = analysis.confirm_seconds or max(1.0, analysis.interval_seconds / _SHARE)
    return timedelta(seconds=seconds)
