"""Arrays on the disk that are used like those in memory: what is kept of each row.

They are mapped files without a name, so the system keeps as much of them in memory as it has room
for, and takes it back when something else needs it. Room on the disk is reserved before a file is
mapped: a full disk is an error that says how much is needed, never a SIGBUS. Whoever works on an
array of rows does so in pieces of ``CHUNK``. Called by ``gathering`` and all that compares rows.
"""

import errno
import mmap
import os
import sys
from collections.abc import Iterator
from math import prod
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tunesmith_trainer.disk import disk_full

CHUNK = 1 << 16
"""Rows that are worked on at once."""
_IN_MEMORY_BYTES = 1 << 18
"""A file is not worth it for less; so little is not worth counting."""


class Scratch:
    """A place for arrays. They are gone with the last reference to them."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory

    def file(self) -> IO[bytes]:
        """Open a file without a name."""
        return TemporaryFile(dir=self._directory, buffering=1 << 20)

    def zeros(self, shape: int | tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Give an array of zeros. Raises Infrastructure (DiskFull)."""
        kind = np.dtype(dtype)
        size = kind.itemsize * (shape if isinstance(shape, int) else prod(shape))
        if size <= _IN_MEMORY_BYTES:
            return np.zeros(shape, kind)
        with self.file() as file:
            self._reserve(file, size)
            return np.ndarray(shape, kind, buffer=mmap.mmap(file.fileno(), size))

    def counted(self, start: int, end: int) -> NDArray[np.int32]:
        """Give the numbers from ``start`` to before ``end``."""
        result = self.zeros(end - start, np.int32)
        for part in chunks(len(result)):
            result[part] = np.arange(start + part.start, start + part.stop)
        return result

    def taken(self, values: NDArray[Any], places: NDArray[Any]) -> NDArray[Any]:
        """Give ``values[places]``."""
        result = self.zeros((len(places), *values.shape[1:]), values.dtype)
        for part in chunks(len(places)):
            result[part] = values[places[part]]
        return result

    def column(self, dtype: DTypeLike, width: int = 0) -> "Column":
        """Give an empty column; one of a ``width`` has so many numbers a row."""
        return Column(self.file(), np.dtype(dtype), width)

    def _reserve(self, file: IO[bytes], size: int) -> None:
        try:
            if sys.platform == "linux":
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                for _ in chunks(size):
                    file.write(bytes(CHUNK))
                file.flush()
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise disk_full(self._directory, size, "what is kept of the rows") from error
            raise


class Column:
    """Numbers that are written one after the other, and an array when all are there."""

    def __init__(self, file: IO[bytes], dtype: np.dtype[Any], width: int) -> None:
        self._file, self._dtype, self._width = file, dtype, width
        self._added: list[int] = []

    def append(self, values: NDArray[Any]) -> None:
        """Write many. Raises OSError, now or later, when the disk is full."""
        self._file.write(values.astype(self._dtype, copy=False).tobytes())

    def add(self, value: int) -> None:
        """Write one, behind all that was added before. Raises as :meth:`append`."""
        self._added.append(value)
        if len(self._added) == CHUNK:
            self._write_added()

    def array(self) -> NDArray[Any]:
        """Give all numbers; nothing can be written any more."""
        self._write_added()
        with self._file as file:
            file.flush()
            size = file.tell()
            count = size // self._dtype.itemsize
            # An empty file cannot be mapped.
            data = mmap.mmap(file.fileno(), size) if size else None
        values = np.ndarray(count, self._dtype, buffer=data)
        return values.reshape(-1, self._width) if self._width else values

    def _write_added(self) -> None:
        self.append(np.array(self._added, self._dtype))
        self._added = []


def chunks(length: int) -> Iterator[slice]:
    """Cut so many rows into pieces."""
    return (slice(start, min(start + CHUNK, length)) for start in range(0, length, CHUNK))
