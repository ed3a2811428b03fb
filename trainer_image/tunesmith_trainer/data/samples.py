"""A few rows that were left out, by reason, for people to look at.

Bounded whatever the size of the data. Filled by ``reading``, ``tally`` and ``tokenizing``, read by
``description``.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from enum import StrEnum

from tunesmith_api.report import DroppedSample
from tunesmith_trainer.outcome import shorten

_SAMPLES_A_REASON = 5
_EXCERPT = 200
_ONE_TEXT = 2 * _EXCERPT


class LeftOut(StrEnum):
    """Why a row is left out by other than cleaning."""

    MALFORMED = "Malformed"
    TOO_LONG = "TooLong"
    UNSUPERVISED = "Unsupervised"
    FEEDBACK = "Feedback"


class Samples:
    """The first rows that were left out for each reason."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self.rows: list[DroppedSample] = []

    def add(self, reason: str, file: str, line: int, texts: Callable[[], Iterable[str]]) -> None:
        """Keep a row if it is one of the first; only then ``texts`` is asked for what it says."""
        self._counts[reason] += 1
        if self._counts[reason] > _SAMPLES_A_REASON:
            return
        text = shorten(" ¶ ".join(text[:_ONE_TEXT] for text in texts()), _EXCERPT)
        self.rows.append(DroppedSample(reason=reason, file=file, line=line, text=text))
