"""The real ``decide_rollout`` in a toy cluster: what breaks around it, and random worlds."""

import os
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from tests.simulation.rollout_parts import RULES, Model, Pod
from tests.simulation.rollout_world import OperatorDied, RolloutWorld
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
from tunesmith_api.analysis import Verdict
from tunesmith_api.conditions import DeploymentCondition, DeploymentReason
from tunesmith_api.deploymentstatus import (
    ModelDeploymentStatus,
    RollbackReason,
)
from tunesmith_operator.planning.conditions import is_true
from tunesmith_operator.planning.serving import ServingObservation, Traffic
from tunesmith_operator.planning.serving_actions import ServingAction, SetTraffic


def test_a_good_new_revision_can_take_over_from_a_broken_stable() -> None:
    world = settle(RolloutWorld(1))
    world.models[1] = Model(crashes_after=1, never_ready="broken")
    until(world, lambda w: not is_true(w.status.conditions, DeploymentCondition.AVAILABLE))
    world.offer(2)
    settle(world)
    assert world.status.stable is not None
    assert world.status.stable.revision == 2
    assert world.status.stable.weight == 100


@pytest.mark.parametrize("seconds", range(34, 44))
def test_a_canary_that_stood_in_for_stable_is_not_to_blame_for_missing_numbers(
    seconds: int,
) -> None:
    """Stable's pods come back one by one: then it is there, and has no traffic to compare with."""
    analysis = {**RULES["analysis"], "onInsufficientData": "RollBack"}
    world = at_weight(serving(analysis=analysis, steps=[{"weight": 25, "holdSeconds": 50}]), 25)
    world.models[1] = Model(never_ready="its node is lost")
    stable = next(r for r in world.revisions.values() if r.number == 1)
    stable.pods = [Pod(starts_in=3 * n) for n, _ in enumerate(stable.pods, 1)]
    canary = next(r.name for r in world.revisions.values() if r.number == 2)
    until(world, lambda w: w.traffic == Traffic(main=canary), 5)
    for _ in range(seconds):
        world.turn()
    del world.models[1]
    settle(world)
    assert world.status.last_rollback is None
    assert world.status.stable is not None
    assert world.status.stable.revision == 2


class Unwilling(RolloutWorld):
    """The routers give no canary a share, and say why."""

    def act(self, action: ServingAction) -> None:
        if not (isinstance(action, SetTraffic) and action.traffic.weight):
            super().act(action)

    def observe(self) -> ServingObservation:
        seen = super().observe()
        if seen.router is None:
            return seen
        return replace(seen, router=replace(seen.router, trouble="router pod r: HTTP 503"))


def test_a_router_that_does_not_do_it_is_not_asked_ten_times_a_second() -> None:
    world = settle(Unwilling(1))
    world.offer(2)
    until(world, lambda w: w.status.rollout is not None and w.rollout.weight > 0)
    before = world.passes
    for _ in range(10):
        world.turn()
    assert world.status.rollout is not None
    assert world.passes - before <= 30


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


AWAY = [
    pytest.param(False, id="the operator"),
    pytest.param(True, id="the API server, and with it the scheduler and all kubelets"),
]


def stay_away(world: RolloutWorld, *, with_api_server: bool) -> None:
    """Longer than both readyTimeoutSeconds and dataTimeoutSeconds."""
    world.go_away(300, with_api_server=with_api_server)
    for _ in range(299):
        world.turn()


def die_after(
    world: RolloutWorld, acts: int, written: Callable[[ModelDeploymentStatus], bool]
) -> None:
    """End the operator once it has written such a status and done ``acts`` actions after it."""
    done = 0

    def act(action: ServingAction) -> None:
        nonlocal done
        is_time = written(world.status)
        if not is_time or done < acts:
            type(world).act(world, action)
            done += is_time
        if is_time and done == acts:
            del world.act
            raise OperatorDied

    world.act = act  # type: ignore[method-assign]
    until(world, lambda w: w.transcript[-1] == "operator died", 60)


@pytest.mark.parametrize("with_api_server", AWAY)
def test_what_was_away_in_a_step_finishes_the_work(with_api_server: bool) -> None:
    world = at_weight(serving(), 25)
    stay_away(world, with_api_server=with_api_server)
    assert world.traffic is not None
    assert world.traffic.weight == 25, "weights stay while nobody is there"
    settle(world)
    assert world.status.stable is not None
    assert world.status.stable.revision == 2
    assert world.status.last_rollback is None


