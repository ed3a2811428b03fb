"""All metrics of a serving pod, named in one place; the same names whatever the engine is.

Every metric carries the revision, so that an analysis can tell canary from stable. Labels have
few values, never anything a client sent. Written by ``guard``, ``proxy``, ``predict``,
``feedback`` and the conversation log; served at /metrics by ``probes``.
"""

from collections.abc import Iterable
from enum import StrEnum

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from tunesmith_sidecar.usage import Usage

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# Ten bounds a decade, as in preferred numbers: an analysis that allows a p95 to be 20 % worse must
# tell 20 % apart. An estimated p95 is off by 3 % at the median; with three a decade by 17 %.
_DECADE = (1, 1.25, 1.6, 2, 2.5, 3.15, 4, 5, 6.3, 8)
_SECONDS = tuple(
    round(bound * scale, 6)
    for scale in (0.001, 0.01, 0.1, 1, 10, 100)
    for bound in _DECADE
    if 0.005 <= bound * scale <= 315
)
# There from the start: Prometheus sees no rise in a series that begins at more than zero.
_USUAL_CODES = (200, 400, 429, 499, 500, 502, 503, 504)
# Refused at once, they would make an overloaded pod look fast.
_REFUSED = (401, 413, 429)
# Nobody's fault, or the client's: neither a failure nor a good answer.
_EXCUSED = (*_REFUSED, 499)
_TOKENS_PER_SECOND = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


class Route(StrEnum):
    """What a client asked for."""

    CHAT = "chat"
    COMPLETIONS = "completions"
    MODELS = "models"
    PREDICT = "predict"
    FEEDBACK = "feedback"
    OTHER = "other"


class Failure(StrEnum):
    """Why a request did not get its answer.

    The revision is to blame for timeout, engine_unavailable and engine_error, and the analysis
    holds internal against it as well: its pods answer 500. For the others clients or load are.
    """

    UNAUTHORIZED = "unauthorized"
    OVERLOADED = "overloaded"
    TOO_LARGE = "too_large"
    TIMEOUT = "timeout"
    ENGINE_UNAVAILABLE = "engine_unavailable"
    ENGINE_ERROR = "engine_error"
    CLIENT_GONE = "client_gone"
    INTERNAL = "internal"


_ASKING = (Route.CHAT, Route.COMPLETIONS, Route.PREDICT)
"""Routes that ask the model."""
_BLAMED = (Failure.TIMEOUT, Failure.ENGINE_UNAVAILABLE, Failure.ENGINE_ERROR, Failure.INTERNAL)


class LogResult(StrEnum):
    """What became of a conversation that was to be logged."""

    WRITTEN = "written"
    DROPPED = "dropped"
    UNSUITABLE = "unsuitable"


class _Families:
    """Makes metrics in a registry of their own, with the revision as their first label."""

    def __init__(self, revision: str) -> None:
        self.registry = CollectorRegistry()
        self._revision = revision

    def counters(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, ["revision", *labels], registry=self.registry)

    def counter(self, name: str, text: str) -> Counter:
        return self.counters(name, text).labels(self._revision)

    def gauge(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, ["revision"], registry=self.registry).labels(self._revision)

    def histograms(
        self, name: str, text: str, buckets: tuple[float, ...], *labels: str
    ) -> Histogram:
        return Histogram(name, text, ["revision", *labels], buckets=buckets, registry=self.registry)

    def histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return self.histograms(name, text, buckets).labels(self._revision)


