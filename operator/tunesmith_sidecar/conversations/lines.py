"""Makes a line of the log out of an exchange, in a form that a FineTuneJob reads as it is.

``messages`` is the whole conversation with the answer as its last message, which is what
dataset.format Messages takes; the other members are for people and for joining. What has no such
form (tools, images, several prompts) gets no line. Pure; called by ``log``, in its thread.
"""

from typing import Any, NamedTuple

import orjson

from tunesmith_sidecar.conversations.masking import mask
from tunesmith_sidecar.usage import Answer, read_answer, read_stream

_ROLES = frozenset({"system", "user", "assistant"})


class Exchanged(NamedTuple):
    """One request and its complete answer, as the bytes they were."""

    request_id: str
    session: str
    request: bytes
    answer: bytes
    is_stream: bool

    @property
    def size(self) -> int:
        """Memory it takes, in bytes, roughly."""
        return len(self.request) + len(self.answer) + 512


class Feedback(NamedTuple):
    """What somebody thought of an answer."""

    rating: str
    """good, bad or neutral; empty where they only said something."""
    comment: str
    correction: str
    time: str = ""
    """When it came, in ISO 8601; the log knows."""

    @property
    def size(self) -> int:
        """Memory it takes, in bytes, at most."""
        return 4 * (len(self.comment) + len(self.correction)) + 512


def build_conversation(
    exchanged: Exchanged, feedback: Feedback | None, revision: str, time: str
) -> bytes | None:
    """Return the line of an exchange; None when it is not a conversation in plain text."""
    said = read_stream(exchanged.answer) if exchanged.is_stream else read_answer(exchanged.answer)
    messages = _messages(exchanged.request)
    if said is None or messages is None or not said.text.strip():
        return None
    if exchanged.is_stream and said.finish_reason is None:
        # The engine gave up in the middle; half an answer is nothing to learn from.
        return None
    return _line(
        {
            "id": exchanged.request_id,
            "session": mask(exchanged.session),
            "revision": revision,
            "time": time,
            "messages": [*messages, {"role": "assistant", "content": mask(said.text)}],
            "response": _response(said),
            "feedback": _feedback(feedback) if feedback else None,
        }
    )


def build_feedback(request_id: str, session: str, feedback: Feedback, revision: str) -> bytes:
    """Return the line of feedback whose conversation stands elsewhere, or nowhere."""
    return _line(
        {
            "id": request_id,
            "session": mask(session),
            "revision": revision,
            "time": feedback.time,
            "feedback": _feedback(feedback),
        }
    )


def _line(value: dict[str, Any]) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE)


def _response(said: Answer) -> dict[str, Any]:
    return {
        "id": said.id,
        "model": said.model,
        "finishReason": said.finish_reason,
        "promptTokens": said.usage.prompt_tokens if said.usage else None,
        "completionTokens": said.usage.completion_tokens if said.usage else None,
        "confidence": said.confidence,
    }


def _feedback(feedback: Feedback) -> dict[str, Any]:
    return {
        "rating": feedback.rating,
        "comment": mask(feedback.comment),
        "correction": mask(feedback.correction),
        "time": feedback.time,
    }


def _messages(body: bytes) -> list[dict[str, str]] | None:
    try:
        request = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(request, dict):
        return None
    if isinstance(request.get("prompt"), str):
        return _checked([{"role": "user", "content": request["prompt"]}])
    messages = request.get("messages")
    return _checked(messages) if isinstance(messages, list) else None


def _checked(messages: list[Any]) -> list[dict[str, str]] | None:
    """Return masked messages, None where the trainer would call the row malformed."""
    made = []
    for number, message in enumerate(messages):
        role = message.get("role") if isinstance(message, dict) else None
        if role not in _ROLES or (role == "system" and number > 0):
            return None
        content = _text(message.get("content"))
        if not content.strip():
            return None
        made.append({"role": role, "content": mask(content)})
    return made or None


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    parts = [
        part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None
        for part in content
    ]
    texts = [part for part in parts if isinstance(part, str)]
    return "".join(texts) if len(texts) == len(parts) else ""