@pytest.mark.parametrize("with_api_server", AWAY)
def test_what_was_away_after_a_sample_without_data_finds_the_data_there(
    with_api_server: bool,
) -> None:
    world = serving(analysis={**RULES["analysis"], "onInsufficientData": "RollBack"})
    at_weight(world, 25)
    world.dry_for = 30
    until(world, lambda w: any(m.samples for m in w.rollout.metrics), 10)
    stay_away(world, with_api_server=with_api_server)
    settle(world)
    assert world.status.stable is not None
    assert world.status.stable.revision == 2


@pytest.mark.parametrize("with_api_server", AWAY)
def test_no_pass_from_before_lets_the_weight_rise_after(with_api_server: bool) -> None:
    # No early look, whose Pass would let nothing rise anyway.
    analysis = {**RULES["analysis"], "confirmSeconds": RULES["analysis"]["intervalSeconds"]}
    steps = [{"weight": 25, "holdSeconds": 60}]
    world = serving({2: Model()}, steps=steps, analysis=analysis)
    until(world, lambda w: w.status.rollout is not None and w.rollout.verdict is Verdict.PASS)
    world.models[2] = Model(error_rate=0.3)
    stay_away(world, with_api_server=with_api_server)
    before = world.passes
    until(world, lambda w: w.passes > before, 5)
    assert world.rollout.step == 0, "nor is the next step begun, whose pods are awaited first"
    assert rolled_back(world).reason is RollbackReason.ANALYSIS_FAILED
    assert max(weight for _, weight in world.weights) == 25


@pytest.mark.parametrize("with_api_server", AWAY)
@pytest.mark.parametrize("done", range(3))
def test_what_was_away_when_a_rollout_began_waits_for_its_pods(
    done: int, with_api_server: bool
) -> None:
    """Only the status was written, or also the Event emitted, or also the pods made."""
    world = serving()
    die_after(world, done, lambda status: status.rollout is not None)
    assert len(world.revisions) == (2 if done == 2 else 1)
    stay_away(world, with_api_server=with_api_server)
    settle(world)
    assert world.status.stable is not None
    assert world.status.stable.revision == 2
    assert world.status.last_rollback is None


def test_a_canary_that_never_gets_ready_is_given_up_all_the_same() -> None:
    world = serving({2: Model(never_ready="no GPU")})
    until(world, lambda w: w.status.rollout is not None, 5)
    stay_away(world, with_api_server=False)
    assert rolled_back(world).reason is RollbackReason.READY_TIMEOUT


@pytest.mark.parametrize("with_api_server", AWAY)
@pytest.mark.parametrize("done", range(3))
def test_what_was_away_in_a_rollback_finishes_it(done: int, with_api_server: bool) -> None:
    """Only the status was written, or also the Event emitted, or also the router told."""
    world = at_weight(serving({2: Model(error_rate=0.3)}), 25)
    die_after(world, done, lambda s: s.rollout is not None and s.rollout.abort is not None)
    stay_away(world, with_api_server=with_api_server)
    assert world.traffic is not None
    assert world.traffic.weight == (0 if done == 2 else 25)
    last = rolled_back(world)
    assert last.reason is RollbackReason.ANALYSIS_FAILED
    assert max(weight for _, weight in world.weights) == 25


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


# For want of requests to a stable that was back a moment ago; for errors that the router had
# counted of the same revision before it was offered again; for a split that somebody had edited.
@pytest.mark.parametrize("seed", [746, 3101, 4886])
def test_worlds_that_once_rejected_a_good_canary(seed: int) -> None:
    world = play(RolloutWorld, seed)
    assert world.status.stable is not None
    assert world.status.stable.version == "m-v6"


@pytest.mark.parametrize("seed", [5681])
def test_worlds_that_once_gave_all_traffic_to_one_pod_of_stable(seed: int) -> None:
    """What carried it had four; the canary that was rejected had none of it."""
    world = play(RolloutWorld, seed)
    assert world.status.stable is not None
    assert world.status.stable.version == "m-v6"


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
