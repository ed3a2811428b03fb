"""The real ``decide_rollout`` in a toy cluster: what breaks around it, and random worlds."""

import os
from datetime import timedelta

import pytest

from tests.simulation.rollout_world import (
    Model,
    RolloutWorld,
)
from tests.simulation.rollouts import (
    QUICK,
    at_weight,
    failed_on_stable,
    play,
    reason,
    rolled_back,
    serving,
    settle,
    until,
)
from tunesmith_api.conditions import DeploymentCondition, DeploymentReason
from tunesmith_api.deploymentstatus import (
    RollbackReason,
)
from tunesmith_operator.planning.conditions import is_true
from tunesmith_operator.planning.serving import Traffic


def test_a_good_new_revision_can_take_over_from_a_broken_stable() -> None:
    world = settle(RolloutWorld(1))
    world.models[1] = Model(crashes_after=1, never_ready="broken")
    until(world, lambda w: not is_true(w.status.conditions, DeploymentCondition.AVAILABLE))
    world.offer(2)
    settle(world)
    assert world.status.stable is not None
    assert world.status.stable.revision == 2
    assert world.status.stable.weight == 100


def test_a_rejected_canary_serves_on_while_nothing_else_can() -> None:
    world = at_weight(serving({2: Model(error_rate=0.3)}), 25)
    world.models[1] = Model(crashes_after=1, never_ready="broken")
    until(world, lambda w: w.status.rollout is not None and w.rollout.abort is not None)
    for _ in range(20):
        world.turn()
    canary = world.status.canary
    assert canary is not None
    assert world.traffic == Traffic(main=canary.name), "some good answers beat none"
    world.offer(3)  # and what mends it is not kept waiting
    settle(world)
    assert world.status.stable is not None
    assert world.status.stable.revision == 3


def test_a_promoted_revision_that_crash_loops_gives_way_to_the_warm_one() -> None:
    world = settle(serving())
    world.models[2] = Model(crashes_after=1)
    until(world, lambda w: w.status.last_rollback is not None, 30)
    last = rolled_back(world)
    assert last.reason is RollbackReason.PROMOTED_UNHEALTHY


def test_a_silent_router_keeps_its_weights_and_nothing_is_scaled_away() -> None:
    world = at_weight(serving({2: Model(latency="3")}), 25)
    world.router_silent_for = 60
    for _ in range(50):
        world.turn()
    assert world.traffic is not None
    assert world.traffic.weight == 25
    assert all(r.replicas for r in world.revisions.values())
    assert reason(world, DeploymentCondition.AVAILABLE) == DeploymentReason.ROUTER_UNAVAILABLE
    assert rolled_back(world).reason is RollbackReason.ANALYSIS_FAILED


def test_a_route_edited_by_hand_is_put_right() -> None:
    world = at_weight(serving(), 25)
    assert world.status.stable is not None
    assert world.status.canary is not None
    world.traffic = Traffic(world.status.stable.name, world.status.canary.name, 80)
    world.turn()
    assert world.traffic.weight == 25
    settle(world)


def test_an_operator_that_was_away_finishes_the_work() -> None:
    world = at_weight(serving(), 25)
    world.away_for = 300
    for _ in range(299):
        world.turn()
    assert world.traffic is not None
    assert world.traffic.weight == 25, "weights stay while nobody is there"
    settle(world)
    assert world.status.stable is not None
    assert world.status.stable.revision == 2


@pytest.mark.parametrize("model", [Model(), Model(error_rate=1.0)], ids=["good", "bad"])
def test_an_operator_killed_before_each_write_and_act_changes_no_end(model: Model) -> None:
    class Mortal(RolloutWorld):
        calls = 0
        dies_at = -1

        def maybe(self, probability: float) -> None:
            self.calls += 1
            probability = 1.0 if self.calls == self.dies_at else 0.0
            super().maybe(probability)

    calls = None
    for dies_at in range(200):
        world = Mortal(1, {2: model}, QUICK)
        world.dies_at = dies_at
        settle(world)
        world.offer(2)
        settle(world)
        assert world.status.stable is not None
        assert world.status.stable.revision == (1 if model.error_rate else 2)
        assert failed_on_stable(world) == 0
        calls = calls or world.calls
        if dies_at > calls:
            return
    pytest.fail("more calls than were tried")


# `make simulate` plays many more than a test run has time for.
WORLDS_PER_BLOCK = max(1, int(os.environ.get("TUNESMITH_WORLDS", "10")) // 10)


@pytest.mark.timeout(2400)
@pytest.mark.parametrize("block", range(10))
def test_random_worlds_keep_every_promise_and_settle(block: int) -> None:
    for seed in range(block * WORLDS_PER_BLOCK, (block + 1) * WORLDS_PER_BLOCK):
        world = play(RolloutWorld, seed)
        assert world.status.stable is not None
        assert world.status.stable.version == "m-v6"
        until(world, lambda w: w.status.previous is None, 80)
        world.now += timedelta(hours=1)
        decision = world.one_pass()
        assert decision.actions == ()
