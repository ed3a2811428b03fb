"""What an engine's answer says about itself: tokens, text, why it ended, how sure it was.

Reads bytes that were already passed on; changes nothing and never guesses: what an engine does
not say is None. Pure. Called by ``proxy``, ``predict`` and the conversation log.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import orjson


class Usage(NamedTuple):
    """Tokens as the engine counts them."""

    prompt_tokens: int
    completion_tokens: int


class Answer(NamedTuple):
    """The first choice of an answer."""

    text: str
    """Empty where there is none, as with a tool call."""
    finish_reason: str | None
    usage: Usage | None
    confidence: float | None
    """Geometric mean of the probabilities of its tokens, between 0 and 1."""
    model: str
    id: str


class Tail:
    """The end of a stream, where usage is; its beginning is let go, so memory is bounded."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept = bytearray()
        self.size = 0
        """Bytes that came, also those that were let go."""

    def add(self, chunk: bytes) -> None:
        """Take the next bytes."""
        self._kept += chunk
        self.size += len(chunk)
        if len(self._kept) > self._limit:
            del self._kept[: -self._limit]

    def data(self) -> bytes:
        """Return what was kept: all of it when it is shorter than the limit."""
        return bytes(self._kept)


def read_usage(body: bytes) -> Usage | None:
    """Return the usage in a JSON answer."""
    value = _parse(body)
    return _usage(value) if value else None


def read_stream_usage(tail: bytes) -> Usage | None:
    """Return the usage near the end of a stream of events.

    OpenAI's engines send it in the last event when asked with stream_options, llama-server always
    as ``timings``.
    """
    for line in reversed(tail.splitlines()):
        if b'"usage"' in line or b'"timings"' in line:
            event = _event(line)
            usage = _usage(event) if event else None
            if usage:
                return usage
    return None


def has_stream_error(tail: bytes) -> bool:
    """Tell whether the engine broke a stream off with an error event, after its 200."""
    return any(
        b'"error"' in line and (_event(line) or {}).get("error") is not None
        for line in tail.splitlines()
    )


def read_answer(body: bytes) -> Answer | None:
    """Return what a JSON answer says; None when it is not one."""
    value = _parse(body)
    choice = _first_choice(value)
    if value is None or choice is None:
        return None
    text = _choice_text(choice, "message")
    return Answer(
        text,
        _string(choice.get("finish_reason")) or None,
        _usage(value),
        _confidence(choice.get("logprobs")),
        _string(value.get("model")),
        _string(value.get("id")),
    )


def read_stream(body: bytes) -> Answer | None:
    """Return what a whole stream of events says; None when no event is one of an answer."""
    texts: list[str] = []
    finish: str | None = None
    last: dict[str, Any] | None = None
    for event in _events(body):
        choice = _first_choice(event)
        if choice is None or choice.get("index", 0) != 0:
            continue
        last = event
        texts.append(_choice_text(choice, "delta"))
        finish = _string(choice.get("finish_reason")) or finish
    if last is None:
        return None
    usage = read_stream_usage(body)
    return Answer(
        "".join(texts), finish, usage, None, _string(last.get("model")), _string(last.get("id"))
    )


def _events(body: bytes) -> Iterator[dict[str, Any]]:
    for line in body.splitlines():
        event = _event(line)
        if event is not None:
            yield event


def _event(line: bytes) -> dict[str, Any] | None:
    if not line.startswith(b"data:"):
        return None
    return _parse(line[5:])


def _parse(data: bytes) -> dict[str, Any] | None:
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


def _first_choice(value: dict[str, Any] | None) -> dict[str, Any] | None:
    choices = value.get("choices") if value else None
    if isinstance(choices, list) and choices and isinstance(choices[0], dict):
        return choices[0]
    return None


def _choice_text(choice: dict[str, Any], member: str) -> str:
    inner = choice.get(member)
    if isinstance(inner, dict):
        return _string(inner.get("content"))
    return _string(choice.get("text"))


def _string(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _usage(value: dict[str, Any]) -> Usage | None:
    # llama-server names the same counts prompt_n and predicted_n; prompt_n leaves out what came
    # from its cache, so OpenAI's own member goes first.
    names = (
        ("usage", "prompt_tokens", "completion_tokens"),
        ("timings", "prompt_n", "predicted_n"),
    )
    for member, prompt, completion in names:
        found = value.get(member)
        if isinstance(found, dict):
            counts = (found.get(prompt), found.get(completion, 0))
            if all(isinstance(count, int) and count >= 0 for count in counts):
                return Usage._make(counts)
    return None


def _confidence(logprobs: Any) -> float | None:
    """Return the geometric mean of the tokens' probabilities: exp(mean(log p))."""
    tokens = logprobs.get("content") if isinstance(logprobs, dict) else None
    if not isinstance(tokens, list):
        return None
    found = [token.get("logprob") if isinstance(token, dict) else None for token in tokens]
    values = [value for value in found if isinstance(value, int | float)]
    if not values or len(values) < len(found):
        return None
    return min(1.0, math.exp(sum(values) / len(values)))
