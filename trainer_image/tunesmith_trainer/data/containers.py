"""Files to records: what a row is in JSON lines, a JSON list and Parquet.

Streams, whatever the size of the file: memory holds one row, or one batch of a Parquet file.
Called by ``reading``; the shape of a row is ``rows``' matter.
"""

import io
import re
import tempfile
from collections.abc import Iterator
from json import JSONDecodeError, JSONDecoder
from typing import Any, BinaryIO, NamedTuple

import orjson

from tunesmith_api.result import UserErrorReason
from tunesmith_trainer.data.compression import (
    SourceFile,
    check_ratio,
    is_compressed,
    open_bytes,
    open_text,
    refuse,
)
from tunesmith_trainer.data.values import Malformed, RestLost
from tunesmith_trainer.outcome import UserError, shorten

LONGEST_LINE_BYTES = 16 << 20
JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
CSV_SUFFIXES = (".csv", ".tsv")
TABLE_SUFFIXES = (*CSV_SUFFIXES, ".parquet")
TEXT_SUFFIXES = (".txt", ".log", ".mbox", ".eml")
_CHUNK_CHARACTERS = 1 << 20
# Few, as a value that its file holds once may be large and is unpacked for each row.
_BATCH_ROWS = 64
_BOM = b"\xef\xbb\xbf"
TOO_LONG = f"longer than {LONGEST_LINE_BYTES >> 20} MiB; part it into several"
_BLANK = re.compile(r"[ \t\r\n,]*")


class Record(NamedTuple):
    """One row as it stands in its file."""

    line: int
    """Line it begins in; the number of the row where a file has no lines."""
    value: Any
    """What was parsed, or the Malformed that says why nothing was."""
    raw: bytes
    """Its beginning, for messages; empty where ``value`` shows it as well."""


def json_records(file: SourceFile) -> Iterator[Record]:
    """Give the rows of JSON lines, or the items of a file that is one JSON list."""
    if _is_one_list(file):
        yield from _list_items(file)
        return
    with open_text(file) as stream:
        for number, line in numbered_lines(stream):
            if len(line) > LONGEST_LINE_BYTES:
                yield Record(number, Malformed(TOO_LONG), line)
            elif line:
                yield Record(number, parse_json(line), line)


