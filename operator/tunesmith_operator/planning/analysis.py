"""What samples say of a canary: one of four verdicts, and only Pass lets its weight rise.

Pure; called by decide_rollout, and ``is_sample_due`` by the edge before it measures. A missing
value is no good value, and a provider that is down says nothing of the canary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from tunesmith_api.analysis import Analysis, AnalysisMetric, Better, BuiltinMetric, Verdict
from tunesmith_api.deploymentstatus import MetricStatus, RolloutStatus
from tunesmith_api.gates import parse_number
from tunesmith_operator.planning.serving import MetricSample, Sampling, SeenRevision

_WORST_FIRST = (Verdict.FAIL, Verdict.PROVIDER_ERROR, Verdict.NO_DATA, Verdict.PASS)
_TEXT = 40


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict on one value, with the sentence that explains it."""

    verdict: Verdict
    message: str
    needs_change: bool = False
    """Whether there is no value until somebody changes what is asked."""


def is_sample_due(
    rollout: RolloutStatus | None,
    analysis: Analysis,
    now: datetime,
    canary: SeenRevision | None,
) -> bool:
    """Whether it is time to measure: without a ready pod there is nothing that could be."""
    due = next_sample_time(rollout, analysis)
    is_there = canary is not None and canary.ready_replicas > 0
    return is_there and due is not None and due <= now


def next_sample_time(rollout: RolloutStatus | None, analysis: Analysis) -> datetime | None:
    """Give the time of the next sample; None while there is nothing to judge.

    The first of a step comes one interval after the router took the step's weight: before that
    there is next to nothing to measure. A canary that waits for the pods of its next step goes
    on being measured.
    """
    if rollout is None or rollout.abort or rollout.skips_analysis:
        return None
    since = rollout.step_start_time or rollout.exposed_time
    if since is None:
        return None
    last = max(since, rollout.sample_time or since)
    return last + timedelta(seconds=analysis.interval_seconds)


def unmeasured(analysis: Analysis, digest: str, now: datetime, why: str) -> Sampling:
    """Give the sample of a measurement that failed altogether."""
    return Sampling(digest, now, tuple(MetricSample(m.name, error=why) for m in analysis.metrics))


def take(
    analysis: Analysis, known: Sequence[MetricStatus], sampling: Sampling, *, has_stable: bool
) -> tuple[MetricStatus, ...]:
    """Give what is known of each metric after one more sample of all."""
    before = {m.name: m for m in known}
    values = {s.name: s for s in sampling.samples}
    result = []
    for metric in analysis.metrics:
        sample = values.get(metric.name, MetricSample(metric.name))
        judged = judge(metric, sample, analysis.min_requests, has_stable=has_stable)
        old = before.get(metric.name, MetricStatus(name=metric.name))
        recent = old.recent
        if judged.verdict in (Verdict.PASS, Verdict.FAIL):
            # With little traffic most samples say nothing; failures would never come together.
            recent = (*recent, judged.verdict)[-analysis.window :]
        result.append(
            MetricStatus(
                name=metric.name,
                value=sample.value[:_TEXT],
                stable_value=sample.stable_value[:_TEXT],
                verdict=judged.verdict,
                message=judged.message[:512],
                needs_change=judged.needs_change,
                failures=recent.count(Verdict.FAIL),
                samples=old.samples + 1,
                recent=recent,
            )
        )
    return tuple(result)


def overall(analysis: Analysis, metrics: Sequence[MetricStatus]) -> Verdict:
    """Give the worst verdict of the last samples in this step.

    A step without a sample of every metric has no data, whatever the step before had.
    """
    sampled = {m.name: m.verdict for m in metrics if m.samples > 0}
    verdicts = {sampled.get(m.name, Verdict.NO_DATA) for m in analysis.metrics}
    return next(v for v in _WORST_FIRST if v in verdicts)


def has_data(analysis: Analysis, metrics: Sequence[MetricStatus]) -> bool:
    """Whether every metric's last sample could be judged, well or badly."""
    judged = {m.name for m in metrics if m.verdict in (Verdict.PASS, Verdict.FAIL)}
    return all(m.name in judged for m in analysis.metrics)


