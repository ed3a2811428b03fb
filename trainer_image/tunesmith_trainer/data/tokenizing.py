"""Rows to tokens, with marks at those that the loss is taken on, and what happens to long ones.

Works in batches so that the tokenizer uses all cores. Called by ``prepare`` for each split.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from tunesmith_api.dataset import TooLong
from tunesmith_api.run import UserErrorReason
from tunesmith_trainer.data.formats import Malformed
from tunesmith_trainer.data.prepared import EMPTY, Split
from tunesmith_trainer.data.reading import Reading, Row
from tunesmith_trainer.data.templates import Rendered, Renderer
from tunesmith_trainer.outcome import UserError

_BATCH_ROWS = 512
_LOGGED_HINT = (
    "Raise hyperparameters.maxSequenceLength, shorten the row, or set"
    " dataset.checks.tooLong to Drop or Truncate."
)


@dataclass
class Tokenizing:
    """What became of the rows, over all splits."""

    too_long: int = 0
    """Rows dropped or cut because of their length."""
    unsupervised: int = 0
    """Rows left out because nothing in them is learned, for another reason than length."""


class RowTokenizer:
    """Turns conversations into rows of tokens."""

    def __init__(self, tokenizer: Any, limit: int, policy: TooLong, reading: Reading) -> None:
        self._renderer = Renderer(tokenizer)
        self._backend = tokenizer.backend_tokenizer
        # tokenizer.json may carry the settings of whoever saved it.
        self._backend.no_truncation()
        self._backend.no_padding()
        self._limit, self._policy, self._reading = limit, policy, reading
        self.counts = Tokenizing()

    def tokenize(self, rows: Sequence[Row], on_rows: Callable[[int], None]) -> Split:
        """Tokenize the rows in their order; ``on_rows`` gets the count of each batch.

        Raises UserError (SequenceTooLong by policy, DatasetMalformed where the template refuses).
        """
        tokens: list[NDArray[np.int32]] = []
        marks: list[NDArray[np.uint8]] = []
        for first in range(0, len(rows), _BATCH_ROWS):
            batch = rows[first : first + _BATCH_ROWS]
            for ids, supervised in self._batch(batch):
                tokens.append(ids)
                marks.append(supervised)
            on_rows(len(batch))
        if not tokens:
            return EMPTY
        lengths = np.fromiter((len(ids) for ids in tokens), np.int64, len(tokens))
        offsets = np.zeros(len(tokens) + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        return Split(np.concatenate(tokens), offsets, np.concatenate(marks))

    def _batch(self, rows: Sequence[Row]) -> Iterator[tuple[NDArray[np.int32], NDArray[np.uint8]]]:
        rendered = self._renderer.render([orjson.loads(row.content) for row in rows])
        kept: list[tuple[Row, Rendered]] = []
        for row, result in zip(rows, rendered, strict=True):
            if isinstance(result, Malformed):
                self._reading.refuse(f"{row.file} line {row.line}", str(result), row.content)
            else:
                kept.append((row, result))
        encodings = self._backend.encode_batch(
            [result.text for _, result in kept], add_special_tokens=False
        )
        for (row, result), encoding in zip(kept, encodings, strict=True):
            supervised = _mark(encoding.offsets, result.spans)
            ids = np.array(encoding.ids, dtype=np.int32)
            if self._stays(row, ids, supervised):
                yield ids[: self._limit], supervised[: self._limit]

    def _stays(self, row: Row, ids: NDArray[np.int32], supervised: NDArray[np.uint8]) -> bool:
        if not supervised.any():
            self.counts.unsupervised += 1
            return False
        if len(ids) <= self._limit:
            return True
        if self._policy is TooLong.FAIL:
            raise UserError(
                UserErrorReason.SEQUENCE_TOO_LONG,
                f"{row.file} line {row.line} has {len(ids)} tokens, the limit is {self._limit}."
                f" {_LOGGED_HINT}",
            )
        self.counts.too_long += 1
        return self._policy is TooLong.TRUNCATE and bool(supervised[: self._limit].any())


def _mark(offsets: list[tuple[int, int]], spans: Sequence[tuple[int, int]]) -> NDArray[np.uint8]:
    """Mark the tokens that hold any character of a span: [tokens], 0 or 1."""
    marks = np.zeros(len(offsets), np.uint8)
    for start, end in spans:
        first = bisect_left(offsets, (start,))
        # A token may begin before the answer and reach into it.
        while first > 0 and offsets[first - 1][1] > start:
            first -= 1
        marks[first : bisect_left(offsets, (end,))] = 1
    return marks
