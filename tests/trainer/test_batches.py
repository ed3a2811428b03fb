"""The order of the data is a pure function, and no row is lost or seen twice."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith_trainer.batches import BatchPlan, batches_by_length, collate, rank_share
from tunesmith_trainer.data.prepared import Split

counts = st.integers(1, 200)
seeds = st.integers(0, 2**31 - 1)


def plan_of(rows: int, seed: int, batch: int) -> BatchPlan:
    lengths = np.random.default_rng(rows).integers(5, 100, rows)
    return BatchPlan(lengths, seed, batch)


@given(counts, seeds, st.integers(1, 9), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_an_epoch_has_every_row_once(rows: int, seed: int, batch: int, epoch: int) -> None:
    batches = plan_of(rows, seed, batch).epoch_batches(epoch)
    assert sorted(np.concatenate(batches)) == list(range(rows))
    assert all(len(b) == batch for b in batches[:-1])


@given(counts, seeds, st.integers(1, 9), st.integers(0, 60))
@settings(max_examples=60, deadline=None)
def test_starting_late_gives_what_would_have_come(
    rows: int, seed: int, batch: int, start: int
) -> None:
    plan = plan_of(rows, seed, batch)
    from_the_start = [list(b) for b in islice(plan.batches_from(0), start + 5)]
    assert [list(b) for b in islice(plan.batches_from(start), 5)] == from_the_start[start:]


def test_epochs_and_seeds_differ() -> None:
    plan, other = plan_of(50, 1, 4), plan_of(50, 2, 4)
    orders = [np.concatenate(p.epoch_batches(e)).tolist() for p in (plan, other) for e in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4


def test_rows_of_like_length_are_together() -> None:
    lengths = np.random.default_rng(0).integers(10, 500, 1024)
    batches = BatchPlan(lengths, 0, 8).epoch_batches(0)
    padded = sum(int(lengths[b].max()) * len(b) for b in batches)
    assert padded / lengths.sum() < 1.05
    assert max(int(lengths[b].max()) for b in batches[:20]) > 400, "short rows must not come first"


@given(counts, st.integers(1, 4), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_ranks_share_a_global_batch(rows: int, micro: int, ranks: int) -> None:
    batch = np.arange(rows)
    shares = [rank_share(batch, micro, rank, ranks) for rank in range(ranks)]
    assert len({len(share) for share in shares}) == 1, "ranks wait for each other in each turn"
    assert sorted(np.concatenate([np.concatenate(s) for s in shares])) == list(range(rows))
    assert all(len(turn) <= micro for share in shares for turn in share)


@pytest.mark.parametrize(
    ("epochs", "max_steps", "expected"),
    [
        pytest.param("3", 0, 39, id="whole epochs, the last step of each short"),
        pytest.param("0.5", 0, 7, id="half an epoch rounds up"),
        pytest.param("0.001", 0, 1, id="at least one step"),
        pytest.param("0.1", 100, 100, id="maxSteps overrides"),
    ],
)
def test_total_steps(epochs: str, max_steps: int, expected: int) -> None:
    assert plan_of(50, 0, 4).total_steps(epochs, max_steps) == expected


def test_targets_are_what_comes_after() -> None:
    split = Split(
        np.array([10, 11, 12, 20, 21, 22, 23], np.int32),
        np.array([0, 3, 7], np.int64),
        np.array([0, 0, 1, 1, 0, 1, 1], np.uint8),
    )
    batch = collate(split, [0, 1], pad_id=9)
    assert batch.input_ids.tolist() == [[10, 11, 12, 9], [20, 21, 22, 23]]
    # Row 1's first token is marked, but nothing comes before it that could predict it.
    assert batch.targets.tolist() == [12, 22, 23]
    assert batch.positions.tolist() == [1, 5, 6]
    assert batch.tokens == 7


def test_an_empty_batch_predicts_nothing() -> None:
    split = Split(np.array([1], np.int32), np.array([0, 1], np.int64), np.array([1], np.uint8))
    batch = collate(split, [], pad_id=3)
    assert batch.input_ids.tolist() == [[3]]
    assert len(batch.positions) == len(batch.targets) == 0


def test_evaluation_covers_all_rows_whatever_the_ranks() -> None:
    lengths = np.arange(1, 20)
    shares = [batches_by_length(lengths, 4, rank, 3) for rank in range(3)]
    assert sorted(np.concatenate([b for s in shares for b in s])) == list(range(19))
    assert shares[0][0].tolist() == [18, 17, 16, 15], "longest first"