class Metrics:
    """The metrics of one process, with their labels bound to its revision."""

    def __init__(self, revision: str) -> None:
        self._revision = revision
        families = _Families(revision)
        self._registry = families.registry
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=families.registry)
        # Labels are bound once: looking them up costs as much as counting.
        self._name_requests(families)
        self._name_answers(families)
        self._name_pod(families)
        self._name_log(families)

    def _name_requests(self, families: _Families) -> None:
        self._requests = families.counters(
            "tunesmith_serving_requests_total",
            "Requests of clients by the HTTP code of the answer; 499 for a client that went away.",
            "route",
            "code",
        )
        self._codes: dict[tuple[Route, int], Counter] = {
            (route, code): self._requests.labels(self._revision, route, str(code))
            for route in Route
            if route is not Route.OTHER
            for code in _USUAL_CODES
        }
        errors = families.counters(
            "tunesmith_serving_errors_total",
            "Requests without a proper answer, by cause. A stream that broke counts here although"
            " its code was 200.",
            "reason",
        )
        self._errors = {reason: errors.labels(self._revision, reason) for reason in Failure}
        self._failed_in_a_row = families.gauge(
            "tunesmith_serving_failed_in_a_row",
            "Answers of the model that have failed since its last good one. Refused and abandoned"
            " requests do not count.",
        )
        seconds = families.histograms(
            "tunesmith_serving_request_seconds",
            "From a request's head to the end of its answer; not of those that were refused.",
            _SECONDS,
            "route",
        )
        self._seconds = {route: seconds.labels(self._revision, route) for route in Route}
        feedback = families.counters(
            "tunesmith_serving_feedback_total",
            "Feedback by rating: good, bad or neutral.",
            "rating",
        )
        ratings = ("good", "bad", "neutral")
        self._feedback = {rating: feedback.labels(self._revision, rating) for rating in ratings}

    def _name_answers(self, families: _Families) -> None:
        self.first_token_seconds = families.histogram(
            "tunesmith_serving_time_to_first_token_seconds",
            "From a streamed request's head to the first byte of its answer.",
            _SECONDS,
        )
        self.tokens_per_second = families.histogram(
            "tunesmith_serving_tokens_per_second",
            "Completion tokens of an answer by the time the whole request took.",
            _TOKENS_PER_SECOND,
        )
        self.prompt_tokens = families.counter(
            "tunesmith_serving_prompt_tokens_total", "Tokens of prompts, as the engine counts."
        )
        self.completion_tokens = families.counter(
            "tunesmith_serving_completion_tokens_total", "Tokens of answers, as the engine counts."
        )
        self.without_usage = families.counter(
            "tunesmith_serving_answers_without_usage_total",
            "Answers in which the engine did not say how many tokens they took.",
        )

    def _name_pod(self, families: _Families) -> None:
        self.in_flight = families.gauge("tunesmith_serving_in_flight", "Requests in progress.")
        self.draining = families.gauge("tunesmith_serving_draining", "1 once the pod is ending.")

    def _name_log(self, families: _Families) -> None:
        logged = families.counters(
            "tunesmith_serving_log_lines_total",
            "Conversations and feedback by what became of them: written, dropped because the"
            " buffer was full, or unsuitable (too long, or no conversation in plain text).",
            "result",
        )
        self._logged = {result: logged.labels(self._revision, result) for result in LogResult}
        self.log_buffer_bytes = families.gauge(
            "tunesmith_serving_log_buffer_bytes", "Conversations that wait to be written, in bytes."
        )
        self.log_write_failures = families.counter(
            "tunesmith_serving_log_write_failures_total",
            "Writes to the log's bucket that failed; what they held is tried again.",
        )

    def answered(
        self, route: Route, code: int, seconds: float, failure: Failure | None = None
    ) -> None:
        """Count one request, whatever became of it.

        ``failure`` was counted by itself, see :meth:`failed`; it tells of a stream that broke that
        it was no good answer.
        """
        child = self._codes.get((route, code))
        if child is None:
            child = self._codes[route, code] = self._requests.labels(
                self._revision, route, str(code)
            )
        child.inc()
        if code not in _REFUSED:
            self._seconds[route].observe(seconds)
        if route in _ASKING and code not in _EXCUSED:
            if code >= 500 or failure in _BLAMED:
                self._failed_in_a_row.inc()
            else:
                self._failed_in_a_row.set(0)

    def failed(self, reason: Failure) -> None:
        """Count a request without a proper answer."""
        self._errors[reason].inc()

    def used(self, usage: Usage | None, seconds: float) -> None:
        """Count the tokens of one answer; None when the engine did not say."""
        if usage is None:
            self.without_usage.inc()
            return
        self.prompt_tokens.inc(usage.prompt_tokens)
        self.completion_tokens.inc(usage.completion_tokens)
        if usage.completion_tokens and seconds > 0:
            self.tokens_per_second.observe(usage.completion_tokens / seconds)

    def rated(self, rating: str) -> None:
        """Count feedback: good, bad or neutral."""
        self._feedback[rating].inc()

    def logged(self, result: LogResult, lines: int = 1) -> None:
        """Count lines of the conversation log."""
        self._logged[result].inc(lines)

    def render(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)

    def families(self) -> Iterable[Metric]:
        """Give all metrics by their names."""
        return self._registry.collect()


class _Together(Collector):
    """Metrics of several revisions as if one process had counted them."""

    def __init__(self, parts: Iterable[Metrics]) -> None:
        self._parts = parts

    def collect(self) -> Iterable[Metric]:
        """Give each family once, with the samples of all revisions."""
        found: dict[str, Metric] = {}
        for part in self._parts:
            for family in part.families():
                known = found.setdefault(family.name, family)
                # What carries no revision is the process's, and the same in all of them.
                if known is not family and any("revision" in s.labels for s in family.samples):
                    known.samples.extend(family.samples)
        return found.values()


def render_together(parts: Iterable[Metrics]) -> bytes:
    """Return the metrics of all revisions of a pod in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_Together(parts))
    return generate_latest(registry)
