"""Rows that repeat another part's or an earlier row, and rows that belong together in a split.

Near duplicates are looked for whatever is dropped, as a split must not tear them apart and a
held-out row must not be trained on in other words. Called by ``gathering``.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple

from tunesmith_api.cleaning import Clean, Deduplication
from tunesmith_trainer.data.near import Pairs, find_pairs
from tunesmith_trainer.data.preferences import question_of
from tunesmith_trainer.data.reading import Row
from tunesmith_trainer.data.tally import Reason, Tally, content_key


class Part(NamedTuple):
    """Rows that stayed, and what ties them together."""

    rows: list[Row]
    clusters: list[bytes]
    """The cluster of each row: 16 bytes, equal for rows that a chain of near duplicates joins. The
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
        index, firsts = _distinct_rows(parts)
        pairs = find_pairs([row.content for row in firsts], self._similarity, on_rows)
        keys = list(index)
        ties = zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)
        clusters = _clusters(chain(ties, _same_questions(firsts)), keys)
        alike = _neighbours(pairs)
        kept: dict[int, int] = {}
        """The first part that has a content, by its number."""
        result = []
        for number, rows in enumerate(parts):
            part = Part([], [])
            for row in rows:
                own = index[content_key(row)]
                others = {own: 1.0} | alike.get(own, {})
                held_out = [other for other in others if kept.get(other, number) < number]
                if held_out:
                    self._overlaps(row, firsts[held_out[0]], others[held_out[0]])
                elif self._near and any(other in kept for other in others if other != own):
                    self._tally.drop(Reason.NEAR_DUPLICATE, row)
                else:
                    kept.setdefault(own, number)
                    part.rows.append(row)
                    part.clusters.append(clusters.get(own, keys[own]))
            result.append(part)
        return result

    def _overlaps(self, row: Row, other: Row, similarity: float) -> None:
        self._tally.drop(Reason.HELD_OUT, row)
        self.overlapping += 1
        self.overlap = self.overlap or Repeated(row, other, similarity)


def _distinct_rows(parts: Sequence[Sequence[Row]]) -> tuple[dict[bytes, int], list[Row]]:
    """Number the distinct contents in order; give numbers by content key, and the first rows."""
    index: dict[bytes, int] = {}
    firsts: list[Row] = []
    for rows in parts:
        for row in rows:
            if index.setdefault(content_key(row), len(index)) == len(firsts):
                firsts.append(row)
    return index, firsts


def _neighbours(pairs: Pairs) -> dict[int, dict[int, float]]:
    """Give for each row that has any the rows that are like it, with how much."""
    result: dict[int, dict[int, float]] = {}
    for one, other, similarity in zip(*(column.tolist() for column in pairs), strict=True):
        result.setdefault(one, {})[other] = similarity
        result.setdefault(other, {})[one] = similarity
    return result


def _same_questions(rows: Sequence[Row]) -> Iterator[tuple[int, int]]:
    """Tie each preference to the first one about the same question."""
    first: dict[bytes, int] = {}
    for number, row in enumerate(rows):
        question = question_of(row.content)
        if question is not None:
            yield first.setdefault(question, number), number


def _clusters(ties: Iterable[tuple[int, int]], keys: list[bytes]) -> dict[int, bytes]:
    """Give for each row that is tied the smallest key among those a chain joins it with.

    Union-find over the ties; rows in none are left out, as most are.
    """
    parents: dict[int, int] = {}

    def root(row: int) -> int:
        while (parent := parents.setdefault(row, row)) != row:
            parents[row] = row = parents[parent]
        return row

    for one, other in ties:
        parents[root(one)] = root(other)
    smallest: dict[int, bytes] = {}
    for row in parents:
        smallest[root(row)] = min(keys[row], smallest.get(root(row), keys[row]))
    return {row: smallest[root(row)] for row in parents}
