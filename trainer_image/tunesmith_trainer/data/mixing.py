"""How often the training rows of each source are taken.

A row of weight 2.5 is there twice, and for every second row a third time. Which rows that are is
a pure function of (content, seed). Comes after the split, so that held-out rows are no copies and
stay the same under other weights. Called by ``gathering``.
"""

from collections.abc import Mapping, Sequence
from decimal import Decimal

from xxhash import xxh3_64_intdigest

from tunesmith_trainer.data.reading import Row


def mix(rows: Sequence[Row], weights: Mapping[str, Decimal], seed: int) -> list[Row]:
    """Give the rows as often as the weight of their file says; copies follow each other.

    Of each weight's fraction the nearest whole number of rows is taken, at least one row of all
    files with the same weight.
    """
    if all(weight == 1 for weight in weights.values()):
        return list(rows)
    times = [int(weights[row.file]) for row in rows]
    for weight in sorted(set(weights.values())):
        places = [place for place, row in enumerate(rows) if weights[row.file] == weight]
        count = round((weight % 1) * len(places))
        if weight < 1 and places:
            count = max(1, count)
        order = sorted(places, key=lambda p: (xxh3_64_intdigest(rows[p].content, seed=seed), p))
        for place in order[:count]:
            times[place] += 1
    return [row for row, count in zip(rows, times, strict=True) for _ in range(count)]
