"""Asks a Prometheus server: one number for one query, and the queries of the built-in metrics.

The server and the query are the user's; whatever comes back is a number, nothing, or an error in
Prometheus' own words. Called by ``sampling``.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import aiohttp
import structlog
from pydantic import BaseModel, Field, ValidationError

from tunesmith_api.analysis import BuiltinMetric, Endpoint
from tunesmith_operator.fetching import Unanswerable, Unanswered, fetch, in_short
from tunesmith_operator.metrics.builtin import QUANTILES, Value
from tunesmith_operator.metrics.exposed import (
    ENGINE_AWAY,
    ERRORS,
    EXCUSED_CODES,
    FAULTS,
    FIRST_TOKEN,
    LATENCY,
    REQUESTS,
    ROUTES,
    TOKENS_PER_SECOND,
)
from tunesmith_operator.metrics.together import all_of

log = structlog.get_logger(__name__)

_ANSWER_BYTES = 256 << 10
_REVISION = re.compile(r"\{\{\s*revision\s*\}\}")
_LONGEST_VALUE = 64
# Notes on the query, which some versions put among the warnings.
_NOTE = "PromQL info"
# The type of error of a query that does not parse.
_BAD_QUERY = "bad_data"


@dataclass(frozen=True, slots=True)
class BuiltinQuery:
    """How a built-in metric is asked for: its value, and the requests that is taken over."""

    value: str
    requests: str


def _increase(selector: str, more: str = "") -> str:
    labels = 'revision="{{revision}}"' + (f",{more}" if more else "")
    return f"sum(increase({selector}{{{labels}}}[<range>]))"


def _quantile(share: float, histogram: str, more: str = "") -> BuiltinQuery:
    labels = 'revision="{{revision}}"' + (f",{more}" if more else "")
    rates = f"sum by (le) (rate({histogram}_bucket{{{labels}}}[<range>]))"
    return BuiltinQuery(
        f"histogram_quantile({share}, {rates})", _increase(f"{histogram}_count", more)
    )


_OF_MODEL = f'route=~"{"|".join(ROUTES)}"'
_ANSWERED = _increase(REQUESTS, f'{_OF_MODEL},code!~"{"|".join(EXCUSED_CODES)}"')
_HISTOGRAMS = {"latency": (LATENCY, _OF_MODEL), "first_token": (FIRST_TOKEN, "")}


def _error_rate(causes: Iterable[str], answered: str) -> BuiltinQuery:
    faults = _increase(ERRORS, f'reason=~"{"|".join(causes)}"')
    return BuiltinQuery(f"clamp_max({faults} / ({answered}), 1)", answered)


QUERIES: Mapping[BuiltinMetric, BuiltinQuery] = {
    BuiltinMetric.ERROR_RATE: _error_rate(FAULTS, _ANSWERED),
    **{
        metric: _quantile(share, *_HISTOGRAMS[histogram])
        for metric, (histogram, share) in QUANTILES.items()
    },
    BuiltinMetric.TOKENS_PER_SECOND: BuiltinQuery(
        f"{_increase(TOKENS_PER_SECOND + '_sum')} / {_increase(TOKENS_PER_SECOND + '_count')}",
        _increase(TOKENS_PER_SECOND + "_count"),
    ),
}
"""All but Restarts, which Kubernetes counts. <range> is analysis.intervalSeconds."""
_WITHOUT_ENDS = _error_rate(
    (cause for cause in FAULTS if cause != ENGINE_AWAY),
    _ANSWERED + " - " + _increase(ERRORS, f'reason="{ENGINE_AWAY}"'),
)
"""The error rate of requests whose engine was there to the end."""


class _Point(BaseModel):
    value: tuple[float, str] | None = None
    """None where the series is a native histogram."""


class _Vector(BaseModel):
    result_type: Literal["vector"] = Field(alias="resultType")
    result: list[_Point]


class _Single(BaseModel):
    result_type: Literal["scalar", "string"] = Field(alias="resultType")
    result: tuple[float, str]


class _Matrix(BaseModel):
    result_type: Literal["matrix"] = Field(alias="resultType")


class _Reply(BaseModel):
    """What the server says: https://prometheus.io/docs/prometheus/latest/querying/api/."""

    status: Literal["success", "error"]
    error: str = ""
    error_type: str = Field(default="", alias="errorType")
    warnings: list[str] = []
    data: Annotated[_Vector | _Single | _Matrix, Field(discriminator="result_type")] | None = None


