"""What hyperparameters say of themselves."""

from __future__ import annotations

import pytest

from tunesmith_api.training import Hyperparameters


@pytest.mark.parametrize("accumulation", [1, 2, 3, 5])
@pytest.mark.parametrize("batch", range(1, 65))
def test_half_the_batch_makes_steps_of_the_same_rows(batch: int, accumulation: int) -> None:
    given = Hyperparameters(per_device_batch_size=batch, gradient_accumulation_steps=accumulation)
    halved = given.halved()
    rows, turns = halved.per_device_batch_size, halved.gradient_accumulation_steps
    assert rows * turns == batch * accumulation
    assert 1 <= rows <= max(1, batch // 2)
    if batch % 2 == 0:
        assert (rows, turns) == (batch // 2, 2 * accumulation)
