"""On which side of a split rows go, and that nothing alike is on two."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainer.scratch_room import SCRATCH
from tunesmith_api.cleaning import Clean, Deduplication
from tunesmith_trainer.data.keys import as_keys
from tunesmith_trainer.data.reading import Row
from tunesmith_trainer.data.repeats import Repeats
from tunesmith_trainer.data.splitting import Sides, split_rows
from tunesmith_trainer.data.tally import Tally, content_key
from tunesmith_trainer.outcome import UserError

WORDS = [f"{letter}{number}" for letter in "abcdefgh" for number in range(40)]


def row(text: str, line: int = 1, file: str = "f") -> Row:
    return Row(orjson.dumps([{"role": "user", "content": text}]), file, line)


def rows_of(texts: list[str], file: str = "f") -> list[Row]:
    return [row(text, line, file) for line, text in enumerate(texts, 1)]


def split(rows: list[Row], seed: int, validation: int, test: int) -> Sides:
    clusters = as_keys(map(content_key, rows), SCRATCH)
    shares = {"validation": Decimal(validation), "test": Decimal(test)}
    return split_rows(rows, clusters, seed, SCRATCH, **shares)


def split_by_likeness(rows: list[Row], seed: int, test: int) -> Sides:
    part = Repeats(Clean(deduplicate=Deduplication.OFF), Tally(), SCRATCH).resolve([rows])[0]
    shares = {"validation": Decimal(test), "test": Decimal(test)}
    return split_rows(part.rows, part.clusters, seed, SCRATCH, **shares)


@st.composite
def families(draw: st.DrawFn) -> list[str]:
    """Give texts in families: a text of 40 words and others with one word at the end changed."""
    texts = []
    for number in range(draw(st.integers(3, 25))):
        words = [WORDS[(number * 37 + n * (number + 3)) % len(WORDS)] for n in range(40)]
        words[0] = f"family{number}"
        copies = draw(st.integers(1, 5))
        texts += [" ".join([*words[:-1], f"end{copy}"]) for copy in range(copies)]
    return draw(st.permutations(texts))


# A shared machine may be slow once; the test's own time limit holds.
@settings(deadline=None)
@given(texts=families(), seed=st.integers(0, 2**31 - 1), test=st.integers(1, 50))
def test_near_duplicates_are_on_one_side_whatever_the_order(
    texts: list[str], seed: int, test: int
) -> None:
    sides = split_by_likeness(rows_of(texts), seed, test)
    families = [{orjson.loads(r.content)[0]["content"].split()[0] for r in side} for side in sides]
    assert all(families)
    assert sum(map(len, families)) == len(set.union(*families))
    again = split_by_likeness(rows_of(sorted(texts)), seed, test)
    assert [sorted(r.content for r in side) for side in again] == [
        sorted(r.content for r in side) for side in sides
    ]


@settings(deadline=None)
@given(
    texts=st.lists(st.sampled_from([f"row {n}" for n in range(40)]), min_size=3, max_size=80),
    seed=st.integers(0, 2**31 - 1),
    validation=st.integers(0, 50),
    test=st.integers(0, 50),
)
def test_equal_rows_are_on_one_side_and_every_side_has_some(
    texts: list[str], seed: int, validation: int, test: int
) -> None:
    rows = rows_of(texts)
    try:
        sides = split(rows, seed, validation, test)
    except UserError as error:
        assert error.reason == "DatasetTooSmall" and len(set(texts)) < 3
        return
    contents = [{row.content for row in side} for side in sides]
    assert sum(map(len, contents)) == len(set(texts))
    assert sorted(row.line for side in sides for row in side) == [row.line for row in rows]
    assert contents[0]
    assert bool(contents[1]) == (validation > 0) and bool(contents[2]) == (test > 0)
    assert all([r.line for r in side] == sorted(r.line for r in side) for side in sides)
    again = split(rows[::-1], seed, validation, test)
    assert [{row.content for row in side} for side in again] == contents


@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(1, 12), min_size=10, max_size=120),
    seed=st.integers(0, 2**31 - 1),
    percent=st.integers(5, 40),
)
def test_the_share_is_met_within_a_tenth_or_one_cluster(
    sizes: list[int], seed: int, percent: int
) -> None:
    texts = [f"row {n}" for n, size in enumerate(sizes) for _ in range(size)]
    sides = split(rows_of(texts), seed, percent, percent)
    target = len(texts) * percent / 100
    for side in (sides.test, sides.validation):
        assert abs(len(side) - target) <= max(0.1 * target, *sizes)


def test_more_data_moves_no_row_and_the_share_is_met() -> None:
    texts = [f"row {n}" for n in range(12000)]
    few = split(rows_of(texts[:6000]), 7, 5, 10)
    many = split(rows_of(texts), 7, 5, 10)
    for before, after in zip(few, many, strict=True):
        assert {row.content for row in before} <= {row.content for row in after}
    assert 1080 <= len(many.test) <= 1320
    assert 540 <= len(many.validation) <= 660


def test_a_cluster_larger_than_the_share_is_trained_on() -> None:
    texts = ["template"] * 900 + [f"row {n}" for n in range(100)]
    for seed in range(20):
        sides = split(rows_of(texts), seed, 0, 5)
        assert "template" not in Counter(
            orjson.loads(row.content)[0]["content"] for row in sides.test
        )
        assert 45 <= len(sides.test) <= 55


def test_another_seed_gives_another_split() -> None:
    rows = rows_of([f"row {n}" for n in range(100)])
    assert list(split(rows, 1, 0, 20).test) != list(split(rows, 2, 0, 20).test)


def test_too_few_groups_say_that_rows_look_alike() -> None:
    texts = [" ".join(WORDS[:60]) + f" n{n}" for n in range(50)]
    with pytest.raises(UserError, match=r"1 distinct group of rows \(50 rows.*similarity"):
        split_by_likeness(rows_of(texts), 1, 10)
