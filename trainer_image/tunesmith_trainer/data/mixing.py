"""How often the training rows of each source are taken.

A row of weight 2.5 is there twice, and for every second row a third time. Which rows that are is
a pure function of (content, seed). Comes after the split, so that held-out rows are no copies and
stay the same under other weights. Called by ``gathering``.
"""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from tunesmith_trainer.data.reading import Row
from tunesmith_trainer.data.rowfile import Picked, pick
from tunesmith_trainer.data.scratch import Scratch, chunks


class _Hashed(NamedTuple):
    """What is known of rows, [N] each."""

    hashes: NDArray[np.uint64]
    """Of the contents."""
    kinds: NDArray[np.int32]
    """Equal for rows whose files have the same weight."""


def mix(rows: Sequence[Row], weights: Mapping[str, Decimal], seed: int, scratch: Scratch) -> Picked:
    """Give the rows as often as the weight of their file says; copies follow each other.

    Of each weight's fraction the nearest whole number of rows is taken, at least one row of all
    files with the same weight.
    """
    if all(weight == 1 for weight in weights.values()):
        return pick(rows, scratch.counted(0, len(rows)), scratch)
    kinds = sorted(set(weights.values()))
    kind_of = {file: kinds.index(weight) for file, weight in weights.items()}
    hashed = _Hashed(scratch.zeros(len(rows), np.uint64), scratch.zeros(len(rows), np.int32))
    for place, row in enumerate(rows):
        hashed.hashes[place] = xxh3_64_intdigest(row.content, seed=seed)
        hashed.kinds[place] = kind_of[row.file]
    times = scratch.zeros(len(rows), np.int32)
    for number, weight in enumerate(kinds):
        _set_times(times, hashed, number, weight, scratch)
    places = scratch.column(np.int32)
    for part in chunks(len(rows)):
        places.append(np.repeat(np.arange(part.start, part.stop), times[part]))
    return pick(rows, places.array(), scratch)


def _set_times(
    times: NDArray[np.int32], hashed: _Hashed, number: int, weight: Decimal, scratch: Scratch
) -> None:
    """Set how often the rows of one kind are taken: those with the smallest hashes once more."""
    hashes, kinds = hashed
    column = scratch.column(np.uint64)
    for part in chunks(len(kinds)):
        column.append(hashes[part][kinds[part] == number])
    own = column.array()
    own.sort()  # in place, on the disk
    more = round((weight % 1) * len(own))
    if weight < 1 and len(own):
        more = max(1, more)
    last = own[max(more, 1) - 1] if len(own) else np.uint64(0)
    # Equal rows have equal hashes: of those with the last one the first rows are taken.
    of_last = more - int(np.searchsorted(own, last))
    for part in chunks(len(kinds)):
        places = part.start + np.flatnonzero(kinds[part] == number)
        at_last = places[hashes[places] == last][: max(of_last, 0)]
        of_last -= len(at_last)
        times[places] = int(weight)
        times[places[hashes[places] < last]] += 1
        times[at_last] += 1
