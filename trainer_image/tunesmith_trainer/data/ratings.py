"""What was said of logged conversations: within their lines, and later.

A ModelDeployment's log has, beside its folder ``conversations/``, a folder ``feedback/`` for what
was said after a conversation was written, maybe to another pod or another revision. What was said
last counts, whichever file it is in. Called by ``intake``, ``rows`` and the command line.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import orjson

from tunesmith_trainer.data.compression import SourceFile, open_text
from tunesmith_trainer.data.containers import JSON_SUFFIXES, numbered_lines

_CONVERSATIONS, _FEEDBACK = "/conversations/", "/feedback/"


class Remark(NamedTuple):
    """Something that was said of an answer. The later one is the greater one."""

    time: str
    """When, in ISO 8601 and UTC; empty where nobody knows."""
    text: str


class Said(NamedTuple):
    """What was said of an answer last."""

    rating: Remark | None = None
    """good, bad or neutral."""
    correction: Remark | None = None
    """What the answer should have been."""

    def then(self, other: "Said") -> "Said":
        """Give what counts of both: the later one each, and ``other``'s where nobody knows."""
        return Said(
            _last_of(self.rating, other.rating), _last_of(self.correction, other.correction)
        )


def said_in(value: Any) -> Said:
    """Give what a line of a conversation log says of its answer."""
    feedback = value.get("feedback") if isinstance(value, dict) else None
    if not isinstance(feedback, dict):
        return Said()
    when = _time_of(value)
    words = (feedback.get(name) for name in ("rating", "correction"))
    return Said(*(Remark(when, w) if isinstance(w, str) and w.strip() else None for w in words))


def _last_of(one: Remark | None, other: Remark | None) -> Remark | None:
    if one is None or other is None:
        return one or other
    return one if one.time > other.time else other


def feedback_beside(uri: str) -> str:
    """Give the folder of what was said later, for a log's folder of conversations or a part of it.

    Empty for anything else.
    """
    # A folder on a disk may be named without its slash.
    log, folder, _ = f"{uri}/".rpartition(_CONVERSATIONS)
    # A data set on the Hub is nobody's log.
    return log + _FEEDBACK if folder and not uri.startswith("hf://") else ""


def said_later(files: Iterable[SourceFile], *, with_corrections: bool) -> dict[str, Said]:
    """Give what was said later, by the id of its conversation, of all files that hold such.

    Corrections may be long, so they are kept only where they are asked for.
    """
    late: dict[str, Said] = {}
    for value in feedback_lines(files):
        said = said_in(value)
        if not with_corrections:
            said = said._replace(correction=None)
        if any(said):
            name = str(value.get("id", ""))
            late[name] = late.get(name, Said()).then(said)
    return late


def feedback_lines(files: Iterable[SourceFile]) -> Iterator[dict[str, Any]]:
    """Give the lines of a log's files of feedback, whatever else is among ``files``."""
    for file in files:
        if _FEEDBACK not in file.uri or file.suffix not in JSON_SUFFIXES:
            continue
        with open_text(file) as stream:
            for _, line in numbered_lines(stream):
                try:
                    value = orjson.loads(line or b"null")
                except orjson.JSONDecodeError:
                    continue  # Counted as malformed where the file's rows are read.
                if isinstance(value, dict):
                    yield value


def all_said(lines: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Give the feedback of one conversation's lines together: of each member what came last."""
    given = [line for line in lines if isinstance(line.get("feedback"), dict)]
    said: dict[str, Any] = {}
    for line in sorted(given, key=_time_of):
        said |= {name: what for name, what in line["feedback"].items() if what or name not in said}
    return said


def _time_of(line: dict[str, Any]) -> str:
    # Lines of older sidecars only have the time of the line.
    time = line["feedback"].get("time") or line.get("time")
    return time if isinstance(time, str) else ""
