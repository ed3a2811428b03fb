"""What is said of a learning curve in two numbers."""

from __future__ import annotations

import pytest

from tunesmith_api.report import LossPoint
from tunesmith_trainer.curve import Curve


def point(step: int, loss: float, tokens: int) -> LossPoint:
    return LossPoint(
        step=step, loss=repr(loss), learning_rate="0", gradient_norm="0", tokens=tokens
    )


@pytest.mark.parametrize("earlier", [0, 1, 30])
def test_the_last_loss_is_of_ten_steps_by_their_tokens(earlier: int) -> None:
    curve = Curve(None)
    for step in range(earlier):
        curve.add(point(step, 9.0, 1000 * (step + 1)))
    seen = 1000 * earlier
    for step in range(9):
        seen += 100
        curve.add(point(earlier + step, 2.0, seen))
    curve.add(point(earlier + 9, 4.0, seen + 10))
    first, last = curve.first_and_last()
    assert float(first) == (9.0 if earlier else 2.0)
    assert float(last) == pytest.approx((9 * 100 * 2.0 + 10 * 4.0) / 910)


def test_a_short_run_and_none() -> None:
    curve = Curve(None)
    assert curve.first_and_last() == ("", "")
    curve.add(point(1, 3.0, 50))
    assert curve.first_and_last() == ("3.0", "3.0")
