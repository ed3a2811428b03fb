"""Early looks: a failure shows and is confirmed before intervals are over, and nothing else."""

from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest

from tests.simulation.rollout_parts import GOLDEN, RULES, Model
from tests.simulation.rollout_world import RolloutWorld
from tests.simulation.rollouts import (
    BURST_ONLY_BY_SAMPLES,
    at_weight,
    rolled_back,
    serving,
    settle,
    until,
)
from tunesmith_api.analysis import Verdict
from tunesmith_api.deploymentstatus import RollbackReason

FAILS = Model(error_rate=0.5)
INTERVAL = RULES["analysis"]["intervalSeconds"]


def rules(**analysis: Any) -> dict[str, Any]:
    return {**BURST_ONLY_BY_SAMPLES, "analysis": {**RULES["analysis"], **analysis}}


def failed_samples(world: RolloutWorld) -> int:
    return max((m.failures for m in world.rollout.metrics), default=0)


SOONER = [
    # A quarter of 40 requests a second: 10 a second for the canary.
    pytest.param({"minRequests": 10}, 3, 4, id="a second for ten requests"),
    pytest.param({"minRequests": 20}, 6, 7, id="two seconds for twenty"),
    pytest.param({"minRequests": 20, "confirmSeconds": 3}, 9, 10, id="as confirmSeconds says"),
    pytest.param({"confirmSeconds": INTERVAL}, 15, 16, id="turned off"),
    pytest.param({"minRequests": 0}, 15, 16, id="nobody says how many are enough"),
    pytest.param({"minRequests": 200}, 60, 75, id="fewer than enough, however often it looks"),
    pytest.param({"failureLimit": 1, "minRequests": 20}, 2, 3, id="the first ends it"),
    pytest.param({"metrics": [GOLDEN]}, 15, 16, id="golden prompts have their intervals"),
]


@pytest.mark.parametrize(("analysis", "least", "most"), SOONER)
def test_the_verdict_falls_with_the_first_requests_that_can_show_it(
    analysis: dict[str, Any], least: int, most: int
) -> None:
    model = Model(error_rate=0.5, quality="0.5")
    last = rolled_back(serving({2: model}, **rules(**analysis)))
    assert last.reason is RollbackReason.ANALYSIS_FAILED
    assert least <= last.detected_after_seconds <= most


@pytest.mark.parametrize("needed", [10, 20, 45])
def test_every_failed_sample_has_requests_of_its_own(needed: int) -> None:
    world = serving({2: FAILS}, **rules(minRequests=needed))
    last = rolled_back(world)
    assert last.requests_served_by_rejected >= 3 * needed
    assert "3 of the last 3 samples failed" in last.message


def test_a_good_canary_rises_no_sooner_than_without() -> None:
    """Not even where a step needs no time of its own."""
    steps = [{"weight": 25, "holdSeconds": 0}, {"weight": 50, "holdSeconds": 0}]
    times = {}
    for confirm in (1, INTERVAL):
        world = serving({}, steps=steps, **rules(confirmSeconds=confirm))
        settle(world)
        times[confirm] = [second for second, weight in world.weights if weight in (25, 50)]
        assert (world.early_looks > 0) is (confirm == 1)
    early, late = ([b - a for a, b in pairwise(t)] for t in times.values())
    assert early[0] >= INTERVAL
    assert late[0] >= INTERVAL
    assert early[0] <= late[0] + INTERVAL, "an early look puts a step off by less than an interval"


def test_each_step_needs_a_sample_of_its_own() -> None:
    steps = [{"weight": 25, "holdSeconds": 0}, {"weight": 50, "holdSeconds": 0}]
    world = at_weight(serving({}, steps=steps, **rules(confirmSeconds=INTERVAL)), 50)
    since = world.now
    until(world, lambda w: w.rollout.step == 2)
    # That of the step before says nothing of this weight; the first turn took part of a second.
    assert world.now - since >= timedelta(seconds=INTERVAL - 1)


def test_what_failed_once_and_is_good_again_is_not_hurried() -> None:
    world = serving({2: FAILS}, **rules())
    at_weight(world, 25)
    until(world, lambda w: failed_samples(w) == 1)
    world.models[2] = Model()
    until(world, lambda w: w.rollout.verdict is Verdict.PASS)
    assert world.rollout.look_time == world.rollout.sample_time
    assert world.rollout.step == 0
    settle(world)
    assert world.status.stable is not None
    assert world.status.stable.revision == 2


def test_an_early_look_without_enough_requests_is_no_sample() -> None:
    world = serving({2: FAILS}, **rules(minRequests=200))
    at_weight(world, 25)
    until(world, lambda w: w.early_looks >= 3)
    assert [m for m in world.rollout.metrics if m.samples or m.recent] == []
    assert world.rollout.sample_time is None


def test_looks_are_a_pause_apart_also_when_the_operator_was_restarted() -> None:
    world = serving({2: Model()}, **rules(minRequests=200, intervalSeconds=30))
    at_weight(world, 25)
    for _ in range(24):
        world.turn()
        world.die()
    assert 2 <= world.early_looks <= 4, "every six seconds"


def test_a_lack_of_data_is_not_found_early() -> None:
    """What was left out of an early look had no chance yet."""
    metrics = [*RULES["analysis"]["metrics"], GOLDEN]
    shape = {"onInsufficientData": "RollBack", "metrics": metrics}
    steps = [{"weight": 25, "holdSeconds": 0}, {"weight": 50, "holdSeconds": 0}]
    world = settle(serving({}, steps=steps, **rules(**shape)))
    assert world.status.last_rollback is None
    assert world.status.stable is not None
    assert world.status.stable.revision == 2