def numbered_lines(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Give all lines with their numbers, without white space around them.

    Of one that is longer than LONGEST_LINE_BYTES only the beginning comes, one byte too long.
    """
    for number, line in enumerate(iter(lambda: stream.readline(LONGEST_LINE_BYTES + 1), b""), 1):
        if len(line) > LONGEST_LINE_BYTES:
            yield number, line
            rest = line
            while rest and not rest.endswith(b"\n"):
                rest = stream.readline(LONGEST_LINE_BYTES)
        else:
            yield number, (line.removeprefix(_BOM) if number == 1 else line).strip()


def parse_json(raw: bytes) -> Any:
    """Parse one JSON value; gives a Malformed that says what is wrong."""
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        # As in an object that goes on in other lines.
        is_open = error.msg.startswith("unexpected end of data")
        do = "; give each row a line of its own, or all rows as one list" if is_open else ""
        return not_utf8(raw) or Malformed(f"not JSON ({error.msg} at character {error.colno}){do}")


def not_utf8(raw: bytes) -> Malformed | None:
    """Say where bytes are not UTF-8; None if they are."""
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        return Malformed(
            f"not UTF-8 (byte 0x{raw[error.start]:02x} at {error.start}); save the file as UTF-8"
        )
    return None


def check_names(file: SourceFile, columns: list[str]) -> None:
    """Raise UserError (WrongColumns) where nobody knows which of two columns is meant.

    Those without a name, as Excel adds on the right, are read by nobody.
    """
    repeated = sorted({name for name in columns if name and columns.count(name) > 1})
    if repeated:
        raise UserError(
            UserErrorReason.WRONG_COLUMNS,
            f"{file.uri} names the column {shorten(repr(repeated[0]), 60)} twice. A table needs a"
            " header (in text its first line) with another name for each column.",
        )


def _is_one_list(file: SourceFile) -> bool:
    """Tell a file that is one JSON list from JSON lines, each of which may be a list too."""
    with open_text(file) as stream:
        lines = (line for _, line in numbered_lines(stream) if line)
        first = next(lines, b"")
        if not first.startswith(b"["):
            return False
        more = next(lines, None) is not None
    try:
        orjson.loads(first)
    except orjson.JSONDecodeError:
        # A list that goes on in other lines; or stands in one line, which is too long for a row.
        is_cut = len(first) > LONGEST_LINE_BYTES
        return more is not is_cut or len(first) < 3 or file.suffix == ".json"
    return file.suffix == ".json" and not more


class _Window:
    """A part of a text that moves forward, and the line it begins in."""

    def __init__(self, stream: BinaryIO) -> None:
        # Bytes that are no UTF-8 come through, so that they are found in their own row.
        self._text = io.TextIOWrapper(stream, "utf-8-sig", "surrogateescape", newline="")
        self.text, self.position, self.line, self.ended = "", 0, 1, False

    def grow(self) -> None:
        """Read on: at least a chunk, and as much again as is there, so that few tries are made."""
        self.text = self.text[self.position :]
        self.position = 0
        more = self._text.read(max(_CHUNK_CHARACTERS, len(self.text)))
        self.ended = not more
        self.text += more

    def move(self, position: int) -> None:
        """Go to a later position of the text."""
        self.line += self.text.count("\n", self.position, position)
        self.position = position

    def skip_blank(self) -> bool:
        """Go to the next item; False at the end of the list or the file."""
        while True:
            found = _BLANK.match(self.text, self.position)
            self.move(found.end() if found else self.position)
            if self.position < len(self.text):
                return self.text[self.position] != "]"
            if self.ended:
                return False
            self.grow()


def _list_items(file: SourceFile) -> Iterator[Record]:
    """Give the items of a JSON list.

    What follows an unreadable item cannot be told apart: that is RestLost.
    """
    decoder = JSONDecoder()
    with open_text(file) as stream:
        window = _Window(stream)
        window.grow()
        window.move(window.text.index("[") + 1)
        while window.skip_blank():
            start = window.line
            value, end = _next_item(decoder, window)
            raw = window.text[window.position : end]
            window.move(end)
            yield Record(start, value, raw[:LONGEST_LINE_BYTES].encode("utf-8", "surrogateescape"))
            if isinstance(value, RestLost):
                return
        if window.ended and window.position >= len(window.text):
            yield Record(window.line, RestLost("the list has no end: the file is cut off"), b"")


def _next_item(decoder: JSONDecoder, window: _Window) -> tuple[Any, int]:
    while True:
        try:
            value, end = decoder.raw_decode(window.text, window.position)
        except (JSONDecodeError, RecursionError) as error:
            size = len(window.text) - window.position
            if isinstance(error, RecursionError) or window.ended or size > LONGEST_LINE_BYTES:
                what = f"not JSON ({error})" + ("" if window.ended else f", or {TOO_LONG}")
                return RestLost(what), len(window.text)
        else:
            # A number at the end of the window may go on behind it.
            if end < len(window.text) or window.ended:
                raw = window.text[window.position : end]
                bad = None if raw.isascii() else not_utf8(raw.encode("utf-8", "surrogateescape"))
                return bad or value, end
        window.grow()


def parquet_records(file: SourceFile) -> Iterator[Record]:
    """Give the rows of a Parquet file, a batch at a time."""
    if not is_compressed(file):
        yield from _parquet_rows(file, str(file.path))
        return
    # Its directory stands at the end, so it is unpacked to the disk first.
    with open_bytes(file) as packed, tempfile.TemporaryFile() as plain:
        while data := packed.read(_CHUNK_CHARACTERS):
            plain.write(data)
        yield from _parquet_rows(file, plain)


def _parquet_rows(file: SourceFile, source: Any) -> Iterator[Record]:
    import pyarrow as pa
    from pyarrow import parquet

    number = unpacked = 0
    try:
        # Buffered, a column is read page by page and not a row group at once.
        table = parquet.ParquetFile(source, buffer_size=_CHUNK_CHARACTERS, pre_buffer=False)
        check_names(file, table.schema_arrow.names)
        groups = range(table.metadata.num_row_groups)
        check_ratio(file, sum(table.metadata.row_group(n).total_byte_size for n in groups))
        for batch in table.iter_batches(batch_size=_BATCH_ROWS, use_threads=False):
            # The directory's sizes are those before dictionaries are put in.
            unpacked += batch.nbytes
            check_ratio(file, unpacked)
            for value in batch.to_pylist():
                number += 1
                yield Record(number, value, b"")
    except (pa.ArrowException, OSError) as error:
        refuse(
            file,
            f"no Parquet file, or damaged after row {number} ({shorten(str(error), 200)}): write or"
            " upload it again",
        )
