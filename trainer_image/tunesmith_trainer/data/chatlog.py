"""Chat logs: lines that say who speaks.

The grammar, which docs/data.md gives to users:

    LINE   = [TIME] NAME ":" TEXT      a turn; NAME is one of dataset.speakers, or System
           | RULE                      three or more of - = * # _ alone: a conversation ends
           | BLANK                     see below
           | TEXT                      goes on with the turn before
    TIME   = digits with . / - : T , in between, AM or PM, in brackets or not

A blank line followed by a user's turn ends a conversation, unless blank lines part questions from
answers in it too. So does half an hour without a turn, where turns have ISO dates and times.
Pure; called by ``textfiles`` and ``rows``.
"""

import re
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta

from tunesmith_api.dataset import Speakers
from tunesmith_trainer.data.containers import LONGEST_LINE_BYTES
from tunesmith_trainer.data.formats import Message, closed
from tunesmith_trainer.data.values import Malformed

_GAP = timedelta(minutes=30)
_TIME = (
    r"(?:[\[(]?(?P<time>\d{1,4}[-/.:]\d{1,2}(?:[-/.:]\d{1,4})?"
    r"(?:(?:,\s*|T|\s+)\d{1,2}:\d{2}(?::\d{2})?)?(?:[.,]\d+)?(?:Z|[+-]\d{2}:?\d{2})?"
    r"(?:\s*[AaPp]\.?[Mm]\.?)?)[\])]?\s*(?:[-|\u2013]\s*)?)?"
)
_RULE = re.compile(r"\s*([-=*#_])\1{2,}\s*$")
_ISO = re.compile(r"\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}(?::\d{2})?")


class ChatLog:
    """Reads logs with the given names; keeps no state between calls."""

    def __init__(self, speakers: Speakers) -> None:
        roles = {name.lower(): "user" for name in speakers.user}
        roles |= {name.lower(): "assistant" for name in speakers.assistant}
        self._roles = {"system": "system"} | roles
        names = "|".join(map(re.escape, sorted(self._roles, key=len, reverse=True)))
        self._turn = re.compile(
            rf"\s*{_TIME}<?(?P<name>{names})>?\s*:[ \t]*(?P<text>.*)", re.IGNORECASE | re.DOTALL
        )

    def begins_turn(self, line: str) -> bool:
        """Say whether somebody begins to speak in a line."""
        return self._turn.match(line) is not None

    def conversations(self, lines: Iterable[tuple[int, str]]) -> Iterator[tuple[int, str]]:
        """Part numbered lines into conversations, each with the line it begins in."""
        part = _Part()
        for number, line in lines:
            turn = self._turn.match(line)
            role = self._roles[turn["name"].lower()] if turn else ""
            time = _iso(turn["time"]) if turn else None
            if _RULE.match(line) or part.ends_before(role, time):
                yield from part.close()
            if not _RULE.match(line):
                part.add(number, line, role, time)
        yield from part.close()

    def messages(self, text: str) -> list[Message]:
        """Read one conversation. Raises Malformed."""
        messages: list[Message] = []
        for line in text.splitlines():
            turn = self._turn.match(line)
            if turn:
                role = self._roles[turn["name"].lower()]
                messages.append({"role": role, "content": turn["text"]})
            elif messages:
                messages[-1]["content"] += "\n" + line
            elif line.strip():
                raise Malformed(
                    "the first line names nobody of dataset.speakers before a colon; add the name"
                    " to them, or set dataset.format to Text if these are no chats"
                )
        return closed(joined(messages))


class _Part:
    """The lines of the conversation that is being read."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._first = self._size = 0
        self._after_blank = self._is_spaced = self._has_answer = False
        self._time: datetime | None = None

    def ends_before(self, role: str, time: datetime | None) -> bool:
        """Say whether a turn of ``role`` at ``time`` begins another conversation."""
        if self._size > LONGEST_LINE_BYTES:
            return True
        if role == "assistant" or not (role and self._has_answer):
            return False
        if time and self._time and abs(time - self._time) >= _GAP:
            return True
        return self._after_blank and not self._is_spaced

    def add(self, number: int, line: str, role: str, time: datetime | None) -> None:
        """Take one more line."""
        blank = not line.strip()
        if blank and not self._lines:
            return
        self._first = self._first or number
        self._size += len(line)
        self._lines.append(line.rstrip("\r\n"))
        if role == "assistant":
            self._is_spaced = self._is_spaced or self._after_blank
            self._has_answer = True
        self._time = time or self._time
        self._after_blank = blank

    def close(self) -> Iterator[tuple[int, str]]:
        """Give what was taken, if anything, and begin anew."""
        if self._lines:
            yield self._first, "\n".join(self._lines)
        self.__init__()  # type: ignore[misc]


def joined(messages: list[Message]) -> list[Message]:
    """Join turns of the same speaker that follow each other. Raises Malformed for empty ones."""
    merged: list[Message] = []
    for message in messages:
        content = message["content"].strip()
        if not content:
            continue
        if merged and merged[-1]["role"] == message["role"]:
            merged[-1]["content"] += "\n" + content
        else:
            merged.append({"role": message["role"], "content": content})
    if not merged:
        raise Malformed("a conversation without text")
    return merged


def _iso(text: str | None) -> datetime | None:
    found = _ISO.match(text or "")
    try:
        return datetime.fromisoformat(found[0]) if found else None
    except ValueError:
        return None
