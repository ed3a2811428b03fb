"""Whether somebody has looked at an object all the time."""

from datetime import UTC, datetime, timedelta

import pytest

from tunesmith_operator.kube.known import Key
from tunesmith_operator.planning.stepping import NO_ABSENCE
from tunesmith_operator.reconcile.looking import Looks

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TERM = 3
KEY = Key("ModelDeployment", "team", "chat")


def test_a_process_that_has_just_begun_was_away() -> None:
    looks = Looks()
    assert looks.was_away(KEY, NOW, TERM)
    looks.promise(KEY, NOW + timedelta(seconds=30), TERM)
    assert not looks.was_away(KEY, NOW, TERM)
    looks.forget(KEY)
    assert looks.was_away(KEY, NOW, TERM)


@pytest.mark.parametrize(
    ("late", "was_away"),
    [
        pytest.param(timedelta(seconds=-29), False, id="before it was promised"),
        pytest.param(NO_ABSENCE, False, id="as late as a burst makes it"),
        pytest.param(NO_ABSENCE + timedelta(seconds=1), True, id="later than that"),
    ],
)
def test_only_a_look_long_after_its_time_comes_from_an_absence(
    late: timedelta, was_away: bool
) -> None:
    looks, due = Looks(), NOW + timedelta(seconds=30)
    looks.promise(KEY, due, TERM)
    assert looks.was_away(KEY, due + late, TERM) is was_away


def test_who_leads_again_was_away_however_soon_the_look_comes() -> None:
    looks = Looks()
    looks.promise(KEY, NOW + timedelta(minutes=5), TERM)
    assert looks.was_away(KEY, NOW + timedelta(minutes=1), TERM + 1)
