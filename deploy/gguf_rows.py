"""Finds a matrix in a GGUF file and moves its rows, which spoils a model without breaking it.

Every number stays a number the model had, so an engine loads the file and answers as fast as
before; only what it says is nonsense. Reads no more of the format than that needs. Called by
``spoiled``.

Format: docs/gguf.md of ggml (version 3; 2 differs in nothing that is read here).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from deploy.shell import StepError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
ALIGNMENT_KEY = "general.alignment"
DEFAULT_ALIGNMENT = 32

_UINT32, _STRING, _ARRAY = 4, 8, 9
# Bytes of a value, by the number of its type.
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, _UINT32: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
# Values and bytes of a block, by the number of a tensor's type: F32, F16, Q4_0, Q8_0, BF16.
_BLOCKS = {0: (1, 4), 1: (1, 2), 2: (32, 18), 8: (32, 34), 30: (1, 2)}


@dataclass(frozen=True)
class Matrix:
    """Where a matrix lies in its file."""

    offset: int
    rows: int
    row_bytes: int


def find_matrix(path: Path, name: str) -> Matrix:
    """Return the matrix ``name``. Raises ``StepError`` for what is not there or not known."""
    with path.open("rb") as file:
        if file.read(4) != MAGIC:
            raise StepError(f"{path.name} is not a GGUF file")
        version, tensors, values = _unpack(file, "<IQQ")
        if version not in VERSIONS:
            raise StepError(f"{path.name} has version {version} of GGUF, known are {VERSIONS}")
        alignment = _read_alignment(file, values)
        found = None
        for _ in range(tensors):
            tensor, dimensions, kind, offset = _read_tensor(file)
            if tensor == name:
                found = dimensions, kind, offset
        if found is None:
            raise StepError(f"{path.name} has no tensor {name}")
        dimensions, kind, offset = found
        if len(dimensions) != 2 or kind not in _BLOCKS:
            raise StepError(f"{name} has {len(dimensions)} dimensions and the type {kind}")
        values_a_block, bytes_a_block = _BLOCKS[kind]
        begin = -(-file.tell() // alignment) * alignment
        row_bytes = dimensions[0] // values_a_block * bytes_a_block
        return Matrix(begin + offset, rows=dimensions[1], row_bytes=row_bytes)


def move_rows(path: Path, matrix: Matrix, by: int, first: int = 0) -> None:
    """Move each row from ``first`` on ``by`` rows down, in place; the last ones come first."""
    rows, begin = matrix.rows - first, matrix.offset + first * matrix.row_bytes
    cut = (rows - by % rows) * matrix.row_bytes
    with path.open("r+b") as file:
        file.seek(begin)
        data = file.read(rows * matrix.row_bytes)
        file.seek(begin)
        file.write(data[cut:] + data[:cut])


def _read_alignment(file: BinaryIO, count: int) -> int:
    """Read past the metadata; return the alignment of the tensors' data."""
    alignment = DEFAULT_ALIGNMENT
    for _ in range(count):
        key = _read_string(file)
        (kind,) = _unpack(file, "<I")
        if key == ALIGNMENT_KEY and kind == _UINT32:
            (alignment,) = _unpack(file, "<I")
        else:
            _skip(file, kind)
    return alignment


def _read_tensor(file: BinaryIO) -> tuple[str, tuple[int, ...], int, int]:
    """Read one entry of the list of tensors: name, dimensions (fastest first), type, offset."""
    name = _read_string(file)
    (count,) = _unpack(file, "<I")
    dimensions = _unpack(file, f"<{count}Q")
    kind, offset = _unpack(file, "<IQ")
    return name, dimensions, kind, offset


def _skip(file: BinaryIO, kind: int) -> None:
    if kind == _STRING:
        _read_string(file)
    elif kind == _ARRAY:
        element, count = _unpack(file, "<IQ")
        if element in _SIZES:
            file.seek(_SIZES[element] * count, 1)
        else:
            for _ in range(count):
                _skip(file, element)
    elif kind in _SIZES:
        file.seek(_SIZES[kind], 1)
    else:
        raise StepError(f"unknown type {kind} in the metadata of the GGUF file")


def _read_string(file: BinaryIO) -> str:
    (length,) = _unpack(file, "<Q")
    return file.read(length).decode(errors="replace")


def _unpack(file: BinaryIO, form: str) -> tuple[int, ...]:
    data = file.read(struct.calcsize(form))
    try:
        return struct.unpack(form, data)
    except struct.error as error:
        raise StepError("the GGUF file ends in the middle of its header") from error
