"""The learning rate over the steps."""

from __future__ import annotations

import pytest

from tunesmith_api.training import Hyperparameters, Scheduler
from tunesmith_trainer.schedule import learning_rate


@pytest.mark.parametrize(
    ("scheduler", "step", "expected"),
    [
        pytest.param(Scheduler.CONSTANT, 0, 0.2, id="warm-up does not begin at zero"),
        pytest.param(Scheduler.CONSTANT, 3, 0.8, id="warm-up rises in equal parts"),
        pytest.param(Scheduler.CONSTANT, 4, 1.0, id="the highest rate comes right after it"),
        pytest.param(Scheduler.CONSTANT, 13, 1.0, id="constant stays"),
        pytest.param(Scheduler.LINEAR, 9, 0.5, id="linear is at half in the middle"),
        pytest.param(Scheduler.LINEAR, 13, 0.1, id="linear's last step is not lost to zero"),
        pytest.param(Scheduler.COSINE, 9, 0.5, id="cosine is at half in the middle"),
        pytest.param(Scheduler.COSINE, 13, 0.02447, id="cosine ends near zero"),
    ],
)
def test_learning_rate(scheduler: Scheduler, step: int, expected: float) -> None:
    settings = Hyperparameters(learning_rate="1", warmup_steps=4, scheduler=scheduler)
    assert learning_rate(step, 14, settings) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("scheduler", "step", "expected"),
    [
        pytest.param(Scheduler.LINEAR, 9, 0.6, id="linear is halfway to its end"),
        pytest.param(Scheduler.COSINE, 9, 0.6, id="cosine too"),
        pytest.param(Scheduler.POLYNOMIAL, 9, 0.2 + 0.8 / 4, id="a parabola is at a quarter"),
        pytest.param(Scheduler.WARMUP_STABLE_DECAY, 11, 1.0, id="stable until the last fifth"),
        pytest.param(
            Scheduler.WARMUP_STABLE_DECAY, 13, 0.2 + 0.8 / 2.8, id="then it falls in a line"
        ),
        pytest.param(Scheduler.INVERSE_SQRT, 4, 1.0, id="no jump after warm-up"),
        pytest.param(Scheduler.INVERSE_SQRT, 12, 3**-0.5, id="three times warm-up's steps"),
        pytest.param(Scheduler.CONSTANT, 12, 1.0, id="constant has no end to fall to"),
    ],
)
def test_rates_that_end_above_zero(scheduler: Scheduler, step: int, expected: float) -> None:
    settings = Hyperparameters(
        learning_rate="1", warmup_steps=4, scheduler=scheduler, final_learning_rate_share="0.2"
    )
    assert learning_rate(step, 14, settings) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("scheduler", Scheduler)
@pytest.mark.parametrize("warmup", [0, 4, 50])
def test_no_rate_is_zero_or_above_the_highest(scheduler: Scheduler, warmup: int) -> None:
    settings = Hyperparameters(learning_rate="1", warmup_steps=warmup, scheduler=scheduler)
    assert all(0 < learning_rate(step, 30, settings) <= 1 for step in range(30))
