"""From counts to values: error rate, percentiles, tokens per second.

Pure; called by ``sampling`` with what was counted since a metric's baseline. Nothing counted is no
value, never zero.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from tunesmith_api.analysis import BuiltinMetric
from tunesmith_operator.metrics.scraping import Counts

QUANTILES: Mapping[BuiltinMetric, tuple[str, float]] = {
    BuiltinMetric.LATENCY_P50: ("latency", 0.5),
    BuiltinMetric.LATENCY_P95: ("latency", 0.95),
    BuiltinMetric.LATENCY_P99: ("latency", 0.99),
    BuiltinMetric.TIME_TO_FIRST_TOKEN_P95: ("first_token", 0.95),
}
"""Histogram and share of each percentile."""


@dataclass(frozen=True, slots=True)
class Value:
    """A value as text, empty where there is none, and the requests it was taken over."""

    text: str
    requests: int


def measure(metric: BuiltinMetric, counts: Counts, *, excuses_ends: bool = False) -> Value:
    """Give the value of a metric; of Restarts, which pods do not count, none.

    With ``excuses_ends`` the error rate is that of requests whose engine was there to the end.
    """
    if metric in QUANTILES:
        histogram, share = QUANTILES[metric]
        buckets = {bound: count for (name, bound), count in counts.items() if name == histogram}
        value = quantile(share, buckets)
        total = max(buckets.values(), default=0.0)
    elif metric is BuiltinMetric.TOKENS_PER_SECOND:
        # The mean: the sum is exact, while the buckets are as wide as half of their bound.
        total = counts.get(("tokens_count", 0.0), 0.0)
        value = counts.get(("tokens_sum", 0.0), 0.0) / total if total else None
    else:
        faults, away = (counts.get((name, 0.0), 0.0) for name in ("faults", "away"))
        total = answered(counts)
        # A broken stream is a fault a moment before it is a request.
        total, faults = (max(0.0, total - away), faults) if excuses_ends else (total, faults + away)
        value = min(1.0, faults / total) if total else None
    return Value("" if value is None else f"{value:.6g}", round(total))


def answered(counts: Counts) -> float:
    """Give how many requests the revision has answered, well or badly."""
    return counts.get(("requests", 0.0), 0.0)


def quantile(share: float, buckets: Mapping[float, float]) -> float | None:
    """Estimate a quantile from cumulative counts by the buckets' upper bounds.

    As Prometheus' histogram_quantile does (https://prometheus.io/docs/prometheus/latest/querying/
    functions/#histogram_quantile): within a bucket values are taken as spread evenly; the first
    one begins at 0; beyond the last finite bound nothing is known, and that bound is given.
    None without an observation or without the bucket +Inf.
    """
    total = buckets.get(math.inf, 0.0)
    if total <= 0:
        return None
    rank = share * total
    below, start = 0.0, 0.0
    for bound in sorted(buckets):
        count = buckets[bound]
        if count >= rank:
            if math.isinf(bound):
                return start
            inside = count - below
            return start + (bound - start) * ((rank - below) / inside if inside else 1.0)
        # Pods whose buckets differ may give sums that fall; a cumulative count cannot.
        below, start = max(below, count), bound
    return start
