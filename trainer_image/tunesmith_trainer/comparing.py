"""From what was observed to what is reported: values side by side, with intervals.

Pure. Called by `publish`.
"""

import math

from tunesmith_api.evaluation import Baseline, Gate
from tunesmith_api.measurements import BaselineValue, Measurement
from tunesmith_api.report import SampleAnswer
from tunesmith_api.run import TrainingRun
from tunesmith_trainer.evaluation import Judgement
from tunesmith_trainer.examination import Examined
from tunesmith_trainer.intervals import Interval, Observed, bootstrap, paired_bootstrap
from tunesmith_trainer.suites.questions import Asked

_SAMPLES = 50
_TEXT = 2000


def measurements(run: TrainingRun, examined: Examined) -> tuple[Measurement, ...]:
    """Give every metric of the tuned model beside the baselines', those that gates ask for first.

    What is no finite number is left out: a gate on it is inconclusive, which is the truth.
    """
    others = {name: _by_metric(j) for name, j in examined.baselines.items()}
    found = [
        _measurement(one, others, run.hyperparameters.seed)
        for one in examined.tuned.observed
        if math.isfinite(one.value())
    ]
    return tuple(sorted(found, key=lambda m: not _is_gated(m, run.evaluation.gates)))


def _by_metric(judgement: Judgement) -> dict[str, Observed]:
    return {one.metric: one for one in judgement.observed if math.isfinite(one.value())}


def _is_gated(measurement: Measurement, gates: tuple[Gate, ...]) -> bool:
    return any(gate.metric == measurement.metric for gate in gates)


def _measurement(
    one: Observed, others: dict[Baseline, dict[str, Observed]], seed: int
) -> Measurement:
    compared = {
        name: (by_metric[one.metric], paired_bootstrap(one, by_metric[one.metric], seed))
        for name, by_metric in others.items()
        if one.metric in by_metric
    }
    low, high = _ends(bootstrap(one, seed))
    base, base_interval = compared.pop(Baseline.BASE, (None, None))
    difference_low, difference_high = _ends(base_interval)
    return Measurement(
        metric=one.metric,
        value=decimal(one.value()),
        low=low,
        high=high,
        base_value=decimal(base.value()) if base else "",
        difference_low=difference_low,
        difference_high=difference_high,
        others=tuple(
            BaselineValue(
                name=name.value,
                value=decimal(other.value()),
                difference_low=_ends(interval)[0],
                difference_high=_ends(interval)[1],
            )
            for name, (other, interval) in compared.items()
        ),
    )


def sample_answers(run: TrainingRun, asked: Asked, examined: Examined) -> tuple[SampleAnswer, ...]:
    """Put all models' answers side by side, in the order of suites and questions."""
    base = examined.baselines[Baseline.BASE]
    others = {n.value: j for n, j in examined.baselines.items() if n is not Baseline.BASE}
    return tuple(
        SampleAnswer(
            suite=suite.name,
            prompt=question.prompt[:_TEXT],
            expected=question.expected[:_TEXT],
            base=base.answers[suite.name][place],
            tuned=examined.tuned.answers[suite.name][place],
            others={name: j.answers[suite.name][place] for name, j in others.items()},
        )
        for suite in run.evaluation.suites
        for place, question in enumerate(asked.get(suite.name, ())[:_SAMPLES])
    )


def notes(examined: Examined) -> tuple[str, ...]:
    """Give what could not be measured, each once, with the model it is about."""
    judged = {"tuned": examined.tuned} | {n.value: j for n, j in examined.baselines.items()}
    own = tuple(f"{note} ({name})" for name, j in judged.items() for note in j.notes)
    return (*own, *examined.notes)


def decimal(value: float) -> str:
    """Give ten significant digits; differences below that are noise between machines."""
    return f"{value:.10g}"


def _ends(interval: Interval | None) -> tuple[str, str]:
    # Other random draws would change the fourth digit; more than five say nothing.
    return (f"{interval.low:.5g}", f"{interval.high:.5g}") if interval else ("", "")
