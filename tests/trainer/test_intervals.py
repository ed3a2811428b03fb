"""Intervals: how often they hold the truth, and what pairing wins."""

from __future__ import annotations

import numpy as np
import pytest
from sacrebleu.metrics.bleu import BLEU

from tunesmith_trainer.intervals import (
    MOST_GROUPS,
    Statistic,
    bootstrap,
    given,
    mean,
    observe,
    paired_bootstrap,
)

SEED = 17


def test_the_interval_holds_the_truth_nineteen_times_in_twenty() -> None:
    """Losses by tokens: rows of differing length, as in a test split."""
    chance = np.random.default_rng(1)
    trials, held = 300, 0
    for trial in range(trials):
        tokens = chance.integers(5, 50, size=80).astype(float)
        nats = tokens * chance.normal(2.0, 0.7, size=80)
        found = bootstrap(observe("s/loss", Statistic.RATIO, nats, tokens), trial)
        assert found is not None
        held += found.low <= 2.0 <= found.high
    # 95 % of 300 are 285; three standard deviations of a fair draw are 11, and the percentile
    # interval is known to be a little narrow at this size.
    assert 270 <= held <= 296


def test_the_interval_is_that_of_the_normal_distribution_where_that_holds() -> None:
    values = np.random.default_rng(2).normal(0.0, 1.0, size=400)
    found = bootstrap(mean("s/x", values), SEED)
    assert found is not None
    half = 1.96 * values.std() / np.sqrt(400)
    assert found.high - found.low == pytest.approx(2 * half, rel=0.08)
    assert found.low < values.mean() < found.high


def test_pairing_finds_a_small_difference_that_hard_rows_would_hide() -> None:
    chance = np.random.default_rng(3)
    hardness = chance.normal(3.0, 1.5, size=100)
    base = mean("s/loss", hardness + chance.normal(0, 0.05, size=100))
    tuned = mean("s/loss", hardness - 0.05 + chance.normal(0, 0.05, size=100))
    alone_tuned, alone_base = bootstrap(tuned, SEED), bootstrap(base, SEED)
    paired = paired_bootstrap(tuned, base, SEED)
    assert alone_tuned and alone_base and paired
    assert alone_tuned.high > alone_base.low  # apart, nothing could be said
    assert paired.high < 0
    assert paired.low < -0.05 < paired.high


def test_the_same_seed_gives_the_same_interval_and_another_one_hardly_another() -> None:
    values = np.random.default_rng(4).random(60)
    one, again, other = (bootstrap(mean("s/x", values), seed) for seed in (1, 1, 2))
    assert one == again != other
    assert one and other
    assert one.low == pytest.approx(other.low, abs=0.02)


def test_groups_of_rows_give_the_same_value_and_as_wide_an_interval() -> None:
    values = np.random.default_rng(5).exponential(2.0, size=MOST_GROUPS * 20)
    grouped = mean("s/x", values)
    assert grouped.rows == MOST_GROUPS
    assert grouped.value() == pytest.approx(values.mean())
    found = bootstrap(grouped, SEED)
    assert found is not None
    expected = 2 * 1.96 * values.std() / np.sqrt(len(values))
    assert found.high - found.low == pytest.approx(expected, rel=0.1)


def test_perplexity_is_the_exponent_of_the_loss_in_every_resample() -> None:
    nats, tokens = [10.0, 30.0, 22.0, 8.0], [10.0, 12.0, 11.0, 9.0]
    loss = bootstrap(observe("s/loss", Statistic.RATIO, nats, tokens), SEED)
    perplexity = bootstrap(observe("s/p", Statistic.EXP_RATIO, nats, tokens), SEED)
    assert loss and perplexity
    assert np.log(perplexity) == pytest.approx(np.array(loss), rel=1e-2)


def test_bleu_of_a_resample_is_the_corpus_bleu_of_its_rows() -> None:
    replies = ["the cat sat on the mat", "a dog runs in the park today", "it rains a lot here"]
    wanted = ["the cat sat on a mat", "the dog runs in the park", "it rains a lot over here"]
    scorer = BLEU()
    rows = [scorer.corpus_score([r], [[w]]) for r, w in zip(replies, wanted, strict=True)]
    table = [[*row.counts, *row.totals, row.sys_len, row.ref_len] for row in rows]
    observed = observe("s/bleu", Statistic.BLEU, *zip(*table, strict=True))
    drawn = [0, 0, 2]
    counts = np.bincount(drawn, minlength=3)[None].astype(float)
    corpus = scorer.corpus_score([replies[i] for i in drawn], [[wanted[i] for i in drawn]])
    assert observed.resampled(counts)[0] == pytest.approx(corpus.score)


@pytest.mark.parametrize(
    "one",
    [
        pytest.param(given("s/memory", 5.0), id="a number without rows"),
        pytest.param(mean("s/x", [1.0]), id="a single row"),
        pytest.param(observe("s/x", Statistic.RATIO, [1.0, 0.0], [1.0, 0.0]), id="0 by 0"),
    ],
)
def test_no_interval_is_made_up(one: object) -> None:
    assert bootstrap(one, SEED) is None  # type: ignore[arg-type]
