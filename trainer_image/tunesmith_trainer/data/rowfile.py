"""Rows on the disk: written one after the other, read by their number, and picked without copying.

Where they begin and which are picked is on the disk as well. A full disk is an OSError of the write
that meets it. Called by ``intake``, which lays all rows of a run into one file, and by whoever
chooses among rows.
"""

import os
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from tunesmith_trainer.data.reading import Row
from tunesmith_trainer.data.scratch import Scratch, chunks

_BUFFER_BYTES = 1 << 20
_ENTRY = struct.Struct("=QIII")
"""Of a row: where it begins, how many bytes it has, its line, and the number of its file."""


class RowFile(Sequence[Row]):
    """An append-only file of rows. Its place is made if it is not there; what was there is lost."""

    def __init__(self, path: Path, scratch: Scratch) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("w+b", buffering=_BUFFER_BYTES)
        self._entries = scratch.file()
        self._scratch = scratch
        self._names: dict[str, int] = {}
        self._files: list[str] = []
        self._count, self._size = 0, 0
        self._written = 0
        """Rows that can be read back; later ones are in the buffer."""

    def append(self, row: Row) -> None:
        """Write a row. Raises OSError, now or later, when the disk is full."""
        number = self._names.setdefault(row.file, len(self._files))
        if number == len(self._files):
            self._files.append(row.file)
        self._file.write(row.content)
        self._entries.write(_ENTRY.pack(self._size, len(row.content), row.line, number))
        self._size += len(row.content)
        self._count += 1

    def extend(self, rows: Iterable[Row]) -> "Picked":
        """Write rows and give them, as they are read back. Raises OSError as :meth:`append`."""
        first = len(self)
        for row in rows:
            self.append(row)
        self._flush()
        return Picked(self, self._scratch.counted(first, len(self)))

    def joined(self, selections: Sequence["Picked"]) -> "Picked":
        """Give the rows of several selections, one after the other."""
        places = self._scratch.column(np.int32)
        for selection in selections:
            for part in chunks(len(selection)):
                places.append(selection.places[part])
        return Picked(self, places.array())

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | Sequence[Row]:
        if isinstance(index, slice):
            return Picked(self, np.arange(len(self), dtype=np.int32)[index])
        number = range(len(self))[index]
        if number >= self._written:
            self._flush()
        entry = os.pread(self._entries.fileno(), _ENTRY.size, number * _ENTRY.size)
        start, size, line, file = _ENTRY.unpack(entry)
        return Row(os.pread(self._file.fileno(), size, start), self._files[file], line)

    def _flush(self) -> None:
        self._file.flush()
        self._entries.flush()
        self._written = len(self)


class Picked(Sequence[Row]):
    """Some rows of others, in an order of their own."""

    def __init__(self, rows: Sequence[Row], places: NDArray[Any]) -> None:
        self.rows, self.places = rows, places

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | Sequence[Row]:
        if isinstance(index, slice):
            return Picked(self.rows, self.places[index])
        return self.rows[int(self.places[index])]


def pick(rows: Sequence[Row], places: NDArray[Any], scratch: Scratch) -> Picked:
    """Give the rows at ``places`` ([N] integers), each as often as it is named."""
    if isinstance(rows, Picked):
        return Picked(rows.rows, scratch.taken(rows.places, places))
    return Picked(rows, places)
