"""Files to rows: reads them one by one, and keeps count.

A row that cannot be read is counted with its place, and the share of such rows decides at the
end. Called by ``gathering``; how a file is parted is ``containers``' matter, the shape of a row
``rows``'.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, NamedTuple

import orjson

from tunesmith_api.dataset import Checks, DataFormat
from tunesmith_api.result import UserErrorReason
from tunesmith_trainer.data.compression import SourceFile
from tunesmith_trainer.data.containers import (
    CSV_SUFFIXES,
    TEXT_SUFFIXES,
    Record,
    json_records,
    parquet_records,
)
from tunesmith_trainer.data.csvfiles import csv_records
from tunesmith_trainer.data.rows import Reader
from tunesmith_trainer.data.samples import LeftOut, Samples
from tunesmith_trainer.data.textfiles import TEXT_FORMATS, detect_text, text_records
from tunesmith_trainer.data.texts import row_texts
from tunesmith_trainer.data.values import Malformed, RestLost
from tunesmith_trainer.logs import log
from tunesmith_trainer.outcome import UserError, shorten

_EXAMPLES = 5
_EXCERPT = 80
_BEGINNING = 1024


class Row(NamedTuple):
    """One conversation and where it was."""

    content: bytes
    """Its canonical JSON: a list of messages, {"text"}, or a preference. Equal rows have equal
    bytes."""
    file: str
    line: int


@dataclass
class Reading:
    """What was read so far, over all sources of a run."""

    checks: Checks
    mask: Callable[[str], str] = str
    """What is done to data before it is shown; nothing unless given."""
    rows: int = 0
    malformed: int = 0
    filtered: int = 0
    """Rows left out because of their feedback."""
    examples: list[str] = field(default_factory=list)
    """The first malformed rows: place, what is wrong, and how they begin."""
    samples: Samples = field(default_factory=Samples)
    """Of these, and of those that are left out as tokens, a few to look at."""
    files: list[str] = field(default_factory=list)

    def refuse(self, file: str, line: int, what: str, content: bytes) -> None:
        """Count a malformed row. Raises UserError (DatasetMalformed) where none is allowed."""
        self.malformed += 1
        if len(self.examples) < _EXAMPLES:
            # Masked before it is cut, as half an address is no longer found.
            beginning = self.mask(content[:_BEGINNING].decode("utf-8", "replace"))
            what, place = self.mask(what), f"{file} line {line}"
            self.samples.add(LeftOut.MALFORMED, file, line, lambda: (f"{what}: {beginning}",))
            text = shorten(beginning, _EXCERPT)
            self.examples.append(f"{place}: {what}: {text}" if text else f"{place}: {what}")
            log.warning("malformed row", place=place, what=what, content=text)
        if Decimal(self.checks.fail_on_malformed) == 0:
            raise self._refused("")

    def filter(self, file: str, line: int, rating: str, value: Any) -> None:
        """Count a row that its feedback keeps out."""
        self.filtered += 1
        said = f"rated {rating}" if rating else "not rated"
        self.samples.add(
            LeftOut.FEEDBACK,
            file,
            line,
            # Masked before it is cut, as half an address is no longer found.
            lambda: (said, *(self.mask(text) for text in row_texts(orjson.dumps(value)))),
        )

    def finish(self) -> None:
        """Raise UserError (DatasetMalformed) when too large a share was malformed."""
        if self.malformed > Decimal(self.checks.fail_on_malformed) * self.rows:
            raise self._refused(f"{self.malformed} of {self.rows} rows cannot be read; the first: ")

    def cut_short(self) -> UserError:
        """Give the error of a file that cannot be read on: nobody knows how many rows it has."""
        return UserError(
            UserErrorReason.DATASET_MALFORMED,
            f"{self.examples[-1]}. All that follows in the file would be lost: correct it.",
        )

    def _refused(self, start: str) -> UserError:
        return UserError(
            UserErrorReason.DATASET_MALFORMED,
            f"{start}{self.examples[0]}. Correct it, or allow a share of such rows with"
            " dataset.checks.failOnMalformed.",
        )


def read_rows(
    files: list[SourceFile], reader: Reader, reading: Reading, on_row: Callable[[], None]
) -> Iterator[Row]:
    """Give the rows of all files in order; malformed ones are counted in ``reading``.

    ``on_row`` is called for each row and may raise. Raises UserError (DatasetMalformed,
    DatasetTooLarge, WrongColumns).
    """
    for file in files:
        reading.files.append(file.uri)
        for line, value, raw in records(file, reader):
            reading.rows += 1
            on_row()
            if reading.rows > reading.checks.max_rows:
                raise UserError(
                    UserErrorReason.DATASET_TOO_LARGE,
                    f"The data has more than {reading.checks.max_rows} rows. Raise"
                    " dataset.checks.maxRows or give fewer.",
                )
            try:
                content = reader.convert(value, f"{file.uri} line {line}")
            except Malformed as error:
                shown = raw or orjson.dumps(value, default=str) if value is not error else raw
                reading.refuse(file.uri, line, str(error), shown)
                if isinstance(error, RestLost):
                    raise reading.cut_short() from error
                continue
            if content is None:
                _leave_out(reading, reader, file.uri, line, value)
            else:
                yield Row(content, file.uri, line)


def _leave_out(reading: Reading, reader: Reader, file: str, line: int, value: Any) -> None:
    if reader.is_conversation(value):
        reading.filter(file, line, reader.rating(value), value)
    else:
        # What was said of a conversation that stands elsewhere is nothing to look at.
        reading.filtered += 1


def records(file: SourceFile, reader: Reader) -> Iterator[Record]:
    """Give what stands in a file, by the ending of its name; others are JSON lines.

    Raises UserError (DatasetMalformed, WrongColumns) for a file that cannot be read as a whole.
    """
    if file.suffix in CSV_SUFFIXES:
        return csv_records(file)
    if file.suffix == ".parquet":
        return parquet_records(file)
    is_text = file.suffix in TEXT_SUFFIXES or (not file.suffix and reader.format in TEXT_FORMATS)
    return _text_records(file, reader) if is_text else json_records(file)


def _text_records(file: SourceFile, reader: Reader) -> Iterator[Record]:
    if reader.format is None:
        reader.format = detect_text(file, reader.chat)
    if reader.format not in TEXT_FORMATS:
        names = ", ".join(format_.value for format_ in (DataFormat.AUTO, *TEXT_FORMATS))
        raise UserError(
            UserErrorReason.WRONG_COLUMNS,
            f"{file.uri} is a file of text, which format {reader.format.value} cannot read. Set"
            f" the format to one of {names}.",
        )
    return text_records(file, reader.format, reader.chat)
