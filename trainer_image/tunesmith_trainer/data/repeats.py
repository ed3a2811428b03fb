"""Rows that repeat another part's or an earlier row, and rows that belong together in a split.

Near duplicates are looked for whatever is dropped, as a split must not tear them apart and a
held-out row must not be trained on in other words. Called by ``gathering``.
"""

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple, overload

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_128_digest

from tunesmith_api.cleaning import Clean, Deduplication
from tunesmith_trainer.data.keys import Keys, as_keys, grouped
from tunesmith_trainer.data.near import Pairs, find_pairs
from tunesmith_trainer.data.preferences import question_of
from tunesmith_trainer.data.reading import Row
from tunesmith_trainer.data.rowfile import pick
from tunesmith_trainer.data.tally import Reason, Tally, content_key

# No part has this number.
_NOWHERE = 127
_PAIRS_AT_ONCE = 1 << 16


class Part(NamedTuple):
    """Rows that stayed, and what ties them together."""

    rows: Sequence[Row]
    clusters: Keys
    """The cluster of each row: a key, equal for rows that a chain of near duplicates joins. The
    smallest content key in it, so the order of the rows does not matter."""


class Repeated(NamedTuple):
    """A row that is like a row of an earlier part."""

    row: Row
    other: Row
    similarity: float


class Repeats:
    """Drops repeated rows from the parts of a data set; used once.

    A row is dropped when it is like one that stays: never because of a chain of likenesses whose
    middle was dropped.
    """

    def __init__(self, clean: Clean, tally: Tally) -> None:
        self._near = clean.deduplicate is Deduplication.NEAR
        self._similarity = float(clean.similarity)
        self._tally = tally
        self.overlap: Repeated | None = None
        """The first row that was dropped for being like a row of an earlier part."""
        self.overlapping = 0
        """How many there were."""

    def resolve(
        self, parts: Sequence[Sequence[Row]], on_rows: Callable[[int], None] = lambda _: None
    ) -> list[Part]:
        """Give each part without rows that repeat an earlier part, or, if asked for, the same."""
        rows = _Joined(parts)
        keys = as_keys(map(content_key, rows))
        numbers, places = grouped(keys)
        keys, firsts = keys[places], pick(rows, places)
        pairs = find_pairs(_Contents(firsts), self._similarity, on_rows)
        clusters = _clusters(pairs, _same_questions(firsts), keys)
        alike = _Neighbours(pairs, len(firsts))
        kept = array("b", [_NOWHERE]) * len(firsts)
        """The first part that has a content, by its number."""
        result = []
        for number, part in enumerate(parts):
            stay = array("i")
            begin = rows.starts[number]
            own_numbers = numbers[begin : begin + len(part)]
            for place, own in enumerate(own_numbers):
                others = alike.of(own)
                held_out = next((o for o in (own, *others) if kept[o] < number), None)
                if held_out is not None:
                    similarity = 1.0 if held_out == own else others[held_out]
                    self._overlaps(part[place], firsts[held_out], similarity)
                elif self._near and any(kept[other] != _NOWHERE for other in others):
                    self._tally.drop(Reason.NEAR_DUPLICATE, part[place])
                else:
                    kept[own] = min(kept[own], number)
                    stay.append(place)
            chosen = np.array(stay, np.int32)
            result.append(Part(pick(part, chosen), keys[clusters[own_numbers[chosen]]]))
        return result

    def _overlaps(self, row: Row, other: Row, similarity: float) -> None:
        self._tally.drop(Reason.HELD_OUT, row)
        self.overlapping += 1
        self.overlap = self.overlap or Repeated(row, other, similarity)


class _Joined(Sequence[Row]):
    """Rows of several parts as one sequence."""

    def __init__(self, parts: Sequence[Sequence[Row]]) -> None:
        self._parts = parts
        self.starts = [0, *accumulate(map(len, parts))]

    def __len__(self) -> int:
        return self.starts[-1]

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | Sequence[Row]:
        if isinstance(index, slice):
            return pick(self, np.arange(len(self))[index])
        if not 0 <= index < len(self):
            raise IndexError(index)
        part = bisect_right(self.starts, index) - 1
        return self._parts[part][index - self.starts[part]]


class _Contents(Sequence[bytes]):
    """What rows say, without their places."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | Sequence[bytes]:
        if isinstance(index, slice):
            return _Contents(self._rows[index])
        return self._rows[index].content


class _Neighbours:
    """Which rows are like a row; 24 bytes for each that has any, and 8 for every row."""

    def __init__(self, pairs: Pairs, rows: int) -> None:
        one = np.concatenate((pairs.first, pairs.second)).astype(np.int32)
        other = np.concatenate((pairs.second, pairs.first)).astype(np.int32)
        order = np.lexsort((other, one))
        self._others = other[order]
        self._similarities = np.concatenate((pairs.similarity, pairs.similarity))[order]
        self._starts = np.concatenate(([0], np.cumsum(np.bincount(one, minlength=rows))))

    def of(self, row: int) -> dict[int, float]:
        """Give the rows that are like a row, in order, with how much."""
        start, end = self._starts[row], self._starts[row + 1]
        if start == end:
            return {}
        similarities = self._similarities[start:end].tolist()
        return dict(zip(self._others[start:end].tolist(), similarities, strict=True))


def _same_questions(rows: Sequence[Row]) -> Iterator[tuple[int, int]]:
    """Tie each preference to the first one about the same question."""
    numbers = array("i")
    digests = bytearray()
    for number, row in enumerate(rows):
        question = question_of(row.content)
        if question is not None:
            numbers.append(number)
            digests += xxh3_128_digest(question)
    groups, firsts = grouped(as_keys([bytes(digests)]))
    for number, first in zip(numbers, firsts[groups].tolist(), strict=True):
        yield numbers[first], number


def _clusters(pairs: Pairs, ties: Iterable[tuple[int, int]], keys: Keys) -> NDArray[np.int32]:
    """Give for each row the one with the smallest key among those that a chain joins it with.

    Union-find over the pairs and ties, where the root is the row with the smallest key.
    """
    parents = array("i", range(len(keys)))
    ranks = np.empty(len(keys), np.int32)
    ranks[np.lexsort((keys[:, 1], keys[:, 0]))] = np.arange(len(keys), dtype=np.int32)

    def root(row: int) -> int:
        while (parent := parents[row]) != row:
            parents[row] = row = parents[parent]
        return row

    def join(one: int, other: int) -> None:
        low, high = sorted((root(one), root(other)), key=ranks.__getitem__)
        parents[high] = low

    for start in range(0, len(pairs.first), _PAIRS_AT_ONCE):
        part = slice(start, start + _PAIRS_AT_ONCE)
        for one, other in zip(pairs.first[part].tolist(), pairs.second[part].tolist(), strict=True):
            join(one, other)
    for one, other in ties:
        join(one, other)
    return np.fromiter((root(row) for row in range(len(keys))), np.int32, len(keys))
