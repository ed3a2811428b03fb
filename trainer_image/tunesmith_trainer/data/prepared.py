"""What the prepare stage leaves for the train stage: rows of tokens, kept as plain arrays.

The files are ``.npy`` (read without copying, never pickled) and one ``meta.json``. Written by
``prepare``, read by the train stage's batches. Knows nothing of S3.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from tunesmith_api.datastatus import DataStatus
from tunesmith_api.meta import Digest, Status
from tunesmith_api.report import DroppedSample
from tunesmith_api.sharding import Placement

SPLITS = ("train", "validation", "test")
_ARRAYS = {"tokens": np.int32, "offsets": np.int64, "supervised": np.uint8}
_BUFFER_BYTES = 1 << 20
_META = "meta.json"


class PreparedMeta(Status):
    """What else is known about prepared data."""

    version: Literal[1] = 1
    data: DataStatus
    dataset_digest: Digest
    """sha256 over the cleaned, split conversations; does not depend on the model."""
    model_revision: str = ""
    """Of the model whose tokenizer was used."""
    template: str = "ChatTemplate"
    """Chat template that was used."""
    max_sequence_length: int = 0
    """Tokens; no row is longer."""
    seed: int = 0
    """Seed of the split."""
    unsupervised: int = Field(default=0, ge=0)
    """Rows left out because no token of theirs would have been trained on."""
    dropped: tuple[DroppedSample, ...] = ()
    """A few rows for each reason that rows were left out for."""
    placement: Placement | None = None
    """How the GPUs hold the model; None where training is on CPUs."""
    notes: tuple[str, ...] = ()
    """Sentences about tokens that the run adds."""

    def write(self, directory: Path) -> None:
        """Write the file beside those of :func:`write_split`, which makes the directory."""
        (directory / _META).write_text(self.model_dump_json(by_alias=True, indent=1))


@dataclass(frozen=True)
class Split:
    """Rows of tokens, one after the other.

    Row ``i`` is ``tokens[offsets[i]:offsets[i + 1]]``; ``supervised`` is 1 at the tokens that the
    loss is taken on (the token itself is the target, nothing is shifted here).
    """

    tokens: NDArray[np.int32]
    """[N]"""
    offsets: NDArray[np.int64]
    """[rows + 1], from 0 to N"""
    supervised: NDArray[np.uint8]
    """[N], 0 or 1"""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def row(self, index: int) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
        """Return tokens and supervised marks of one row, both [length], as views."""
        start, end = self.offsets[index], self.offsets[index + 1]
        return self.tokens[start:end], self.supervised[start:end]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row, [rows]."""
        return np.diff(self.offsets)


class Written(NamedTuple):
    """What a split that was written holds."""

    rows: int
    tokens: int
    supervised: int
    """Tokens that the loss is taken on."""
    longest: int
    """Tokens of the longest row; 0 without rows."""
    highest: int
    """The highest token; -1 without rows."""


@dataclass(frozen=True)
class PreparedData:
    """All rows, by what they are for."""

    train: Split
    validation: Split
    test: Split
    meta: PreparedMeta

    @classmethod
    def load(cls, directory: Path) -> "PreparedData":
        """Map the arrays that :func:`write_split` wrote; nothing is read before it is used.

        Raises OSError or ValueError when files are missing or are not such arrays.
        """
        meta = PreparedMeta.model_validate_json((directory / _META).read_bytes())
        return cls(meta=meta, **{name: load_split(directory, name) for name in SPLITS})


class _ArrayFile:
    """A ``.npy`` file of one dimension that grows; the bytes are those of ``np.save``."""

    def __init__(self, path: Path, dtype: Any) -> None:
        self._file = path.open("wb", buffering=_BUFFER_BYTES)
        self._dtype = np.dtype(dtype)
        self._length = 0
        self._write_header()

    def append(self, values: NDArray) -> None:
        self._file.write(values.astype(self._dtype, copy=False).tobytes())
        self._length += len(values)

    def close(self) -> None:
        # A header has the same size for every length.
        self._file.seek(0)
        self._write_header()
        self._file.close()

    def _write_header(self) -> None:
        descr = np.lib.format.dtype_to_descr(self._dtype)
        header = {"descr": descr, "fortran_order": False, "shape": (self._length,)}
        np.lib.format.write_array_header_1_0(self._file, header)


def write_split(
    directory: Path, name: str, rows: Iterable[tuple[NDArray[np.int32], NDArray[np.uint8]]]
) -> Written:
    """Write rows of tokens and of their supervised marks as they come; memory holds one of them.

    Makes ``directory``. Raises OSError when the disk is full.
    """
    directory.mkdir(parents=True, exist_ok=True)
    tokens, offsets, supervised = (
        _ArrayFile(_path(directory, name, array), dtype) for array, dtype in _ARRAYS.items()
    )
    offsets.append(np.zeros(1))
    result = Written(0, 0, 0, 0, -1)
    for ids, marks in rows:
        tokens.append(ids)
        supervised.append(marks)
        result = Written(
            result.rows + 1,
            result.tokens + len(ids),
            result.supervised + int(np.count_nonzero(marks)),
            max(result.longest, len(ids)),
            max(result.highest, int(ids.max(initial=-1))),
        )
        offsets.append(np.array([result.tokens]))
    for file in (tokens, offsets, supervised):
        file.close()
    return result


def load_split(directory: Path, name: str) -> Split:
    """Map the arrays of one split. Raises as :meth:`PreparedData.load`."""

    def load(array: str) -> NDArray:
        path = _path(directory, name, array)
        # An empty file cannot be mapped.
        mode: Literal["r"] | None = "r" if path.stat().st_size > 256 else None
        return np.load(path, mmap_mode=mode, allow_pickle=False)

    split = Split(load("tokens"), load("offsets"), load("supervised"))
    if len(split.tokens) != len(split.supervised) or split.offsets[-1] != len(split.tokens):
        raise ValueError(f"the arrays of {name} do not fit together")
    return split


def _path(directory: Path, name: str, array: str) -> Path:
    return directory / f"{name}.{array}.npy"
