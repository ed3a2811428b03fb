"""Tables of text to records: CSV with a header, parted by commas, semicolons or tabs.

Streams as ``containers`` does, and is called by ``reading`` likewise.
"""

import csv
import io
import re
from collections.abc import Iterator
from typing import Any, Self

from tunesmith_trainer.data.compression import SourceFile, open_text, refuse
from tunesmith_trainer.data.containers import (
    LONGEST_LINE_BYTES,
    TOO_LONG,
    Record,
    check_names,
    not_utf8,
)
from tunesmith_trainer.data.values import Malformed, RestLost

# The first line that Excel reads itself.
_SAYS_DELIMITER = re.compile(r"\"?sep=([,;|\t])\"?\s*$", re.IGNORECASE)


def csv_records(file: SourceFile) -> Iterator[Record]:
    """Give the rows of a table with a header; commas, semicolons or tabs part the columns."""
    csv.field_size_limit(LONGEST_LINE_BYTES)
    with open_text(file) as stream:
        text = io.TextIOWrapper(stream, "utf-8-sig", "surrogateescape", newline="")
        lines = _TableLines(text)
        delimiter = lines.delimiter or max(",;\t", key=lines.header.count)
        table = csv.reader(lines, delimiter=delimiter, strict=True)
        header = _header(file, table)
        while True:
            lines.begin_row()
            try:
                cells = next(table)
            except StopIteration:
                return
            except csv.Error as error:
                raw = lines.beginning.encode("utf-8", "surrogateescape")
                yield Record(lines.first, _not_csv(error), raw)
                continue
            # Excel writes rows of nothing but delimiters behind the last one.
            if any(cell.strip() for cell in cells):
                raw = delimiter.join(cells).encode("utf-8", "surrogateescape")
                yield Record(lines.first, _table_row(header, cells, delimiter, raw), raw)


def _not_csv(error: csv.Error) -> Malformed:
    # With a quote that is never closed, all further rows are part of this one.
    is_open = str(error) == "unexpected end of data"
    kind = RestLost if is_open else Malformed
    return kind("not CSV (a quote is not closed)" if is_open else f"not CSV ({error})")


class _TableLines:
    """The lines of a table, of which the row that is read knows where and how it begins."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text, self._number = text, 0
        self.header = text.readline(LONGEST_LINE_BYTES)
        self.delimiter = ""
        """What the file itself says; empty where it does not."""
        if said := _SAYS_DELIMITER.match(self.header):
            self.delimiter, self._number = said[1], 1
            self.header = text.readline(LONGEST_LINE_BYTES)
        self._waiting = [self.header]
        self.begin_row()

    def begin_row(self) -> None:
        """Say that the next line is the first one of a row."""
        self.first, self.beginning = self._number + 1, ""

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        """Give the next line. Raises csv.Error for one that is too long, and goes on behind it."""
        line = self._waiting.pop() if self._waiting else self._text.readline(LONGEST_LINE_BYTES)
        if not line:
            raise StopIteration
        self._number += 1
        self.beginning = self.beginning or line
        if len(line) == LONGEST_LINE_BYTES and not line.endswith(("\n", "\r")):
            while line and not line.endswith(("\n", "\r")):
                line = self._text.readline(LONGEST_LINE_BYTES)
            raise csv.Error(f"line {self._number} is {TOO_LONG}")
        return line


def _header(file: SourceFile, table: Iterator[list[str]]) -> list[str]:
    try:
        header = [name.strip() for name in next(table, [])]
    except csv.Error as error:
        refuse(file, f"no table: the header is not CSV ({error}); correct its first line")
    check_names(file, header)
    return header


def _table_row(header: list[str], cells: list[str], delimiter: str, raw: bytes) -> Any:
    if len(cells) != len(header):
        return Malformed(
            f"{len(cells)} values where the header has {len(header)} columns; quote values that"
            f" contain {delimiter!r}"
        )
    return not_utf8(raw) or dict(zip(header, cells, strict=True))
