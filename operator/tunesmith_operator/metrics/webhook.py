"""Asks a user's webhook for the value of a metric.

Sends {metric, query, revision, stableRevision}, takes {value, stableValue, requests,
stableRequests}. Called by ``sampling``.
"""

from dataclasses import dataclass
from typing import Annotated

import aiohttp
import orjson
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictFloat,
    StrictInt,
    StrictStr,
    ValidationError,
)
from pydantic.alias_generators import to_camel

from tunesmith_api.analysis import AnalysisMetric, Endpoint
from tunesmith_operator.fetching import Unanswerable, Unanswered, fetch, in_short

_ANSWER_BYTES = 64 << 10
_LONGEST_VALUE = 64
_BAD_REQUEST = 400
_Value = StrictInt | StrictFloat | StrictStr | None
_Count = Annotated[StrictInt, Field(ge=0)] | None


class WebhookReply(BaseModel):
    """What a webhook answers; fields that we do not know are its own matter."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True)

    value: _Value = None
    stable_value: _Value = None
    requests: _Count = None
    stable_requests: _Count = None


@dataclass(frozen=True, slots=True)
class Webhook:
    """A user's webhook."""

    session: aiohttp.ClientSession
    endpoint: Endpoint

    async def ask(self, metric: AnalysisMetric, revision: str, stable: str) -> WebhookReply:
        """Ask for a metric; ``stable`` is empty where there is none. Raises Unanswered,
        or Unanswerable where the webhook refuses the question.
        """
        body = {
            "metric": metric.name,
            "query": metric.query or "",
            "revision": revision,
            "stableRevision": stable,
        }
        answer = await fetch(
            self.session,
            "POST",
            self.endpoint.url,
            body=orjson.dumps(body),
            seconds=self.endpoint.timeout_seconds,
            limit_bytes=_ANSWER_BYTES,
        )
        if answer.status != 200:
            kind = Unanswerable if answer.status == _BAD_REQUEST else Unanswered
            raise kind(f"the webhook says HTTP {answer.status}: {in_short(answer.body)}")
        try:
            return WebhookReply.model_validate_json(answer.body)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"][:1]))
            raise Unanswered(f"the webhook's answer: {where or 'body'}: {first['msg']}") from error


def as_text(value: int | float | str | None) -> str:
    """Give a value as a sample holds it."""
    return "" if value is None else str(value)[:_LONGEST_VALUE]
