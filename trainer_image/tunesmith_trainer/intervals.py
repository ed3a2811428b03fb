"""How sure a metric is: 95 % intervals by bootstrap over rows.

A metric is a function of sums over rows, so a resample is a product of counts and columns, and a
thousand of them are one product of matrices. Pure but for a generator with a given seed. Called
by `comparing`; what the columns are is the suites' matter.
"""

from collections.abc import Callable
from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

Array = NDArray[np.float64]

RESAMPLES = 1000
LEVEL = 0.95
# More rows than this are summed up in groups first. Groups of rows taken at random vary as the rows
# themselves do, and the matrices stay small.
MOST_GROUPS = 1000
_FEWEST = 2


class Statistic(StrEnum):
    """How sums over rows become the value of a metric."""

    RATIO = "Ratio"
    """First sum by the second: a mean, or a mean weighted by tokens."""
    EXP_RATIO = "ExpRatio"
    """exp of that: perplexity."""
    BLEU = "Bleu"
    """Of matches and totals of four orders of n-grams and both lengths (Papineni et al. 2002)."""
    F1 = "F1"
    """Of true positives, false positives, false negatives: the micro average."""
    MACRO_F1 = "MacroF1"
    """The same three for each label, one label after the other; the mean of the labels' F1."""
    GIVEN = "Given"
    """The only number there is: no rows, no interval."""


class Observed(BaseModel):
    """A metric of one model: sums by row (or by group of rows), in the same order for all models.

    Plain lists, because what was observed of a base model travels with the checkpoints of a full
    fine-tuning, which changes that very model.
    """

    model_config = ConfigDict(frozen=True)

    metric: str
    """SUITE/METRIC."""
    statistic: Statistic
    columns: tuple[tuple[float, ...], ...]
    """[columns][rows]"""

    @property
    def rows(self) -> int:
        """Rows, or groups of them."""
        return len(self.columns[0]) if self.columns else 0

    def value(self) -> float:
        """Give the metric over all rows; nan where it is not defined."""
        return float(_VALUES[self.statistic](self._table().sum(axis=0, keepdims=True))[0])

    def resampled(self, counts: Array) -> Array:
        """Give the metric of each resample, [resamples]; `counts` is [resamples, rows]."""
        return _VALUES[self.statistic](counts @ self._table())

    def _table(self) -> Array:
        return np.array(self.columns, dtype=np.float64).T


class Interval(NamedTuple):
    """Both ends of a 95 % interval."""

    low: float
    high: float


def observe(metric: str, statistic: Statistic, *columns: Any) -> Observed:
    """Make an Observed of columns of numbers, [rows] each, in at most MOST_GROUPS groups."""
    table = np.array(columns, dtype=np.float64)
    if table.shape[1] > MOST_GROUPS:
        # Dealt like cards: rows next to each other in a file often are alike.
        table = np.stack([table[:, i::MOST_GROUPS].sum(axis=1) for i in range(MOST_GROUPS)], axis=1)
    return Observed(metric=metric, statistic=statistic, columns=tuple(map(tuple, table.tolist())))


def given(metric: str, value: float) -> Observed:
    """Make an Observed of one number that has no rows."""
    return Observed(metric=metric, statistic=Statistic.GIVEN, columns=((value,),))


def mean(metric: str, values: Any) -> Observed:
    """Make an Observed of one number a row, whose mean is the metric."""
    return observe(metric, Statistic.RATIO, values, np.ones(len(values)))


def bootstrap(one: Observed, seed: int) -> Interval | None:
    """Give the percentile interval of a metric (Efron and Tibshirani 1993, chapter 13).

    None where there is nothing to draw from, or a resample where the metric is not defined.
    """
    if not _has_rows(one):
        return None
    return _percentiles(one.resampled(_draw(one.rows, seed)))


def paired_bootstrap(one: Observed, other: Observed, seed: int) -> Interval | None:
    """Give the percentile interval of one metric minus the other, on the same resampled rows.

    Rows that are hard are hard for both models; drawing them together takes that out of the
    difference (paired bootstrap, Koehn 2004, "Statistical Significance Tests for Machine
    Translation Evaluation").
    """
    if not _has_rows(one) or not _has_rows(other) or one.rows != other.rows:
        return None
    counts = _draw(one.rows, seed)
    return _percentiles(one.resampled(counts) - other.resampled(counts))


def _has_rows(one: Observed) -> bool:
    return one.statistic is not Statistic.GIVEN and one.rows >= _FEWEST


def _draw(rows: int, seed: int) -> Array:
    chance = np.random.Generator(np.random.Philox(key=np.array([seed, rows], dtype=np.uint64)))
    return chance.multinomial(rows, np.full(rows, 1 / rows), size=RESAMPLES).astype(np.float64)


def _percentiles(values: Array) -> Interval | None:
    if not np.isfinite(values).all():
        return None
    outside = (1 - LEVEL) / 2
    low, high = np.quantile(values, [outside, 1 - outside])
    return Interval(float(low), float(high))


def _ratio(sums: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return sums[:, 0] / sums[:, 1]


def _exp_ratio(sums: Array) -> Array:
    with np.errstate(over="ignore"):
        return np.exp(_ratio(sums))


def _bleu(sums: Array) -> Array:
    """Compute corpus BLEU without smoothing but for `exp` at zero matches, as sacrebleu does."""
    from sacrebleu.metrics.bleu import BLEU

    return np.array(
        [
            BLEU.compute_bleu(
                correct=line[0:4],
                total=line[4:8],
                sys_len=line[8],
                ref_len=line[9],
                smooth_method="exp",
            ).score
            for line in sums.round().astype(int).tolist()
        ]
    )


def _f1(sums: Array) -> Array:
    """2TP / (2TP + FP + FN); nan where there was nothing to find and nothing was found."""
    hits, false, missed = sums[:, 0], sums[:, 1], sums[:, 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        return 2 * hits / (2 * hits + false + missed)


def _macro_f1(sums: Array) -> Array:
    """Mean over the labels that occur in a resample, expected or given."""
    by_label = sums.reshape(len(sums), -1, 3)
    scores = _f1(by_label.reshape(-1, 3)).reshape(len(sums), -1)
    there = ~np.isnan(scores)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(there, scores, 0).sum(axis=1) / there.sum(axis=1)


def _given(sums: Array) -> Array:
    return sums[:, 0]


_VALUES: dict[Statistic, Callable[[Array], Array]] = {
    Statistic.RATIO: _ratio,
    Statistic.EXP_RATIO: _exp_ratio,
    Statistic.BLEU: _bleu,
    Statistic.F1: _f1,
    Statistic.MACRO_F1: _macro_f1,
    Statistic.GIVEN: _given,
}
