"""Which rows are trained on, validated on, and held out.

A function of (contents, seed): each cluster of near duplicates gets a number from its hash, and
those with the smallest numbers are held out. So what is alike is on one side, the order of the
files does not matter, and more data moves hardly any row to the other side. Pure; called by
``gathering``.
"""

from collections.abc import Sequence
from decimal import Decimal
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from tunesmith_api.result import UserErrorReason
from tunesmith_trainer.data.keys import Keys, grouped, key_bytes, ordered
from tunesmith_trainer.data.reading import Row
from tunesmith_trainer.data.rowfile import pick
from tunesmith_trainer.data.scratch import Scratch, chunks
from tunesmith_trainer.outcome import UserError

_RANGE = 1 << 64
# The hashes' own share may differ by so much of what is asked for before clusters are moved to meet
# it: from some thousand rows on it hardly ever does, so that more data moves nothing.
_SLACK = 0.1


class Sides(NamedTuple):
    """Rows by what they are for; each in the order of the source."""

    train: Sequence[Row]
    validation: Sequence[Row]
    test: Sequence[Row]


class Clusters(NamedTuple):
    """Rows that stay together, sorted by number; [N] each."""

    numbers: NDArray[np.uint64]
    """From the hash of the key and the seed, evenly spread below 2^64."""
    sizes: NDArray[np.int64]
    """Rows."""


def split_rows(
    rows: Sequence[Row],
    clusters: Keys,
    seed: int,
    scratch: Scratch,
    *,
    validation: Decimal,
    test: Decimal,
    repeats: int = 0,
) -> Sides:
    """Split by percent of rows; ``clusters`` says for each row which others it stays with.

    A side's share is met within a tenth of it or within its last cluster, whatever is more, unless
    a single cluster is larger. A share above 0 gets at least one cluster, and one is always left to
    train on. Raises UserError (DatasetTooSmall) when there are too few for that; ``repeats``, the
    rows dropped before, is for its message.
    """
    order, of_row = _numbered(clusters, seed, scratch)
    count = len(order.numbers)
    wanted = 1 + (validation > 0) + (test > 0)
    if count < wanted:
        raise _too_few(len(rows), count, wanted, repeats)
    sides = scratch.zeros(count, np.int8)
    for_test = _take(order, test, Decimal(0), len(rows), most=count - wanted + 1, scratch=scratch)
    _mark(sides, for_test, 2)
    left = _where(sides, 0, scratch)
    rest = Clusters(scratch.taken(order.numbers, left), scratch.taken(order.sizes, left))
    to_validate = _take(rest, validation, test, len(rows), most=len(left) - 1, scratch=scratch)
    _mark(sides, scratch.taken(left, to_validate), 1)
    side_of_row = scratch.taken(sides, of_row)
    chosen = (_where(side_of_row, side, scratch) for side in range(3))
    return Sides(*(pick(rows, places, scratch) for places in chosen))


def _numbered(keys: Keys, seed: int, scratch: Scratch) -> tuple[Clusters, NDArray[np.int32]]:
    """Give the clusters, and for each row the place of its own among them."""
    groups, firsts = grouped(keys, scratch)
    distinct = scratch.taken(keys, firsts)
    numbers, places = (
        scratch.zeros(len(distinct), np.uint64),
        scratch.zeros(len(distinct), np.int32),
    )
    for part in chunks(len(distinct)):
        numbers[part] = [xxh3_64_intdigest(key_bytes(key), seed=seed) for key in distinct[part]]
    order = ordered((numbers, distinct[:, 0], distinct[:, 1]), scratch)
    for part in chunks(len(order)):
        places[order[part]] = np.arange(part.start, part.stop)
    of_row = scratch.taken(places, groups)
    sizes = scratch.zeros(len(order), np.int64)
    for part in chunks(len(of_row)):
        np.add.at(sizes, of_row[part], 1)
    return Clusters(scratch.taken(numbers, order), sizes), of_row


def _take(
    order: Clusters, percent: Decimal, above: Decimal, total: int, *, most: int, scratch: Scratch
) -> NDArray[np.int32]:
    """Choose at most ``most`` clusters: those with numbers in the share from ``above`` percent on.

    Then so many of the following ones, or so few of these, that the share is met.
    """
    chosen = scratch.column(np.int32)
    if percent <= 0:
        return chosen.array()
    target = float(percent) * total / 100
    low, high = int(above * _RANGE / 100), int((above + percent) * _RANGE / 100)
    clusters, count = 0, 0
    # The others follow from the end of the share on, and around.
    first = int(np.searchsorted(order.numbers, np.uint64(min(low, _RANGE - 1))))
    for turn in range(len(order.numbers)):
        place = (first + turn) % len(order.numbers)
        size, is_own = int(order.sizes[place]), low <= int(order.numbers[place]) < high
        if clusters == most or (not is_own and count >= target * (1 - _SLACK)):
            break
        if count + size <= max(target * (1 + _SLACK), 1):
            chosen.add(place)
            clusters, count = clusters + 1, count + size
    if not clusters:
        # One larger than the whole share is trained on, unless there is nothing else to take.
        chosen.add(int(np.argmin(order.sizes)))
    return chosen.array()


def _mark(sides: NDArray[np.int8], places: NDArray[np.int32], side: int) -> None:
    for part in chunks(len(places)):
        sides[places[part]] = side


def _where(values: NDArray[np.int8], wanted: int, scratch: Scratch) -> NDArray[np.int32]:
    places = scratch.column(np.int32)
    for part in chunks(len(values)):
        places.append(part.start + np.flatnonzero(values[part] == wanted))
    return places.array()


def _too_few(rows: int, clusters: int, wanted: int, repeats: int) -> UserError:
    what = "distinct group" if clusters == 1 else "distinct groups"
    dropped = f"; {repeats} more repeated them" if repeats else ""
    return UserError(
        UserErrorReason.DATASET_TOO_SMALL,
        f"{clusters} {what} of rows ({rows} {'row' if rows == 1 else 'rows'}, near duplicates"
        f" together{dropped}) cannot be split into {wanted} parts."
        " Give more rows, raise dataset.clean.similarity if they only look alike, or set"
        " dataset.test and dataset.validation to a uri of their own or to percent 0.",
    )
