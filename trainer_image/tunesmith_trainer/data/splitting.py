"""Which rows are trained on, validated on, and held out.

A function of (contents, seed): each cluster of near duplicates gets a number from its hash, and
those with the smallest numbers are held out. So what is alike is on one side, the order of the
files does not matter, and more data moves hardly any row to the other side. Pure; called by
``gathering``.
"""

from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from typing import NamedTuple

from xxhash import xxh3_64_intdigest

from tunesmith_api.result import UserErrorReason
from tunesmith_trainer.data.reading import Row
from tunesmith_trainer.outcome import UserError

_RANGE = 1 << 64
# The hashes' own share may differ by so much of what is asked for before clusters are moved to meet
# it: from some thousand rows on it hardly ever does, so that more data moves nothing.
_SLACK = 0.1


class Sides(NamedTuple):
    """Rows by what they are for; each in the order of the source."""

    train: list[Row]
    validation: list[Row]
    test: list[Row]


class Cluster(NamedTuple):
    """Rows that stay together."""

    number: int
    """From its hash and the seed, evenly spread below 2^64."""
    key: bytes
    rows: int


def split_rows(
    rows: Sequence[Row],
    clusters: Sequence[bytes],
    seed: int,
    *,
    validation: Decimal,
    test: Decimal,
) -> Sides:
    """Split by percent of rows; ``clusters`` says for each row which others it stays with.

    A side's share is met within a tenth of it or within its last cluster, whatever is more, unless
    a single cluster is larger. A share above 0 gets at least one cluster, and one is always left to
    train on. Raises UserError (DatasetTooSmall) when there are too few for that.
    """
    order = sorted(
        Cluster(xxh3_64_intdigest(key, seed=seed), key, count)
        for key, count in Counter(clusters).items()
    )
    wanted = 1 + (validation > 0) + (test > 0)
    if len(order) < wanted:
        raise _too_few(len(rows), len(order), wanted)
    test_keys = _take(order, test, Decimal(0), len(rows), most=len(order) - wanted + 1)
    left = [cluster for cluster in order if cluster.key not in test_keys]
    validation_keys = _take(left, validation, test, len(rows), most=len(left) - 1)
    sides = Sides([], [], [])
    for row, key in zip(rows, clusters, strict=True):
        sides[2 if key in test_keys else int(key in validation_keys)].append(row)
    return sides


def _take(
    order: list[Cluster], percent: Decimal, above: Decimal, total: int, *, most: int
) -> set[bytes]:
    """Choose at most ``most`` clusters: those with numbers in the share from ``above`` percent on.

    Then so many of the following ones, or so few of these, that the share is met.
    """
    if percent <= 0:
        return set()
    target = float(percent) * total / 100
    low, high = int(above * _RANGE / 100), int((above + percent) * _RANGE / 100)
    chosen: set[bytes] = set()
    count = 0
    # The others follow from the end of the share on, and around.
    for cluster in sorted(order, key=lambda c: (c.number < low, c.number)):
        is_own = low <= cluster.number < high
        if len(chosen) == most or (not is_own and count >= target * (1 - _SLACK)):
            break
        if count + cluster.rows <= max(target * (1 + _SLACK), 1):
            chosen.add(cluster.key)
            count += cluster.rows
    # A cluster larger than the whole share is trained on, unless there is nothing else to take.
    return chosen or {min(order, key=lambda c: (c.rows, c.number)).key}


def _too_few(rows: int, clusters: int, wanted: int) -> UserError:
    return UserError(
        UserErrorReason.DATASET_TOO_SMALL,
        f"{clusters} distinct groups of rows ({rows} rows, near duplicates together) cannot be"
        f" split into {wanted} parts."
        " Give more rows, raise dataset.clean.similarity if they only look alike, or set"
        " dataset.test and dataset.validation to a uri of their own or to percent 0.",
    )
