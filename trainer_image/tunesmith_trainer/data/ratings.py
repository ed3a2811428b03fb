"""What was said of logged conversations: within their lines, and later.

A ModelDeployment's log has, beside its folder ``conversations/``, a folder ``feedback/`` for what
was said after a conversation was written, maybe to another pod or another revision. What was said
last counts, whichever file it is in. Called by ``intake`` and ``rows``.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import orjson

from tunesmith_trainer.data.compression import SourceFile, open_text
from tunesmith_trainer.data.containers import JSON_SUFFIXES, numbered_lines

_CONVERSATIONS, _FEEDBACK = "/conversations/", "/feedback/"


class Rating(NamedTuple):
    """What somebody said of an answer. The later one is the greater one."""

    time: str
    """When, in ISO 8601 and UTC; empty where nobody knows."""
    word: str
    """good, bad or neutral."""


def rating_of(value: Any) -> Rating | None:
    """Give the rating in a line of a conversation log; None where there is none."""
    feedback = value.get("feedback") if isinstance(value, dict) else None
    if not isinstance(feedback, dict):
        return None
    word = feedback.get("rating")
    if not isinstance(word, str) or not word:
        return None
    # Lines of older sidecars only have the time of the line.
    time = feedback.get("time") or value.get("time")
    return Rating(time if isinstance(time, str) else "", word)


def last_of(one: Rating | None, other: Rating | None) -> Rating | None:
    """Give the later of two; ``other`` where nobody knows."""
    if one is None or other is None:
        return one or other
    return one if one.time > other.time else other


def feedback_beside(uri: str) -> str:
    """Give the folder of what was said later, for a log's folder of conversations or a part of it.

    Empty for anything else.
    """
    log, folder, _ = uri.rpartition(_CONVERSATIONS)
    # A data set on the Hub is nobody's log.
    return log + _FEEDBACK if folder and not uri.startswith("hf://") else ""


def late_ratings(files: Iterable[SourceFile]) -> dict[str, Rating]:
    """Give what was said later, by the id of its conversation, of all files that hold such."""
    late: dict[str, Rating] = {}
    for file in files:
        if _FEEDBACK in file.uri and file.suffix in JSON_SUFFIXES:
            _read(file, late)
    return late


def _read(file: SourceFile, late: dict[str, Rating]) -> None:
    with open_text(file) as stream:
        for _, line in numbered_lines(stream):
            try:
                value = orjson.loads(line or b"null")
            except orjson.JSONDecodeError:
                continue  # Counted as malformed where the file's rows are read.
            rating = rating_of(value)
            if rating is not None:
                name = str(value.get("id", ""))
                late[name] = last_of(late.get(name), rating) or rating
