"""Measures a canary: one value of each metric of an analysis, from whoever is to be asked.

Gives values and judges none. It never fails for what others do wrong: then a metric has an error,
or no value. What it remembers are sums of counts, so an operator that dies loses one interval.
Called by the reconciler of ModelDeployments when planning.analysis.is_sample_due says so.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from datetime import datetime

from tunesmith_api.analysis import Analysis, AnalysisMetric
from tunesmith_operator.fetching import Unanswered, open_session
from tunesmith_operator.metrics.ledger import Baseline, Ledger, Watched
from tunesmith_operator.metrics.scraping import MeasuredPod, Scrape, scrape
from tunesmith_operator.metrics.sources import Measured, PromptsError, Sources, Task, needs_pods
from tunesmith_operator.planning.serving import Sampling

__all__ = ["Measured", "PromptsError", "Sampler"]

_CANARIES_KEPT = 1000


class Sampler:
    """Measures all canaries of an operator. Needs a running loop."""

    def __init__(self) -> None:
        self._session = open_session()
        self._sources = Sources(self._session)
        self._watched: OrderedDict[tuple[str, str], Watched] = OrderedDict()

    async def remember(self, canary: Measured, stable: Measured | None) -> None:
        """Begin to count now, unless it is counted already. Called when a canary gets traffic."""
        if (canary.namespace, canary.name) in self._watched:
            return
        watched = self._watch(canary, stable)
        await self._scrape(watched, canary, stable)
        # What its pods counted before, such as in an earlier try, is not this roll-out's.
        watched.start = Baseline(watched.canary_pods.sums, watched.stable_pods.sums)

    async def take(
        self,
        analysis: Analysis,
        canary: Measured,
        stable: Measured | None,
        prompts: Mapping[str, str | PromptsError],
        now: datetime,
        *,
        only: Sequence[AnalysisMetric] | None = None,
        excuses_ends: bool = False,
    ) -> Sampling:
        """Measure all metrics, or only some of them.

        ``prompts`` has the text of the ConfigMap for each metric that needs one. With
        ``excuses_ends`` an engine that was not there is not held against the canary.
        """
        metrics = analysis.metrics if only is None else only
        watched = self._watch(canary, stable)
        watched.keep_only({metric.name: None for metric in analysis.metrics})
        trouble = ""
        if any(needs_pods(metric, analysis) for metric in metrics):
            trouble = await self._scrape(watched, canary, stable)
        task = Task(analysis, canary, stable, prompts, watched, trouble, excuses_ends)
        samples = await asyncio.gather(*(self._sources.sample(task, m) for m in metrics))
        return Sampling(canary.digest, now, tuple(samples))

    def forget(self, namespace: str, name: str) -> None:
        """Forget a canary, by its revision's name; its next roll-out begins anew."""
        self._watched.pop((namespace, name), None)

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    def _watch(self, canary: Measured, stable: Measured | None) -> Watched:
        key = (canary.namespace, canary.name)
        name, restarts = (stable.name, stable.restarts) if stable else ("", 0)
        watched = self._watched.setdefault(key, Watched(name, restarts))
        if watched.stable != name:
            watched.change_stable(name, restarts)
        self._watched.move_to_end(key)
        while len(self._watched) > _CANARIES_KEPT:
            self._watched.popitem(last=False)
        return watched

    async def _scrape(self, watched: Watched, canary: Measured, stable: Measured | None) -> str:
        """Ask all pods, each once; gives why if none of the canary's answered."""
        found, others = await asyncio.gather(self._ask_pods(canary), self._ask_pods(stable))
        _add(watched.canary_pods, found, from_zero=True)
        # Stable's pods are as old as they are; only what they do beside the canary compares.
        _add(watched.stable_pods, others, from_zero=False)
        if any(isinstance(answer, Scrape) for answer in found.values()):
            return ""
        reason = next((str(answer) for answer in found.values()), "there is none")
        return f"no pod of the canary answered: {reason}"

    async def _ask_pods(self, revision: Measured | None) -> dict[str, Scrape | Unanswered]:
        if revision is None:
            return {}
        name = revision.name

        async def ask(pod: MeasuredPod) -> Scrape | Unanswered:
            try:
                return await scrape(self._session, pod, name)
            except Unanswered as error:
                return error

        answers = await asyncio.gather(*(ask(pod) for pod in revision.pods))
        return dict(zip((pod.uid for pod in revision.pods), answers, strict=True))


def _add(ledger: Ledger, found: Mapping[str, Scrape | Unanswered], *, from_zero: bool) -> None:
    for uid, answer in found.items():
        if isinstance(answer, Scrape):
            ledger.add(uid, answer, from_zero=from_zero)