class Prometheus:
    """A Prometheus server."""

    def __init__(self, session: aiohttp.ClientSession, endpoint: Endpoint) -> None:
        self._session = session
        self._url = endpoint.url.rstrip("/") + "/api/v1/query"
        self._seconds = endpoint.timeout_seconds

    async def ask(self, query: str, revision: str) -> str:
        """Give the number that a query has for a revision; empty where it has none.

        Raises Unanswered, or Unanswerable for a query that does not parse or gives no single
        number. What is given may also be NaN, infinite or a text: judging it is
        planning's.
        """
        answer = await fetch(
            self._session,
            "GET",
            self._url,
            query={"query": fill_in(query, revision)},
            seconds=self._seconds,
            limit_bytes=_ANSWER_BYTES,
        )
        try:
            reply = _Reply.model_validate_json(answer.body)
        except ValidationError as error:
            what = "an answer that is not Prometheus'" if answer.status == 200 else "no answer"
            raise Unanswered(f"HTTP {answer.status} with {what}") from error
        if reply.status == "error":
            kind = Unanswerable if reply.error_type == _BAD_QUERY else Unanswered
            raise kind(in_short(reply.error) or f"HTTP {answer.status}")
        return _number(reply)[:_LONGEST_VALUE]

    async def measure(
        self,
        metric: BuiltinMetric,
        revision: str,
        interval_seconds: int,
        *,
        excuses_ends: bool = False,
    ) -> Value:
        """Give the value of a built-in metric over the last interval.

        Raises Unanswered, also where the server does not know the revision: its counters are there
        from the start, so without requests they say 0.
        """
        # At once: two questions to a slow server must not take twice its time.
        is_rate = metric is BuiltinMetric.ERROR_RATE
        queries = _WITHOUT_ENDS if is_rate and excuses_ends else QUERIES[metric]
        text, requests = await all_of(
            self.ask(_over(queries.value, interval_seconds), revision),
            self.ask(_over(queries.requests, interval_seconds), revision),
        )
        if not requests:
            raise Unanswered(
                f"Prometheus has no counts of {revision} over the last {interval_seconds} s: let it"
                " scrape the pods' /metrics, several times in that time"
            )
        return Value(text, _whole(requests))


def fill_in(query: str, revision: str) -> str:
    """Put the revision's name where {{revision}} stands, as the text of a label's value."""
    quoted = revision.replace("\\", "\\\\").replace('"', '\\"').replace("'", "\\'")
    return _REVISION.sub(lambda _: quoted.replace("\n", "\\n"), query)


def _over(query: str, seconds: int) -> str:
    return query.replace("<range>", f"{seconds}s")


def _number(reply: _Reply) -> str:
    serious = [text for text in reply.warnings if not text.startswith(_NOTE)]
    if serious:
        # Half of the stores may have answered; half of the errors look like a good canary.
        raise Unanswered(f"Prometheus warns: {in_short(serious[0])}")
    match reply.data:
        case _Vector(result=[]):
            return ""
        case _Vector(result=[_Point(value=(_, text))]):
            return text
        case _Vector(result=[_]):
            raise Unanswerable("the query gives a histogram, one number is needed")
        case _Vector(result=several):
            raise Unanswerable(
                f"the query gives {len(several)} series, one is needed; sum() makes one of them"
            )
        case _Single(result=(_, text)):
            return text
        case _:
            raise Unanswerable("the query gives a range, one number is needed")


def _whole(text: str) -> int:
    try:
        return max(0, round(float(text)))
    except (ValueError, OverflowError):
        return 0
