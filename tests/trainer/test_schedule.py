"""The learning rate over the steps."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from transformers import get_scheduler

from tunesmith_api.training import Hyperparameters, Scheduler
from tunesmith_trainer.schedule import learning_rate, unreached


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
        pytest.param(
            Scheduler.COSINE_WITH_RESTARTS, 8, 0.2763932, id="the first wave is almost over"
        ),
        pytest.param(Scheduler.COSINE_WITH_RESTARTS, 9, 1.0, id="the second begins at the top"),
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


WARMUP, TOTAL = 10, 100
THEIRS: list[Any] = [
    pytest.param({"scheduler": "Linear"}, "linear", {}, id="linear"),
    pytest.param({"scheduler": "Cosine"}, "cosine", {}, id="cosine"),
    pytest.param(
        {"scheduler": "Cosine", "finalLearningRateShare": "0.1"},
        "cosine_with_min_lr",
        {"min_lr_rate": 0.1},
        id="cosine with a lowest rate",
    ),
    pytest.param(
        {"scheduler": "CosineWithRestarts"},
        "cosine_with_restarts",
        {"num_cycles": 2},
        id="cosine with one restart",
    ),
    pytest.param(
        {"scheduler": "CosineWithRestarts", "schedulerCycles": 7},
        "cosine_with_restarts",
        {"num_cycles": 7},
        id="cosine with six restarts, between the steps",
    ),
    pytest.param(
        {"scheduler": "CosineWithRestarts", "schedulerCycles": 1}, "cosine", {}, id="no restart"
    ),
    pytest.param(
        {"scheduler": "Polynomial"}, "polynomial", {"power": 2.0, "lr_end": 0.0}, id="a parabola"
    ),
    pytest.param(
        {"scheduler": "Polynomial", "schedulerPower": "0.5", "finalLearningRateShare": "0.1"},
        "polynomial",
        {"power": 0.5, "lr_end": 0.002},
        id="a root, with a lowest rate",
    ),
    pytest.param({"scheduler": "InverseSqrt"}, "inverse_sqrt", {}, id="inverse square root"),
    pytest.param({"scheduler": "Constant"}, "constant_with_warmup", {}, id="constant"),
    pytest.param(
        {"scheduler": "WarmupStableDecay"},
        "warmup_stable_decay",
        {"num_decay_steps": 20, "decay_type": "linear"},
        id="warm-up, stable, decay",
    ),
    pytest.param(
        {
            "scheduler": "WarmupStableDecay",
            "schedulerDecayShare": "0.5",
            "finalLearningRateShare": "0.1",
        },
        "warmup_stable_decay",
        {"num_decay_steps": 50, "decay_type": "linear", "min_lr_ratio": 0.1},
        id="a longer decay to a lowest rate",
    ),
    pytest.param(
        {"scheduler": "WarmupStableDecay", "schedulerDecayShare": "1"},
        "warmup_stable_decay",
        {"num_decay_steps": 90, "decay_type": "linear"},
        id="decay all the way, but no fall from the end of warm-up",
    ),
]


def rates_of_transformers(name: str, options: dict[str, Any], warmup: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.02)
    scheduler = get_scheduler(
        name,
        optimizer,
        num_warmup_steps=warmup,
        num_training_steps=TOTAL,
        scheduler_specific_kwargs=options,
    )
    rates = []
    for _ in range(TOTAL):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(("given", "name", "options"), THEIRS)
def test_rates_are_those_of_transformers(
    given: dict[str, Any], name: str, options: dict[str, Any]
) -> None:
    settings = Hyperparameters.model_validate(
        given | {"learningRate": "0.02", "warmupSteps": WARMUP}
    )
    mine = [learning_rate(step, TOTAL, settings) for step in range(TOTAL)]
    assert mine[WARMUP:] == pytest.approx(
        rates_of_transformers(name, options, WARMUP)[WARMUP:], rel=1e-9, abs=1e-12
    )
    # Their warm-up begins at zero, and ours where theirs would be a step later.
    theirs = rates_of_transformers("constant_with_warmup", {}, WARMUP + 1)
    assert mine[:WARMUP] == pytest.approx(theirs[1 : WARMUP + 1], rel=1e-9)


@pytest.mark.parametrize("cycles", [2, 3, 7, 29])
@pytest.mark.parametrize("total", [58, 87, 203])
def test_each_wave_begins_at_the_top(cycles: int, total: int) -> None:
    """Also where steps times cycles over steps is no exact quotient."""
    settings = Hyperparameters(
        learning_rate="1", scheduler=Scheduler.COSINE_WITH_RESTARTS, scheduler_cycles=cycles
    )
    rates = [learning_rate(step, total, settings) for step in range(total)]
    tops = [step for step in range(total) if cycles * step % total == 0]
    assert [rates[step] for step in tops] == [1.0] * len(tops)
    assert sum(later > rate for rate, later in pairwise(rates)) == cycles - 1


def test_a_warm_up_that_does_not_end_is_said() -> None:
    settings = Hyperparameters(learning_rate="1", warmup_steps=99)
    assert unreached(100, settings) == ""
    said = unreached(10, settings)
    assert (
        "warmupSteps is 99, but training has 10 steps: the learning rate rose to 0.1 of 1" in said
    )
