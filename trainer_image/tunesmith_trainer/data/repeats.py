"""Rows that repeat another part's or an earlier row, and rows that belong together in a split.

Near duplicates are looked for whatever is dropped, as a split must not tear them apart and a
held-out row must not be trained on in other words. Called by ``gathering``.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple, overload

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_128_digest

from tunesmith_api.cleaning import Clean, Deduplication
from tunesmith_trainer.data.keys import Keys, Packed, as_keys, grouped, lower_of, packed
from tunesmith_trainer.data.near import Pairs, find_pairs
from tunesmith_trainer.data.preferences import question_of
from tunesmith_trainer.data.reading import Row
from tunesmith_trainer.data.rowfile import Picked, pick
from tunesmith_trainer.data.scratch import Scratch, chunks
from tunesmith_trainer.data.tally import Reason, Tally, content_key


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

    def __init__(self, clean: Clean, tally: Tally, scratch: Scratch) -> None:
        self._scratch = scratch
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
        rows, scratch = _Joined(parts), self._scratch
        every = as_keys(map(content_key, rows), scratch)
        numbers, places = grouped(every, scratch)
        keys, firsts = scratch.taken(every, places), pick(rows, places, scratch)
        pairs = find_pairs(_Contents(firsts), self._similarity, scratch, on_rows)
        clusters = _clusters(pairs, _same_questions(firsts, scratch), keys, scratch)
        alike = _Neighbours(pairs, len(firsts), scratch)
        # The first part that has a content, counted from 1; 0 where none has.
        kept = scratch.zeros(len(firsts), np.int8).data
        result = []
        for number, part in enumerate(parts, 1):
            own_numbers = numbers[rows.starts[number - 1] : rows.starts[number]]
            stay = scratch.column(np.int32)
            for place, own in _counted(own_numbers):
                others = alike.of(own)
                held_out = next((o for o in (own, *others) if 0 < kept[o] < number), None)
                if held_out is not None:
                    similarity = pairs.similarity_of(own, held_out)
                    self._overlaps(part[place], firsts[held_out], similarity)
                elif self._near and any(kept[other] for other in others):
                    self._tally.drop(Reason.NEAR_DUPLICATE, part[place])
                else:
                    kept[own] = number
                    stay.add(place)
            chosen = stay.array()
            joined = scratch.taken(clusters, scratch.taken(own_numbers, chosen))
            result.append(Part(pick(part, chosen, scratch), scratch.taken(keys, joined)))
        return result

    def _overlaps(self, row: Row, other: Row, similarity: float) -> None:
        self._tally.drop(Reason.HELD_OUT, row)
        self.overlapping += 1
        self.overlap = self.overlap or Repeated(row, other, similarity)


def _counted(values: NDArray[np.int32]) -> Iterator[tuple[int, int]]:
    """Give each value with its place, as numbers of Python."""
    for part in chunks(len(values)):
        yield from enumerate(values[part].tolist(), part.start)


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
            return Picked(self, np.arange(len(self))[index])
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
    """Which rows are like a row; 16 bytes for each pair and 8 for every row, on the disk."""

    def __init__(self, pairs: Pairs, rows: int, scratch: Scratch) -> None:
        count = len(pairs.first)
        self._both: Packed = scratch.zeros(2 * count, np.uint64)
        for part in chunks(count):
            first, second = pairs.first[part], pairs.second[part]
            self._both[part] = packed(first, second)
            self._both[count + part.start : count + part.stop] = packed(second, first)
        self._both.sort()  # in place, on the disk
        starts = scratch.zeros(rows + 1, np.int64)
        for part in chunks(rows + 1):
            own = np.arange(part.start, part.stop)
            starts[part] = np.searchsorted(self._both, packed(own, np.zeros_like(own)))
        # An item of it is had in a third of the time that one of an array takes.
        self._starts = starts.data

    def of(self, row: int) -> list[int]:
        """Give the rows that are like a row, in order."""
        start, end = self._starts[row], self._starts[row + 1]
        return lower_of(self._both[start:end]).tolist() if start < end else []


def _same_questions(rows: Sequence[Row], scratch: Scratch) -> Iterator[tuple[int, int]]:
    """Tie each preference to the first one about the same question."""
    column = scratch.column(np.int32)

    def digests() -> Iterator[bytes]:
        for number, row in enumerate(rows):
            question = question_of(row.content)
            if question is not None:
                column.add(number)
                yield xxh3_128_digest(question)

    groups, firsts = grouped(as_keys(digests(), scratch), scratch)
    numbers = column.array()
    for part in chunks(len(numbers)):
        earlier = numbers[firsts[groups[part]]]
        yield from zip(earlier.tolist(), numbers[part].tolist(), strict=True)


def _clusters(
    pairs: Pairs, ties: Iterable[tuple[int, int]], keys: Keys, scratch: Scratch
) -> NDArray[np.int32]:
    """Give for each row the one with the smallest key among those that a chain joins it with.

    Union-find over the pairs and ties, where the root is the row with the smallest key.
    """
    result = scratch.counted(0, len(keys))
    parents, halves = result.data, keys.reshape(-1).data

    def root(row: int) -> int:
        while (parent := parents[row]) != row:
            parents[row] = row = parents[parent]
        return row

    def key(row: int) -> tuple[int, int]:
        return halves[2 * row], halves[2 * row + 1]

    def join(one: int, other: int) -> None:
        low, high = sorted((root(one), root(other)), key=key)
        parents[high] = low

    for part in chunks(len(pairs.first)):
        for one, other in zip(pairs.first[part].tolist(), pairs.second[part].tolist(), strict=True):
            join(one, other)
    for one, other in ties:
        join(one, other)
    for part in chunks(len(result)):
        up = result[part]
        while not np.array_equal(higher := result[up], up):
            up = higher
        result[part] = up
    return result
