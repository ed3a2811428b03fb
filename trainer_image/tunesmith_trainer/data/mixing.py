"""How often the training rows of each source are taken.

A row of weight 2.5 is there twice, and for every second row a third time. Which rows that are is
a pure function of (content, seed). Comes after the split, so that held-out rows are no copies and
stay the same under other weights. Called by ``gathering``.
"""

from collections.abc import Mapping, Sequence
from decimal import Decimal

import numpy as np
from xxhash import xxh3_64_intdigest

from tunesmith_trainer.data.reading import Row
from tunesmith_trainer.data.rowfile import Picked, pick


def mix(rows: Sequence[Row], weights: Mapping[str, Decimal], seed: int) -> Picked:
    """Give the rows as often as the weight of their file says; copies follow each other.

    Of each weight's fraction the nearest whole number of rows is taken, at least one row of all
    files with the same weight.
    """
    times = np.ones(len(rows), np.int32)
    if any(weight != 1 for weight in weights.values()):
        kinds = sorted(set(weights.values()))
        kind_of = {file: kinds.index(weight) for file, weight in weights.items()}
        hashes, of_row = np.zeros(len(rows), np.uint64), np.zeros(len(rows), np.int32)
        for place, row in enumerate(rows):
            hashes[place] = xxh3_64_intdigest(row.content, seed=seed)
            of_row[place] = kind_of[row.file]
        for number, weight in enumerate(kinds):
            places = np.flatnonzero(of_row == number)
            times[places] = int(weight)
            count = round((weight % 1) * len(places))
            if weight < 1 and len(places):
                count = max(1, count)
            times[places[np.argsort(hashes[places], kind="stable")[:count]]] += 1
    return pick(rows, np.repeat(np.arange(len(rows), dtype=np.int32), times))
