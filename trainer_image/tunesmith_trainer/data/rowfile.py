"""Rows on the disk: written one after the other, read by their number, and picked without copying.

Memory holds 16 bytes a row of a file, and 4 of a selection. A full disk is an OSError of the write
that meets it. Called by ``gathering``, which lays all rows of a run into one file, and by whoever
chooses among rows.
"""

import os
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from tunesmith_trainer.data.reading import Row

_BUFFER_BYTES = 1 << 20


class RowFile(Sequence[Row]):
    """An append-only file of rows. Its place is made if it is not there; what was there is lost."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("w+b", buffering=_BUFFER_BYTES)
        self._ends = array("Q")
        self._lines = array("I")
        self._origins = array("I")
        self._names: dict[str, int] = {}
        self._files: list[str] = []
        self._written = 0
        """Rows that can be read back; later ones are in the buffer."""

    def append(self, row: Row) -> None:
        """Write a row. Raises OSError, now or later, when the disk is full."""
        self._file.write(row.content)
        self._ends.append((self._ends[-1] if self._ends else 0) + len(row.content))
        self._lines.append(row.line)
        number = self._names.setdefault(row.file, len(self._files))
        if number == len(self._files):
            self._files.append(row.file)
        self._origins.append(number)

    def extend(self, rows: Iterable[Row]) -> "Picked":
        """Write rows and give them, as they are read back. Raises OSError as :meth:`append`."""
        first = len(self)
        for row in rows:
            self.append(row)
        return Picked(self, np.arange(first, len(self), dtype=np.int32))

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | Sequence[Row]:
        if isinstance(index, slice):
            return pick(self, np.arange(len(self), dtype=np.int32)[index])
        number = range(len(self))[index]
        if number >= self._written:
            self._file.flush()
            self._written = len(self)
        start = self._ends[number - 1] if number else 0
        content = os.pread(self._file.fileno(), self._ends[number] - start, start)
        return Row(content, self._files[self._origins[number]], self._lines[number])


class Picked(Sequence[Row]):
    """Some rows of others, in an order of their own."""

    def __init__(self, rows: Sequence[Row], places: NDArray[np.int32]) -> None:
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

    def __add__(self, other: "Picked") -> "Picked":
        """Give the rows of both, which are of the same ones."""
        return Picked(self.rows, np.concatenate((self.places, other.places)))


def pick(rows: Sequence[Row], places: Any) -> Picked:
    """Give the rows at ``places`` ([N] integers), each as often as it is named."""
    wanted = np.asarray(places, dtype=np.int32)
    if isinstance(rows, Picked):
        return Picked(rows.rows, rows.places[wanted])
    return Picked(rows, wanted)
