"""What a revision's pods have counted since it is watched: sums that only rise.

Pods restart, come and go, and sometimes do not answer; the sums go on. A value is the difference
of two of them, from a metric's baseline to now. Pure; called by ``sampling``.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field

from tunesmith_operator.metrics.scraping import Counts, Scrape, Series

_PODS_KEPT = 512


class Ledger:
    """The sums of one revision."""

    def __init__(self) -> None:
        self._sums: dict[Series, float] = {}
        self._last: OrderedDict[str, Scrape] = OrderedDict()

    @property
    def sums(self) -> Counts:
        """What was counted so far; a copy."""
        return dict(self._sums)

    def add(self, uid: str, now: Scrape, *, from_zero: bool) -> None:
        """Take what a pod has counted.

        Of a pod that was never seen all of it is new with ``from_zero``, else none. A pod whose
        sidecar started again has counted from zero; what it had before stays counted.
        """
        before = self._last.get(uid)
        if before is None:
            new = now.counts if from_zero else {}
        elif _is_restarted(before, now):
            new = now.counts
        else:
            new = difference(before.counts, now.counts)
        for series, number in new.items():
            self._sums[series] = self._sums.get(series, 0.0) + number
        self._last[uid] = now
        self._last.move_to_end(uid)
        # A pod that is not ready for a while is not listed; forgotten, it would count twice.
        while len(self._last) > _PODS_KEPT:
            self._last.popitem(last=False)


def _is_restarted(before: Scrape, now: Scrape) -> bool:
    # Also by the time of its start: a busy pod may have counted more than before already.
    if before.started != now.started:
        return True
    return any(now.counts.get(series, 0.0) < number for series, number in before.counts.items())


def difference(before: Counts, now: Counts) -> dict[Series, float]:
    """Give what was counted in between."""
    return {series: number - before.get(series, 0.0) for series, number in now.items()}


@dataclass(slots=True)
class Baseline:
    """Where the values of one metric begin to count."""

    canary: Counts
    stable: Counts


@dataclass(slots=True)
class Watched:
    """All that is remembered of a canary and the stable revision it is held against."""

    stable: str
    """Name of the stable revision; another one begins anew."""
    stable_restarts: int
    """Restarts it had before; those are nobody's news."""
    canary_pods: Ledger = field(default_factory=Ledger)
    stable_pods: Ledger = field(default_factory=Ledger)
    start: Baseline | None = None
    """Where metrics begin that were never taken; None: at zero."""
    baselines: dict[str, Baseline] = field(default_factory=dict)
    """Metric -> its own. They move on at different times: few requests have a first token."""

    def since(self, metric: str) -> tuple[dict[Series, float], dict[Series, float]]:
        """Give what canary and stable have counted since the metric's baseline."""
        base = self.baselines.get(metric) or self.start or Baseline({}, {})
        return (
            difference(base.canary, self.canary_pods.sums),
            difference(base.stable, self.stable_pods.sums),
        )

    def move_on(self, metric: str) -> None:
        """Begin anew with a metric."""
        self.baselines[metric] = Baseline(self.canary_pods.sums, self.stable_pods.sums)

    def change_stable(self, name: str, restarts: int) -> None:
        """Begin anew with another stable revision."""
        self.stable, self.stable_restarts = name, restarts
        self.stable_pods = Ledger()
        for base in (self.start, *self.baselines.values()):
            if base is not None:
                base.stable = {}

    def keep_only(self, metrics: Mapping[str, object]) -> None:
        """Forget metrics that are not judged any more."""
        self.baselines = {name: b for name, b in self.baselines.items() if name in metrics}
