"""Asks a model one question over OpenAI's API, without any sampling.

Called by ``golden`` for answers of a revision and by ``judge`` for scores of another model.
"""

from collections.abc import Mapping

import aiohttp
import orjson
from pydantic import BaseModel, ValidationError

from tunesmith_operator.fetching import Unanswered, fetch, in_short

_ANSWER_BYTES = 1 << 20
LONGEST_TEXT = 4096
"""Characters of an answer that are looked at."""


class Busy(Unanswered):
    """The model has no place for the question now."""


class KeyAsked(Unanswered):
    """Whoever was asked takes no questions from us."""


class Broken(Unanswered):
    """The model was asked and failed."""


class _Message(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    message: _Message


class _Completion(BaseModel):
    choices: list[_Choice]


async def complete(
    session: aiohttp.ClientSession,
    base_url: str,
    messages: list[dict[str, str]],
    *,
    model: str,
    max_tokens: int,
    seconds: float,
    headers: Mapping[str, str],
) -> str:
    """Give the answer's text; ``base_url`` ends in /v1 as a rule. Raises Unanswered."""
    asked: dict[str, object] = {
        "messages": messages,
        "temperature": 0,
        "max_tokens": max_tokens,
    }
    if model:
        asked["model"] = model
    answer = await fetch(
        session,
        "POST",
        base_url.rstrip("/") + "/chat/completions",
        body=orjson.dumps(asked),
        headers=headers,
        seconds=seconds,
        limit_bytes=_ANSWER_BYTES,
    )
    if answer.status != 200:
        kinds = {401: KeyAsked, 403: KeyAsked, 429: Busy}
        kind = kinds.get(answer.status, Broken if answer.status >= 500 else Unanswered)
        raise kind(f"HTTP {answer.status}: {in_short(answer.body)}")
    try:
        choices = _Completion.model_validate_json(answer.body).choices
    except ValidationError as error:
        raise Broken("the answer is no completion") from error
    text = choices[0].message.content if choices else None
    return (text or "")[:LONGEST_TEXT]
