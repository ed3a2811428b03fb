"""The value of one metric, from the source that it names: pods, Prometheus, webhook, prompts.

Where the canary's value cannot be had the sample has an error; where only stable's cannot, it has
no stable value, so that a limit that stands by itself is still judged. Called by ``sampling``.
"""

from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import aiohttp
import structlog

from tunesmith_api.analysis import Analysis, AnalysisMetric, BuiltinMetric, Endpoint, GoldenPrompts
from tunesmith_operator.fetching import Unanswerable, Unanswered
from tunesmith_operator.metrics import builtin, golden
from tunesmith_operator.metrics.builtin import Value
from tunesmith_operator.metrics.ledger import Watched
from tunesmith_operator.metrics.prometheus import Prometheus
from tunesmith_operator.metrics.scraping import MeasuredPod
from tunesmith_operator.metrics.together import all_of
from tunesmith_operator.metrics.webhook import Webhook, as_text
from tunesmith_operator.planning.serving import MetricSample

log = structlog.get_logger(__name__)

Given = TypeVar("Given")


@dataclass(frozen=True, slots=True)
class Measured:
    """A revision to be measured."""

    namespace: str
    name: str
    """Of its Deployment; also the label ``revision`` of its pods' metrics."""
    digest: str
    pods: tuple[MeasuredPod, ...]
    restarts: int
    model: str = ""
    """Model that golden prompts name to the engine; empty for engines with just one."""
    token: str = field(default="", repr=False)
    """What its sidecars know golden prompts by."""


@dataclass(frozen=True, slots=True)
class PromptsError:
    """Why the golden prompts of a metric cannot be read."""

    message: str
    is_passing: bool = False
    """Whether they may be read later although nobody changes anything."""


@dataclass(frozen=True, slots=True)
class Task:
    """What one call of take is about."""

    analysis: Analysis
    canary: Measured
    stable: Measured | None
    prompts: Mapping[str, str | PromptsError]
    watched: Watched
    trouble: str
    """Why nothing is known of the canary's pods, if nothing is."""
    excuses_ends: bool = False
    """Whether it is not held against the canary that the engine of its pods ends."""

    def compared(self, metric: AnalysisMetric) -> Measured | None:
        """Give the revision that a metric is held against."""
        return self.stable if metric.compared_with is not None else None


class Sources:
    """All sources, for all canaries."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def sample(self, task: Task, metric: AnalysisMetric) -> MetricSample:
        """Measure one metric."""
        provider = task.analysis.provider
        try:
            if metric.golden_prompts is not None:
                return await self._ask_prompts(task, metric, metric.golden_prompts)
            if metric.builtin is BuiltinMetric.RESTARTS:
                return _count_restarts(task, metric)
            if metric.builtin is not None and provider.prometheus is not None:
                return await self._measure(task, metric, metric.builtin, provider.prometheus)
            if metric.builtin is not None:
                return _count(task, metric, metric.builtin)
            return await self._query(task, metric, metric.query or "")
        except Unanswered as error:
            # The queries of built-in metrics are ours: nobody can mend them in a spec.
            needs_change = isinstance(error, Unanswerable) and metric.builtin is None
            return MetricSample(
                metric.name, error=str(error) or "no answer", needs_change=needs_change
            )

    async def _ask_prompts(
        self, task: Task, metric: AnalysisMetric, prompts: GoldenPrompts
    ) -> MetricSample:
        text = task.prompts.get(
            metric.name, PromptsError("its prompts were not read", is_passing=True)
        )
        if isinstance(text, PromptsError):
            raise (Unanswered if text.is_passing else Unanswerable)(text.message)
        questions = golden.parse_prompts(text, prompts.max_prompts)
        seconds = golden.time_for(task.analysis.interval_seconds)

        async def ask(revision: Measured) -> str:
            asked = golden.Asked(
                revision.pods, revision.model, revision.token, excuses_ends=task.excuses_ends
            )
            found = await golden.examine(self._session, prompts, questions, asked, seconds)
            return f"{found:.6g}"

        stable = task.compared(metric)
        value, stable_value = await all_of(
            ask(task.canary), _or(ask(stable) if stable else None, "")
        )
        return MetricSample(metric.name, value, stable_value)

    async def _measure(
        self, task: Task, metric: AnalysisMetric, kind: BuiltinMetric, endpoint: Endpoint
    ) -> MetricSample:
        """Ask Prometheus for a built-in metric, over the last interval."""
        server = Prometheus(self._session, endpoint)
        seconds = task.analysis.interval_seconds
        stable = task.compared(metric)

        def ask(revision: Measured) -> Coroutine[None, None, Value]:
            return server.measure(kind, revision.name, seconds, excuses_ends=task.excuses_ends)

        mine, theirs = await all_of(
            ask(task.canary),
            _or(ask(stable) if stable else None, Value("", 0)),
        )
        return _sample(metric, mine, theirs if stable else None)

    async def _query(self, task: Task, metric: AnalysisMetric, query: str) -> MetricSample:
        """Ask for a user's own metric. How much traffic it is worth the pods say."""
        provider, stable = task.analysis.provider, task.compared(metric)
        if provider.prometheus is not None:
            server = Prometheus(self._session, provider.prometheus)
            value, stable_value = await all_of(
                server.ask(query, task.canary.name),
                _or(server.ask(query, stable.name) if stable else None, ""),
            )
            requests, stable_requests = _count_traffic(task, metric)
        elif provider.webhook is not None:
            others = task.stable.name if task.stable else ""
            webhook = Webhook(self._session, provider.webhook)
            reply = await webhook.ask(metric, task.canary.name, others)
            value = as_text(reply.value)
            stable_value = as_text(reply.stable_value) if stable else ""
            requests, stable_requests = reply.requests, reply.stable_requests
            if requests is None:
                requests, stable_requests = _count_traffic(task, metric)
        else:
            raise Unanswered("a query needs a provider of type Prometheus or Webhook")
        return MetricSample(metric.name, value, stable_value, requests, stable_requests)


