"""What the prepare stage leaves for the train stage: rows of tokens, kept as plain arrays.

The files are ``.npy`` (read without copying, never pickled) and one ``meta.json``. Written by
``prepare``, read by the train stage's batches. Knows nothing of S3.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from tunesmith_api.datastatus import DataStatus
from tunesmith_api.meta import Digest, Status
from tunesmith_api.report import DroppedSample
from tunesmith_api.sharding import Placement

SPLITS = ("train", "validation", "test")
_ARRAYS = ("tokens", "offsets", "supervised")
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
    """A few rows a reason that cleaning dropped."""
    placement: Placement | None = None
    """How the GPUs hold the model; None where training is on CPUs."""


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


EMPTY = Split(np.zeros(0, np.int32), np.zeros(1, np.int64), np.zeros(0, np.uint8))


@dataclass(frozen=True)
class PreparedData:
    """All rows, by what they are for."""

    train: Split
    validation: Split
    test: Split
    meta: PreparedMeta

    def described(self, template: str) -> "PreparedData":
        """Give the same rows with the name of the chat template that they were made with."""
        data = self.meta.data.model_copy(update={"template": template})
        return replace(self, meta=self.meta.model_copy(update={"template": template, "data": data}))

    def save(self, directory: Path) -> None:
        """Write all arrays and the meta into ``directory``, which is made."""
        directory.mkdir(parents=True, exist_ok=True)
        for name in SPLITS:
            split: Split = getattr(self, name)
            for array in _ARRAYS:
                np.save(
                    directory / f"{name}.{array}.npy", getattr(split, array), allow_pickle=False
                )
        (directory / _META).write_text(self.meta.model_dump_json(by_alias=True, indent=1))

    @classmethod
    def load(cls, directory: Path) -> "PreparedData":
        """Map the arrays that :meth:`save` wrote; nothing is read before it is used.

        Raises OSError or ValueError when files are missing or are not such arrays.
        """
        meta = PreparedMeta.model_validate_json((directory / _META).read_bytes())
        return cls(meta=meta, **{name: _load_split(directory, name) for name in SPLITS})


def _load_split(directory: Path, name: str) -> Split:
    def load(array: str) -> NDArray:
        path = directory / f"{name}.{array}.npy"
        # An empty file cannot be mapped.
        mode: Literal["r"] | None = "r" if path.stat().st_size > 256 else None
        return np.load(path, mmap_mode=mode, allow_pickle=False)

    split = Split(load("tokens"), load("offsets"), load("supervised"))
    if len(split.tokens) != len(split.supervised) or split.offsets[-1] != len(split.tokens):
        raise ValueError(f"the arrays of {name} do not fit together")
    return split
