"""What cleaning dropped and masked: counts by reason, and a few dropped rows to look at.

Bounded whatever the size of the data. Written by ``cleaning`` and ``repeats``, read by ``prepare``.
"""

from collections import Counter
from enum import StrEnum

from xxhash import xxh3_128_digest

from tunesmith_api.datastatus import DroppedRows, MaskedPieces
from tunesmith_api.report import DroppedSample
from tunesmith_trainer.data.reading import Row
from tunesmith_trainer.data.samples import Samples
from tunesmith_trainer.data.texts import row_texts


class Reason(StrEnum):
    """Why a row was dropped; docs/cleaning.md says what each means."""

    URL = "Url"
    EMAIL = "Email"
    PHONE = "Phone"
    PII = "PersonalData"
    EMPTIED = "Emptied"
    TOO_SHORT = "TooFewCharacters"
    TOO_LONG = "TooManyCharacters"
    LANGUAGE = "OtherLanguage"
    PROFANITY = "Profanity"
    REPETITION = "Repetition"
    QUALITY = "LowQuality"
    DUPLICATE = "Duplicate"
    NEAR_DUPLICATE = "NearDuplicate"
    HELD_OUT = "HeldOut"


_REPEATED = (Reason.DUPLICATE, Reason.NEAR_DUPLICATE, Reason.HELD_OUT)


def content_key(row: Row) -> bytes:
    """Return what stands for the row's content: 16 bytes, equal for equal rows."""
    return xxh3_128_digest(row.content)


class Tally:
    """Counts over all parts of a data set."""

    def __init__(self) -> None:
        self._dropped: Counter[Reason] = Counter()
        self.masked: Counter[str] = Counter()
        """Pieces masked or removed, by kind."""
        self._samples = Samples()

    def drop(self, reason: Reason, row: Row) -> None:
        """Count a row that is dropped."""
        self._dropped[reason] += 1
        self._samples.add(reason.value, row.file, row.line, lambda: row_texts(row.content))

    @property
    def samples(self) -> list[DroppedSample]:
        """The first rows that were dropped for each reason."""
        return self._samples.rows

    @property
    def duplicates(self) -> int:
        """Rows dropped because another one says the same."""
        return sum(self._dropped[reason] for reason in _REPEATED)

    @property
    def held_out(self) -> int:
        """Those of them whose other one is in a part that is held out."""
        return self._dropped[Reason.HELD_OUT]

    @property
    def cleaned(self) -> int:
        """Rows dropped for another reason."""
        return self._dropped.total() - self.duplicates

    def dropped(self) -> tuple[DroppedRows, ...]:
        """Give the counts that are not 0, in the order of the rules."""
        return tuple(
            DroppedRows(reason=reason.value, rows=self._dropped[reason])
            for reason in Reason
            if self._dropped[reason]
        )

    def masked_pieces(self) -> tuple[MaskedPieces, ...]:
        """Give what was masked or removed, by kind."""
        return tuple(
            MaskedPieces(kind=kind, pieces=pieces) for kind, pieces in sorted(self.masked.items())
        )