def needs_pods(metric: AnalysisMetric, analysis: Analysis) -> bool:
    """Whether the pods' own counts are needed for a metric."""
    if metric.query is not None:
        return analysis.min_requests > 0
    is_counted = metric.builtin not in (None, BuiltinMetric.RESTARTS)
    return is_counted and analysis.provider.prometheus is None


def _count(task: Task, metric: AnalysisMetric, kind: BuiltinMetric) -> MetricSample:
    """Measure by what the pods counted since the metric's baseline."""
    if task.trouble:
        raise Unanswered(task.trouble)
    stable = task.compared(metric)
    canary_counts, stable_counts = task.watched.since(metric.name)
    excuses = task.excuses_ends
    mine = builtin.measure(kind, canary_counts, excuses_ends=excuses)
    theirs = builtin.measure(kind, stable_counts, excuses_ends=excuses) if stable else None
    _move_on(task, metric, mine.requests, theirs.requests if theirs else None)
    return _sample(metric, mine, theirs)


def _count_traffic(task: Task, metric: AnalysisMetric) -> tuple[int | None, int | None]:
    """Count the requests since the metric's baseline, of canary and stable.

    A query may well give a good number without any traffic; that must not promote.
    """
    if not needs_pods(metric, task.analysis):
        return None, None
    if task.trouble:
        raise Unanswered(task.trouble)
    mine, theirs = (round(builtin.answered(counts)) for counts in task.watched.since(metric.name))
    compared = theirs if task.compared(metric) else None
    _move_on(task, metric, mine, compared)
    return mine, compared


def _move_on(task: Task, metric: AnalysisMetric, mine: int, theirs: int | None) -> None:
    """Begin anew once there was enough; until then little traffic adds up."""
    least = task.analysis.min_requests
    waits_for_stable = theirs is not None and task.stable is not None and task.stable.pods
    if mine >= least and not (waits_for_stable and (theirs or 0) < least):
        task.watched.move_on(metric.name)


def _count_restarts(task: Task, metric: AnalysisMetric) -> MetricSample:
    """Give the canary's restarts, and stable's over the same time."""
    stable = task.compared(metric)
    # A pod that goes takes its restarts with it.
    others = max(0, stable.restarts - task.watched.stable_restarts) if stable else None
    return MetricSample(
        metric.name, str(task.canary.restarts), "" if others is None else str(others)
    )


def _sample(metric: AnalysisMetric, mine: Value, theirs: Value | None) -> MetricSample:
    if theirs is None:
        return MetricSample(metric.name, mine.text, requests=mine.requests)
    return MetricSample(metric.name, mine.text, theirs.text, mine.requests, theirs.requests)


async def _or(asked: Coroutine[None, None, Given] | None, otherwise: Given) -> Given:
    """Give stable's value, or ``otherwise`` where it cannot be had."""
    if asked is None:
        return otherwise
    try:
        return await asked
    except Unanswered as error:
        log.warning("stable was not measured", error=str(error))
        return otherwise
