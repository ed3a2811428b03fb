"""What is worked on in pieces on the disk is what would be found at once in memory."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from random import Random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest, xxh3_128_digest

from tests.trainer.scratch_room import SCRATCH
from tests.trainer.test_repeats import variants
from tests.trainer.test_splitting import WORDS, row, rows_of
from tunesmith_api.cleaning import Clean, Deduplication
from tunesmith_trainer.data import keys, near, scratch
from tunesmith_trainer.data.keys import as_keys, grouped, key_bytes, ordered
from tunesmith_trainer.data.mixing import mix
from tunesmith_trainer.data.near import find_pairs
from tunesmith_trainer.data.reading import Row
from tunesmith_trainer.data.repeats import Repeats
from tunesmith_trainer.data.seen import SeenKeys
from tunesmith_trainer.data.splitting import split_rows
from tunesmith_trainer.data.tally import Tally


@pytest.fixture(scope="module")
def small_pieces() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module in (scratch, keys, near):
            patch.setattr(module, "CHUNK", 16)
        patch.setattr(scratch, "_IN_MEMORY_BYTES", 64)
        yield


def digests_of(numbers: list[int], few_upper_bits: bool) -> list[bytes]:
    """Give digests; with few upper bits many different ones begin alike."""
    digests = [xxh3_128_digest(str(number).encode()) for number in numbers]
    return [bytes(3) + digest[:1] + digest[4:] for digest in digests] if few_upper_bits else digests


LISTS = st.lists(st.integers(0, 30), max_size=200)


@settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(numbers=LISTS, few=st.booleans())
@pytest.mark.usefixtures("small_pieces")
def test_equal_keys_are_numbered_as_they_come(numbers: list[int], few: bool) -> None:
    digests = digests_of(numbers, few)
    groups, firsts = grouped(as_keys(digests, SCRATCH), SCRATCH)
    distinct = list(dict.fromkeys(digests))
    assert groups.tolist() == [distinct.index(digest) for digest in digests]
    assert firsts.tolist() == [digests.index(digest) for digest in distinct]


@settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(numbers=LISTS, few=st.booleans())
@pytest.mark.usefixtures("small_pieces")
def test_rows_are_in_the_order_of_their_keys(numbers: list[int], few: bool) -> None:
    digests = digests_of(numbers, few)
    found = as_keys(digests, SCRATCH)
    assert [key_bytes(key) for key in found] == digests
    order = ordered((found[:, 0], found[:, 1]), SCRATCH).tolist()
    assert order == sorted(range(len(digests)), key=digests.__getitem__)


@pytest.mark.usefixtures("small_pieces")
def test_a_table_of_keys_is_a_set() -> None:
    rng = Random(3)
    digests = [xxh3_128_digest(str(rng.randrange(9000)).encode()) for _ in range(20000)]
    # Those that begin alike want the same place.
    digests += [bytes(8) + digest[8:] for digest in digests[:50]]
    table, known = SeenKeys(SCRATCH), set[bytes]()
    for digest in digests:
        assert table.add(digest) == (digest not in known)
        known.add(digest)


def test_pairs_splits_and_mixtures_do_not_depend_on_the_pieces(
    request: pytest.FixtureRequest,
) -> None:
    crowd = [" ".join(WORDS[:60]) + f" n{n}" for n in range(60)]
    texts = [*variants(5, 300), *crowd, *variants(5, 40)]
    rows = [*rows_of(texts[:100], "a"), *rows_of(texts[100:], "b")]

    def all_of_it() -> list[object]:
        pairs = find_pairs([row(text).content for text in texts], 0.85, SCRATCH)
        clean = Clean(deduplicate=Deduplication.NEAR)
        repeats = Repeats(clean, Tally(), SCRATCH)
        parts = repeats.resolve([rows[:30], rows[30:]])
        shares = {"validation": Decimal(10), "test": Decimal(5)}
        sides = split_rows(parts[1].rows, parts[1].clusters, 7, SCRATCH, **shares)
        mixed = mix(sides.train, {"a": Decimal("2.5"), "b": Decimal("0.3")}, 7, SCRATCH)
        return [
            *(column.tolist() for column in pairs),
            *(list(part.rows) for part in parts),
            repeats.overlap,
            *map(list, sides),
            list(mixed),
        ]

    at_once = all_of_it()
    assert len(at_once[0]) > 500 and at_once[5] is not None
    request.getfixturevalue("small_pieces")
    assert all_of_it() == at_once


@pytest.mark.usefixtures("small_pieces")
def test_of_equal_rows_the_first_are_taken_once_more() -> None:
    rows = [Row(b"same", "a", n) for n in range(40)] + [Row(b"other", "b", n) for n in range(40)]
    mixed = list(mix(rows, {"a": Decimal("1.25"), "b": Decimal("0.5")}, 7, SCRATCH))
    assert mixed[:20] == [row for row in rows[:10] for _ in range(2)]
    assert mixed[20:] == rows[10:60]


def test_mixing_takes_the_smallest_hashes() -> None:
    rows = [Row(f"row {n}".encode(), "a", n) for n in range(100)]
    mixed = list(mix(rows, {"a": Decimal("0.2")}, 7, SCRATCH))
    by_hash = sorted(rows, key=lambda row: xxh3_64_intdigest(row.content, seed=7))
    assert mixed == sorted(by_hash[:20], key=lambda row: row.line)


def test_arrays_are_on_the_disk_and_can_be_written() -> None:
    array = SCRATCH.zeros((300, 1000), np.int32)
    array[7] = 5
    assert array.sum() == 5000 and array.base is not None
    taken = SCRATCH.taken(array, np.array([7, 8, 7]))
    assert taken.sum(axis=1).tolist() == [5000, 0, 5000]
    column = SCRATCH.column(np.int16)
    column.add(4)
    assert column.array().tolist() == [4]
    assert SCRATCH.column(np.int16, width=2).array().shape == (0, 2)
