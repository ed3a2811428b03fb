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