def failed(analysis: Analysis, metrics: Sequence[MetricStatus]) -> MetricStatus | None:
    """Give the metric that has failed too often within the window, if one has."""
    return next((m for m in metrics if m.failures >= analysis.failure_limit), None)


def begin_step(metrics: Sequence[MetricStatus]) -> tuple[MetricStatus, ...]:
    """Give the metrics at the start of a step: failures of the step before still count."""
    return tuple(m.model_copy(update={"samples": 0}) for m in metrics)


def judge(
    metric: AnalysisMetric, sample: MetricSample, min_requests: int, *, has_stable: bool
) -> Judgement:
    """Judge one value."""
    name = metric.name
    value = parse_number(sample.value)
    if sample.error or value is None or _is_too_few(sample.requests, min_requests):
        return _without_data(metric, sample, min_requests)
    if metric.max is not None and value > Decimal(metric.max):
        return Judgement(Verdict.FAIL, f"{name} is {value}, above {metric.max}")
    if metric.min is not None and value < Decimal(metric.min):
        return Judgement(Verdict.FAIL, f"{name} is {value}, below {metric.min}")
    if metric.compared_with is not None:
        absolute = metric.min is not None or metric.max is not None
        # A stable without pods is no yardstick; a limit that stands by itself still is.
        if has_stable or not absolute:
            return _compare(metric, value, sample, min_requests)
    return Judgement(Verdict.PASS, f"{name} is {value}")


def _is_too_few(requests: int | None, needed: int) -> bool:
    return requests is not None and requests < needed


def _without_data(metric: AnalysisMetric, sample: MetricSample, min_requests: int) -> Judgement:
    """Say why there is nothing to judge."""
    name = sample.name
    if sample.needs_change:
        field = "goldenPrompts, or their ConfigMap" if metric.golden_prompts else "query"
        message = f"{name} cannot be measured: correct its {field}: {sample.error}"
        return Judgement(Verdict.PROVIDER_ERROR, message, needs_change=True)
    if sample.error:
        return Judgement(Verdict.PROVIDER_ERROR, f"{name} could not be asked for: {sample.error}")
    if _is_too_few(sample.requests, max(1, min_requests)):
        needed = f"at least {max(1, min_requests)} are needed"
        return Judgement(
            Verdict.NO_DATA, f"{name} was taken over {sample.requests} requests, {needed}"
        )
    # Traffic is there, or nobody counts it: then it is not the canary that owes a number.
    return Judgement(Verdict.PROVIDER_ERROR, _no_number(name, sample.value))


def _no_number(what: str, text: str) -> str:
    given = f"no number but {text[:_TEXT]!r}" if text else "no value"
    return f"{what} could not be measured: the provider gives {given}"


def _compare(
    metric: AnalysisMetric, value: Decimal, sample: MetricSample, min_requests: int
) -> Judgement:
    """Hold the value against stable's."""
    name = metric.name
    stable = parse_number(sample.stable_value)
    if _is_too_few(sample.stable_requests, min_requests):
        return Judgement(
            Verdict.NO_DATA,
            f"{name} of stable was taken over {sample.stable_requests} requests, at least"
            f" {min_requests} are needed",
        )
    if stable is None and sample.stable_value:
        message = _no_number(f"{name} of stable", sample.stable_value)
        return Judgement(Verdict.PROVIDER_ERROR, message)
    if stable is None:
        return Judgement(Verdict.NO_DATA, f"{name} of stable has no value")
    slack = abs(stable) * Decimal(metric.max_regression_percent or 0) / 100
    is_higher_better = which_is_better(metric) is Better.HIGHER
    worse_by = stable - value if is_higher_better else value - stable
    told = f"{name} is {value}, stable's {stable}"
    if worse_by > slack:
        allowed = metric.max_regression_percent
        return Judgement(Verdict.FAIL, f"{told}: more than {allowed} % worse")
    return Judgement(Verdict.PASS, told)


def which_is_better(metric: AnalysisMetric) -> Better:
    """Say which way a metric improves."""
    if metric.better is not None:
        return metric.better
    is_higher = metric.builtin is BuiltinMetric.TOKENS_PER_SECOND or metric.golden_prompts
    return Better.HIGHER if is_higher else Better.LOWER
