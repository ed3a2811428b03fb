"""What `dataset.clean` does to each row by itself: texts are changed, rows dropped, all is counted.

The order is fixed: repair (HTML, characters, white space), mask, judge, then drop what was seen
before, so that rows are compared as they will be trained on. Pure but for the memory of what was
seen; called by ``gathering``. Near duplicates are ``repeats``' matter.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from tunesmith_api.cleaning import (
    Clean,
    Deduplication,
    Html,
    Profanity,
    Repetition,
    TextPolicy,
    Unicode,
    Whitespace,
)
from tunesmith_trainer.data import repair
from tunesmith_trainer.data.judging import (
    LanguageFilter,
    ProfanityFilter,
    is_repetitive,
    quality,
)
from tunesmith_trainer.data.masking import Kind, Masker
from tunesmith_trainer.data.reading import Row
from tunesmith_trainer.data.scratch import Scratch
from tunesmith_trainer.data.seen import SeenKeys
from tunesmith_trainer.data.tally import Reason, Tally, content_key
from tunesmith_trainer.data.texts import change_texts, row_texts, said_texts

_PROFANITY = "[PROFANITY]"
_REPAIRS: tuple[tuple[str, object, Callable[[str], str]], ...] = (
    ("html", Html.REMOVE, repair.without_html),
    ("unicode", Unicode.NORMALIZE, repair.composed),
    ("unicode", Unicode.REPAIR, repair.repaired),
    ("whitespace", Whitespace.NORMALIZE, repair.evenly_spaced),
)


class Cleaner:
    """Cleans the rows of one part of a data set."""

    def __init__(
        self, clean: Clean, tally: Tally, scratch: Scratch, seen: SeenKeys | None = None
    ) -> None:
        """``seen`` has rows that those of this part may repeat.

        Raises UserError (InvalidRun) for a language that is not known.
        """
        self._tally = tally
        is_off = clean.deduplicate is Deduplication.OFF
        self._seen = None if is_off else seen or SeenKeys(scratch)
        self._editor = _Editor(clean)
        self._judge = _Judge(clean)

    def clean(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Give the rows that stay, in order, with their texts changed."""
        for row in rows:
            changed, reason = self._editor.edit(row, self._tally.masked)
            reason = reason or self._judge.reason_to_drop(changed) or self._repeated(changed)
            if reason is None:
                yield changed
            else:
                self._tally.drop(reason, changed)

    def _repeated(self, row: Row) -> Reason | None:
        if self._seen is None or self._seen.add(content_key(row)):
            return None
        return Reason.DUPLICATE


class _Editor:
    """Changes texts."""

    def __init__(self, clean: Clean) -> None:
        self._changes = [
            change for name, value, change in _REPAIRS if getattr(clean, name) is value
        ]
        self._masker = Masker(_policies(clean))
        self._profanity = (
            ProfanityFilter(clean.language) if clean.profanity is Profanity.MASK else None
        )

    def edit(self, row: Row, masked: Counter[str]) -> tuple[Row, Reason | None]:
        """Give the row as it will be, and why it is dropped, if it is; count what was masked."""
        if not self._changes and not self._masker and self._profanity is None:
            return row, None
        found: Counter[Kind] = Counter()
        profane, is_emptied = 0, False

        def change(text: str) -> str:
            nonlocal profane, is_emptied
            for step in self._changes:
                text = step(text)
            if self._masker:
                text = self._masker.mask(text, found)
            if self._profanity:
                text, count = _masked(text, self._profanity.find(text))
                profane += count
            is_emptied |= not text or text.isspace()
            return text

        row = row._replace(content=change_texts(row.content, change))
        if reason := self._masker.reason_to_drop(found):
            return row, reason
        if is_emptied:
            return row, Reason.EMPTIED
        masked.update({kind.value: count for kind, count in found.items()})
        if profane:
            masked["PROFANITY"] += profane
        return row, None


class _Judge:
    """Drops rows by what they say."""

    def __init__(self, clean: Clean) -> None:
        self._fewest, self._most = clean.min_characters, clean.max_characters
        checks: list[tuple[Reason, Callable[[str], bool]]] = []
        if clean.language:
            checks.append((Reason.LANGUAGE, LanguageFilter(clean.language).refuses))
        if clean.profanity is Profanity.DROP:
            words = ProfanityFilter(clean.language)
            checks.append((Reason.PROFANITY, lambda text: bool(words.find(text))))
        if clean.repetition is Repetition.DROP:
            checks.append((Reason.REPETITION, is_repetitive))
        if lowest := float(clean.min_quality):
            checks.append((Reason.QUALITY, lambda text: quality(text) < lowest))
        self._checks = checks

    def reason_to_drop(self, row: Row) -> Reason | None:
        """Give the first rule that the row breaks."""
        if self._fewest or self._most:
            length = sum(map(len, row_texts(row.content)))
            if length < self._fewest:
                return Reason.TOO_SHORT
            if 0 < self._most < length:
                return Reason.TOO_LONG
        if not self._checks:
            return None
        text = "\n".join(said_texts(row.content))
        return next((reason for reason, refuses in self._checks if refuses(text)), None)


def text_masker(clean: Clean) -> Callable[[str], str]:
    """Give what masks data that is only shown, as the texts of rows are masked."""
    masker = Masker(_policies(clean))
    return lambda text: masker.mask(text, Counter())


def _policies(clean: Clean) -> dict[Kind, TextPolicy]:
    return dict.fromkeys(Kind, clean.pii) | {
        Kind.URL: clean.urls,
        Kind.EMAIL: clean.emails or clean.pii,
        Kind.PHONE: clean.phones or clean.pii,
    }


def _masked(text: str, found: list[tuple[int, int]]) -> tuple[str, int]:
    for start, end in reversed(found):
        text = text[:start] + _PROFANITY + text[end:]
    return text, len(found)
