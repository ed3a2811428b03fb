"""What became of requests, from HAProxy's lines about answers.

HAProxy writes a line when an answer has ended, so a stream that breaks off is a failed one however
well it began. Told from what clients get:

    the answer                                              client's         copy's
    below 500, whole, or the client left in the middle      good             good
    500 and above, also HAProxy's own 502, 503, 504         failed           failed
    broken off by the endpoint, or silent for too long      failed           failed
    none, because the client left before                    not counted      not counted

Requests and errors are what clients got; copies, which answer nobody, only count for consecutive
errors: they are evidence about the revision, and their answers are known. The lines come through
one connection in the order of their ends, so nothing races. Kept by mark, see ``placement``.
Called by ``answers`` and ``router``.
"""

from collections.abc import Collection, Mapping
from enum import StrEnum
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

_FIELDS = 4


class Tally(BaseModel):
    """What was counted under one mark."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    requests: int = 0
    errors: int = 0
    consecutive_errors: int = 0
    copies: int = 0


class Kind(StrEnum):
    """Who asked."""

    CLIENT = "client"
    COPY = "copy"


class Outcome(StrEnum):
    """What became of a request."""

    GOOD = "good"
    FAILED = "failed"
    ABANDONED = "abandoned"


class Answered(NamedTuple):
    """A line."""

    mark: str
    kind: Kind
    outcome: Outcome


def parse_line(line: str) -> Answered | None:
    """Parse a line of haproxy.cfg's log-format; None for a request that reached no revision.

    Raises ValueError for what is no such line.
    """
    parts = line.split()
    if len(parts) != _FIELDS:
        raise ValueError("not a line about an answer")
    target, kind, status, termination = parts
    _, _, mark = target.partition(":")
    answered = Answered(mark, Kind(kind), judge(int(status), termination))
    return answered if mark else None


def judge(status: int, termination: str) -> Outcome:
    """Judge an answer by its status (-1 or 0: none) and HAProxy's two letters about its end."""
    who, when = termination[:1], termination[1:2]
    has_left = who in ("C", "c")
    # L: only HAProxy's own last bytes to the client were missing.
    if has_left:
        return Outcome.GOOD if when in ("D", "L") and status < 500 else Outcome.ABANDONED
    if status >= 500 or status <= 0:
        return Outcome.FAILED
    return Outcome.FAILED if who in ("S", "s") and when == "D" else Outcome.GOOD


def add(tally: Tally, answered: Answered) -> Tally:
    """Count one more."""
    if answered.outcome is Outcome.ABANDONED:
        return tally
    failed = answered.outcome is Outcome.FAILED
    is_client = answered.kind is Kind.CLIENT
    return Tally(
        requests=tally.requests + is_client,
        errors=tally.errors + (failed and is_client),
        consecutive_errors=tally.consecutive_errors + 1 if failed else 0,
        copies=tally.copies + (not is_client),
    )


class Tallies:
    """The tallies of all marks that matter; for one event loop."""

    def __init__(self, kept: Mapping[str, Tally]) -> None:
        """Go on from what was kept."""
        self._tallies = dict(kept)

    def of(self, mark: str) -> Tally:
        """Give the tally of a mark."""
        return self._tallies.get(mark, Tally())

    def count(self, answered: Answered) -> None:
        """Count an answer, unless it is of a revision that was forgotten."""
        if answered.mark in self._tallies:
            self._tallies[answered.mark] = add(self._tallies[answered.mark], answered)

    def follow(self, marks: Collection[str]) -> None:
        """Count for these marks from now on, and forget all others."""
        self._tallies = {mark: self.of(mark) for mark in marks}

    def snapshot(self) -> dict[str, Tally]:
        """Give all, by their marks."""
        return dict(self._tallies)
