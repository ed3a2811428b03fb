"""Files to rows: finds the files of a source, reads them line by line, and keeps count.

Constant memory for JSON lines; a file that is one JSON list is read whole. A row that cannot be
read is counted with its place, and the share of such rows decides at the end. Called by
``prepare``; the shape of a row is ``formats``' matter.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from json import JSONDecodeError, JSONDecoder
from pathlib import Path
from typing import NamedTuple

import orjson

from tunesmith_api.dataset import Checks
from tunesmith_api.run import PVC_PATH, UserErrorReason
from tunesmith_trainer.data.formats import Malformed, Reader
from tunesmith_trainer.logs import log
from tunesmith_trainer.outcome import UserError, shorten
from tunesmith_trainer.storage import Storage
from tunesmith_trainer.storage.locations import local_path

_SUFFIXES = (".jsonl", ".json")
_LONGEST_LINE_BYTES = 16 << 20
_LOGGED_EXAMPLES = 5
_EXCERPT = 80


class SourceFile(NamedTuple):
    """One file of a source."""

    uri: str
    path: Path


class Row(NamedTuple):
    """One conversation and where it was."""

    content: bytes
    """Its messages as canonical JSON: equal conversations have equal bytes."""
    file: str
    line: int


@dataclass
class Reading:
    """What was read so far, over all sources of a run."""

    checks: Checks
    rows: int = 0
    malformed: int = 0
    first: str = ""
    """The first malformed row, for the message."""
    files: list[str] = field(default_factory=list)

    def refuse(self, place: str, what: str, content: bytes) -> None:
        """Count a malformed row. Raises UserError (DatasetMalformed) where none is allowed."""
        self.malformed += 1
        text = shorten(content[: 4 * _EXCERPT].decode("utf-8", "replace"), _EXCERPT)
        message = f"{place}: {what}: {text}" if text else f"{place}: {what}"
        self.first = self.first or message
        if self.malformed <= _LOGGED_EXAMPLES:
            log.warning("malformed row", place=place, what=what, content=text)
        if Decimal(self.checks.fail_on_malformed) == 0:
            raise self._refused("")

    def finish(self) -> None:
        """Raise UserError (DatasetMalformed) when too large a share was malformed."""
        if self.malformed > Decimal(self.checks.fail_on_malformed) * self.rows:
            raise self._refused(f"{self.malformed} of {self.rows} rows cannot be read; the first: ")

    def _refused(self, start: str) -> UserError:
        return UserError(
            UserErrorReason.DATASET_MALFORMED,
            f"{start}{self.first}. Correct it, or allow a share of such rows with"
            " dataset.checks.failOnMalformed.",
        )


def find_files(
    uri: str, storage: Callable[[], Storage], directory: Path, on_bytes: Callable[[int], None]
) -> list[SourceFile]:
    """Bring the files of ``uri`` to this machine, in the order of their names.

    A URI that ends in a slash stands for all .jsonl and .json files below it.
    Raises UserError (DatasetNotFound, InvalidRun) and those of the storage.
    """
    if uri.startswith("pvc://"):
        return _volume_files(uri)
    if uri.endswith("/"):
        found = storage().download_prefix(
            uri, directory, on_bytes, include=lambda name: name.endswith(_SUFFIXES)
        )
        return [SourceFile(info.uri, path) for info, path in found]
    path = local_path(directory, uri.rpartition("/")[2])
    storage().download(uri, path, on_bytes)
    return [SourceFile(uri, path)]


def _volume_files(uri: str) -> list[SourceFile]:
    root = Path(PVC_PATH)
    path = local_path(root, uri.removeprefix("pvc://").rstrip("/"))
    if path.is_file():
        return [SourceFile(uri, path)]
    paths = sorted(p for p in path.rglob("*") if p.name.endswith(_SUFFIXES) and p.is_file())
    if not paths:
        raise UserError(
            UserErrorReason.DATASET_NOT_FOUND,
            f"{uri} is neither a file nor a folder with .jsonl or .json files on the volume."
            " Correct the URI in spec.dataset (pvc://CLAIM/PATH).",
        )
    return [
        SourceFile(
            f"pvc://{p.relative_to(root).as_posix()}", local_path(root, str(p.relative_to(root)))
        )
        for p in paths
    ]


def read_rows(
    files: list[SourceFile], reader: Reader, reading: Reading, on_row: Callable[[], None]
) -> Iterator[Row]:
    """Give the rows of all files in order; malformed ones are counted in ``reading``.

    ``on_row`` is called for each row and may raise. Raises UserError (DatasetMalformed,
    DatasetTooLarge, WrongColumns).
    """
    for file in files:
        reading.files.append(file.uri)
        for line, raw in _raw_rows(file.path):
            reading.rows += 1
            on_row()
            if reading.rows > reading.checks.max_rows:
                raise UserError(
                    UserErrorReason.DATASET_TOO_LARGE,
                    f"The data has more than {reading.checks.max_rows} rows. Raise"
                    " dataset.checks.maxRows or give fewer.",
                )
            try:
                yield Row(reader.parse(raw), file.uri, line)
            except Malformed as error:
                reading.refuse(f"{file.uri} line {line}", str(error), raw)


def _raw_rows(path: Path) -> Iterator[tuple[int, bytes]]:
    if _is_one_list(path):
        yield from _list_items(path)
        return
    with path.open("rb") as file:
        number = 0
        while line := file.readline(_LONGEST_LINE_BYTES):
            number += 1
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if stripped := line.strip():
                yield number, stripped


def _is_one_list(path: Path) -> bool:
    """Tell a file that is one JSON list from JSON lines, each of which may be a list too."""
    with path.open("rb") as file:
        first = file.readline(_LONGEST_LINE_BYTES).removeprefix(b"\xef\xbb\xbf").strip()
        while not first and (line := file.readline(_LONGEST_LINE_BYTES)):
            first = line.strip()
        more = any(line.strip() for line in iter(lambda: file.readline(_LONGEST_LINE_BYTES), b""))
    if not first.startswith(b"["):
        return False
    try:
        orjson.loads(first)
    except orjson.JSONDecodeError:
        return more
    return path.suffix == ".json" and not more


def _list_items(path: Path) -> Iterator[tuple[int, bytes]]:
    """Give the items of a JSON list with the lines they begin in.

    What follows an unreadable item cannot be told apart, so it ends the file as one bad row.
    """
    text = path.read_bytes().decode("utf-8-sig", "surrogateescape")
    decoder = JSONDecoder()
    position, line, seen = text.index("[") + 1, 1, 0
    while True:
        while position < len(text) and text[position] in " \t\r\n,":
            position += 1
        line += text.count("\n", seen, position)
        seen = position
        if position >= len(text) or text[position] == "]":
            return
        try:
            _, end = decoder.raw_decode(text, position)
        except (JSONDecodeError, RecursionError):
            end = len(text)
        yield line, text[position:end].encode("utf-8", "surrogateescape")
        position = end
