"""A route names a canary before it gives it a share."""

import pytest

from tunesmith_operator.planning.routing import introduce
from tunesmith_operator.planning.serving import SeenRouter, Traffic

ALONE = SeenRouter(Traffic("a"))
NAMED = SeenRouter(Traffic("a", "b", 0))
WANTED = Traffic("a", "b", 20)

ROWS = [
    pytest.param(WANTED, ALONE, 0, id="a canary that the route does not name"),
    pytest.param(WANTED, None, 0, id="no route yet"),
    pytest.param(WANTED, SeenRouter(None), 0, id="a route that was lost"),
    pytest.param(WANTED, SeenRouter(Traffic("")), 0, id="a route that somebody edited"),
    pytest.param(
        WANTED, SeenRouter(Traffic("a", "b", 0), is_settled=False), 0, id="named, not yet accepted"
    ),
    pytest.param(WANTED, NAMED, 20, id="named and accepted"),
    pytest.param(
        Traffic("a", "b", 50),
        SeenRouter(WANTED, is_settled=False),
        50,
        id="a further step while the last one is not accepted",
    ),
    pytest.param(Traffic("b", "a", 20), ALONE, 20, id="what had everything before is known"),
]


@pytest.mark.parametrize(("wanted", "seen", "weight"), ROWS)
def test_a_share_waits_for_the_name(wanted: Traffic, seen: SeenRouter | None, weight: int) -> None:
    said = introduce(wanted, seen)
    assert said.weight == weight
    assert (said.main, said.canary) == (wanted.main, wanted.canary)


@pytest.mark.parametrize("traffic", [Traffic("b"), Traffic("a", "b", 0, 30)])
def test_what_gives_a_canary_no_share_is_said_at_once(traffic: Traffic) -> None:
    assert introduce(traffic, ALONE) == traffic
