"""Which rows are trained on, validated on, and held out.

A pure function of (content, seed): each distinct conversation gets a number from its hash, and
those with the smallest numbers are held out. So equal rows are on one side, the order of the
files does not matter, and more data moves hardly any row to the other side. Preferences about the
same question count as one conversation. Called by ``prepare``.
"""

from collections.abc import Sequence
from decimal import Decimal
from typing import NamedTuple

import orjson
from xxhash import xxh3_64_intdigest, xxh3_128_digest

from tunesmith_api.run import UserErrorReason
from tunesmith_trainer.data.cleaning import content_key
from tunesmith_trainer.data.preferences import PREFERENCE_START
from tunesmith_trainer.data.reading import Row
from tunesmith_trainer.outcome import UserError

_RANGE = 1 << 64


class Sides(NamedTuple):
    """Rows by what they are for; each in the order of the source."""

    train: list[Row]
    validation: list[Row]
    test: list[Row]


def split_rows(rows: Sequence[Row], seed: int, validation: Decimal, test: Decimal) -> Sides:
    """Split by percent of distinct conversations.

    A share above 0 gets at least one conversation, and one is always left to train on.
    Raises UserError (DatasetTooSmall) when there are too few for that.
    """
    keys = [_side_key(row) for row in rows]
    order = sorted((xxh3_64_intdigest(key, seed=seed), key) for key in set(keys))
    wanted = 1 + (validation > 0) + (test > 0)
    if len(order) < wanted:
        raise UserError(
            UserErrorReason.DATASET_TOO_SMALL,
            f"{len(order)} distinct conversations cannot be split into {wanted} parts. Give more,"
            " or set dataset.test and dataset.validation to a uri of their own or to percent 0.",
        )
    test_count = min(_count(order, test, Decimal(0)), len(order) - wanted + 1)
    left = len(order) - test_count - 1
    validation_count = min(_count(order, validation, test), left)
    side = {key: 2 for _, key in order[:test_count]}
    side |= {key: 1 for _, key in order[test_count : test_count + validation_count]}
    sides = Sides([], [], [])
    for row, key in zip(rows, keys, strict=True):
        sides[side.get(key, 0)].append(row)
    return sides


def _side_key(row: Row) -> bytes:
    """Return what rows that have to be on one side have in common."""
    if not row.content.startswith(PREFERENCE_START):
        return content_key(row)
    return xxh3_128_digest(orjson.dumps(orjson.loads(row.content)["messages"]))


def _count(order: list[tuple[int, bytes]], percent: Decimal, above: Decimal) -> int:
    """Count the numbers in the share that begins at ``above`` percent; at least 1 if it is any."""
    if percent <= 0:
        return 0
    low, high = int(above * _RANGE / 100), int((above + percent) * _RANGE / 100)
    return max(1, sum(low <= number < high for number, _ in order))
