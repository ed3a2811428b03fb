"""The real ``decide_rollout`` in a toy cluster: a story for each fault, and random ones."""

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from tests.simulation.rollout_world import (
    DOWN,
    EMPTY,
    GOLDEN,
    NAN,
    RULES,
    TEXT,
    Faults,
    Model,
    OperatorDied,
    Pod,
    RolloutWorld,
)
from tunesmith_api.conditions import DeploymentCondition, DeploymentReason
from tunesmith_api.deploymentstatus import (
    Outcome,
    RollbackReason,
    RollbackStatus,
    RolloutPhase,
)
from tunesmith_operator.planning.conditions import find, is_true
from tunesmith_operator.planning.serving import MetricSample, Traffic
from tunesmith_operator.planning.serving_actions import ServingAction, SetTraffic

QUICK = {
    "steps": [{"weight": 25, "holdSeconds": 1}, {"weight": 50, "holdSeconds": 1}],
    "analysis": {**RULES["analysis"], "intervalSeconds": 1, "minRequests": 5},
}
BURST_ONLY_BY_SAMPLES = {"failFast": {"consecutiveErrors": 0, "restarts": 0}}


def until(
    world: RolloutWorld, what: Callable[[RolloutWorld], bool], turns: int = 400
) -> RolloutWorld:
    for _ in range(turns):
        if what(world):
            return world
        world.turn()
    pytest.fail(f"never came (seed {world.seed}): {world.transcript[-12:]} {world.status.phase}")


def settle(world: RolloutWorld, turns: int = 400) -> RolloutWorld:
    return until(world, RolloutWorld.is_settled_down, turns)


def serving(models: dict[int, Model] | None = None, **rules: Any) -> RolloutWorld:
    """Version 1 is stable; version 2 is asked for."""
    world = settle(RolloutWorld(1, models or {}, rules))
    world.offer(2)
    return world


def at_weight(world: RolloutWorld, weight: int) -> RolloutWorld:
    return until(world, lambda w: w.traffic is not None and w.traffic.weight == weight)


def reason(world: RolloutWorld, kind: DeploymentCondition) -> str:
    found = find(world.status.conditions, kind)
    return found.reason if found else ""


def rolled_back(world: RolloutWorld) -> RollbackStatus:
    settle(world)
    assert world.status.last_rollback is not None
    assert world.status.stable is not None
    assert world.status.stable.revision == 1
    assert is_true(world.status.conditions, DeploymentCondition.READY)
    assert is_true(world.status.conditions, DeploymentCondition.ROLLED_BACK)
    assert world.status.phase is RolloutPhase.ROLLED_BACK
    assert failed_on_stable(world) == 0
    return world.status.last_rollback


def failed_on_stable(world: RolloutWorld) -> int:
    return sum(r.failed for r in world.revisions.values() if r.number == 1)


# -- the undisturbed way ------------------------------------------------------------------------


def test_an_undisturbed_rollout_takes_each_step_and_leaves_stable_warm() -> None:
    world = settle(serving())
    assert world.transcript == [
        "create 1",
        "scale 1 to 4",
        "traffic 1: 100",
        "spec asks for version 2",
        "create 2",
        "scale 2 to 1",
        "traffic 1: 75, 2: 25",
        "scale 2 to 2",
        "traffic 1: 50, 2: 50",
        "scale 2 to 4",
        "traffic 2: 100",
    ]
    until(world, lambda w: w.status.previous is None, 70)
    assert world.transcript[-1] == "scale 1 to 0"
    assert [h.outcome for h in world.status.history] == [Outcome.PROMOTED] * 2
    assert world.unserved == 0


def test_what_has_settled_is_quiet() -> None:
    world = until(settle(serving()), lambda w: w.status.previous is None, 70)
    passes, status = world.passes, world.status
    for _ in range(600):
        world.turn()
    assert world.passes == passes, "nothing changed and nobody asked to look"
    world.now += timedelta(minutes=10)
    decision = world.one_pass()
    assert decision.actions == ()
    assert decision.status == status


def test_a_held_rollback_is_quiet_too() -> None:
    world = serving({2: Model(error_rate=1.0)})
    rolled_back(world)
    passes = world.passes
    for _ in range(600):
        world.turn()
    assert world.passes - passes <= 2
    assert world.status.canary is None


def test_a_canary_without_ready_pods_is_not_sampled() -> None:
    world = at_weight(serving(), 25)
    until(world, lambda w: w.samples > 0)
    known, sampled = world.rollout.metrics, world.samples
    world.models[2] = Model(never_ready="no node takes it")
    revision = next(r for r in world.revisions.values() if r.number == 2)
    revision.pods = [Pod() for _ in revision.pods]
    for _ in range(30):
        world.turn()
    assert world.samples == sampled
    assert [m.recent for m in world.rollout.metrics] == [m.recent for m in known]
    assert reason(world, DeploymentCondition.PROGRESSING) == DeploymentReason.WAITING_FOR_REPLICAS
    assert world.traffic is not None
    assert world.traffic.weight == 0
    world.models[2] = Model()
    settle(world)
    assert world.status.stable is not None
    assert world.status.stable.revision == 2


def test_the_first_revision_needs_only_to_be_ready() -> None:
    world = settle(RolloutWorld(1))
    assert world.weights == [(4.0, 0)]
    assert world.samples == 0


def test_a_dark_launch_gets_copies_and_answers_nobody() -> None:
    steps = [{"weight": 0, "mirrorPercent": 50, "holdSeconds": 10}, *RULES["steps"]]
    world = settle(serving(steps=steps))
    assert "traffic 1: 100, 2: 0 mirror 50" in world.transcript
    assert world.status.stable is not None
    assert world.status.stable.revision == 2


def test_a_bad_dark_launch_never_answers_anybody() -> None:
    steps = [{"weight": 0, "mirrorPercent": 50, "holdSeconds": 30}, *RULES["steps"]]
    world = serving({2: Model(latency="3")}, steps=steps)
    assert rolled_back(world).reason is RollbackReason.ANALYSIS_FAILED
    assert max(weight for _, weight in world.weights) == 0


def test_no_surge_never_asks_for_more_pods_and_moves_them_one_by_one() -> None:
    world = settle(RolloutWorld(1, rules={"capacity": {"mode": "NoSurge"}}))
    world.offer(2)
    while not world.is_settled_down():
        world.turn()
        assert sum(r.replicas for r in world.revisions.values()) <= 4
    assert world.unserved == 0
    assert "traffic 2: 100" in world.transcript
    assert world.transcript[-2:] == ["scale 2 to 4", "scale 1 to 0"]


def test_a_rollback_without_surge_gives_stable_its_pods_back() -> None:
    world = settle(
        RolloutWorld(1, {2: Model(latency="3")}, {"capacity": {"mode": "NoSurge"}}, replicas=2)
    )
    world.offer(2)
    rolled_back(world)
    assert {r.number: r.replicas for r in world.revisions.values()} == {1: 2, 2: 0}


# -- a bad canary -------------------------------------------------------------------------------

BAD = [
    pytest.param(
        Model(error_rate=1.0), {}, RollbackReason.CONSECUTIVE_ERRORS, "", 2, id="only errors"
    ),
    pytest.param(
        Model(error_rate=0.3), {}, RollbackReason.ANALYSIS_FAILED, "error-rate", 16, id="errors"
    ),
    pytest.param(Model(latency="3"), {}, RollbackReason.ANALYSIS_FAILED, "latency", 16, id="slow"),
    pytest.param(
        Model(latency="0.8"), {}, RollbackReason.ANALYSIS_FAILED, "latency", 16, id="slower"
    ),
    pytest.param(
        Model(quality="0.5"),
        {"analysis": {**RULES["analysis"], "metrics": [GOLDEN]}},
        RollbackReason.ANALYSIS_FAILED,
        "quality",
        16,
        id="worse answers",
    ),
    pytest.param(
        Model(crashes_after=5), {}, RollbackReason.CRASH_LOOPING, "", 20, id="crash-looping"
    ),
    pytest.param(
        Model(crashes_after=5),
        BURST_ONLY_BY_SAMPLES,
        RollbackReason.CANARY_UNHEALTHY,
        "",
        30,
        id="pods that are lost again and again, where restarts do not count",
    ),
]


@pytest.mark.parametrize(("model", "rules", "why", "metric", "seconds"), BAD)
def test_a_bad_canary_goes_and_the_spec_is_left_alone(
    model: Model, rules: dict[str, Any], why: RollbackReason, metric: str, seconds: int
) -> None:
    world = serving({2: model}, **rules)
    spec = world.deployment.spec
    last = rolled_back(world)
    assert (last.reason, last.metric) == (why, metric)
    assert last.detected_after_seconds <= seconds
    assert last.restored_after_milliseconds is not None
    assert last.restored_after_milliseconds <= 500
    assert world.deployment.spec == spec
    assert max(weight for _, weight in world.weights) == 25
    for _ in range(300):
        world.turn()
    assert max(weight for _, weight in world.weights[-1:]) == 0, "a rejected digest came back"


def test_the_figures_of_a_rollback_are_those_of_the_world() -> None:
    world = serving({2: Model(error_rate=1.0)})
    last = rolled_back(world)
    assert last.from_revision == 2
    assert last.to_revision == 1
    canary = next(r for r in world.revisions.values() if r.number == 2)
    assert 0 < last.requests_served_by_rejected <= canary.failed
    assert canary.failed <= 2 * 10, "two seconds at 25 % of 40 requests a second"


def test_the_third_failed_sample_ends_it_and_not_a_fourth() -> None:
    world = serving({2: Model(latency="3")}, **BURST_ONLY_BY_SAMPLES)
    rolled_back(world)
    assert world.samples == 3


def test_a_notification_is_sent_once() -> None:
    world = serving(
        {2: Model(error_rate=1.0)},
        rollback={"keepStableWarmSeconds": 60, "notify": {"url": "http://hook"}},
    )
    rolled_back(world)
    assert [n.url for n in world.notes] == ["http://hook"]
    assert world.notes[0].rollback.reason is RollbackReason.CONSECUTIVE_ERRORS


def test_a_canary_that_waits_for_a_gpu_is_given_up_and_stable_is_untouched() -> None:
    world = serving({2: Model(never_ready="0/4 nodes: insufficient nvidia.com/gpu")})
    until(world, lambda w: w.status.canary is not None)
    world.turn()
    waiting = find(world.status.conditions, DeploymentCondition.PROGRESSING)
    assert waiting is not None
    assert waiting.reason == DeploymentReason.WAITING_FOR_REPLICAS
    assert "nvidia.com/gpu" in waiting.message
    last = rolled_back(world)
    assert last.reason is RollbackReason.READY_TIMEOUT
    assert last.requests_served_by_rejected == 0
    assert "nvidia.com/gpu" in last.message
    assert not any("scale 1" in line for line in world.transcript[3:])
    assert is_true(world.status.conditions, DeploymentCondition.STALLED)


def test_pods_that_refuse_the_model_are_not_waited_for() -> None:
    world = serving({2: Model(refused="manifest has digest sha256:b")})
    last = rolled_back(world)
    assert last.reason is RollbackReason.MODEL_REFUSED
    assert last.detected_after_seconds <= 2


def test_one_evicted_canary_pod_is_nobodys_fault() -> None:
    world = at_weight(serving(), 25)
    canary = next(r for r in world.revisions.values() if r.number == 2)
    canary.pods[0].is_ready, canary.pods[0].starts_in = False, 3
    world.turn()
    assert world.traffic == Traffic(main=world.deployment.status.stable.name)  # type: ignore[union-attr]
    assert world.rollout.step == 0
    settle(world)
    assert world.status.stable is not None
    assert world.status.stable.revision == 2


def test_without_automatic_rollback_the_weight_stays_and_somebody_is_told() -> None:
    world = serving(
        {2: Model(error_rate=0.3)}, rollback={"automatic": False, "keepStableWarmSeconds": 60}
    )
    until(world, lambda w: is_true(w.status.conditions, DeploymentCondition.STALLED))
    assert reason(world, DeploymentCondition.STALLED) == DeploymentReason.ROLLBACK_DISABLED
    for _ in range(120):
        world.turn()
    assert world.weights[-1][1] == 25
    world.offer(1)
    settle(world)


# -- missing data -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("says", "why"),
    [
        pytest.param(DOWN, RollbackReason.PROVIDER_ERROR, id="the provider is down"),
        pytest.param(EMPTY, RollbackReason.INSUFFICIENT_DATA, id="answers are empty"),
        pytest.param(NAN, RollbackReason.INSUFFICIENT_DATA, id="answers are NaN"),
        pytest.param(TEXT, RollbackReason.INSUFFICIENT_DATA, id="answers are text"),
    ],
)
def test_missing_metrics_hold_and_then_go_back_at_the_deadline(
    says: Callable[[], MetricSample], why: RollbackReason
) -> None:
    world = serving()
    world.fail_provider(10_000, says)
    at_weight(world, 25)
    for _ in range(50):
        world.turn()
    assert world.traffic is not None
    assert world.traffic.weight == 25, "missing data never promotes"
    assert world.status.rollout is not None
    assert all(m.failures == 0 for m in world.rollout.metrics), "nor is it the canary's fault"
    last = rolled_back(world)
    assert last.reason is why
    assert 60 <= last.detected_after_seconds <= 66


def test_a_provider_that_comes_back_in_time_changes_nothing() -> None:
    world = serving()
    world.fail_provider(60, DOWN)
    at_weight(world, 25)
    for _ in range(25):
        world.turn()
    words = reason(world, DeploymentCondition.PROGRESSING)
    assert words == DeploymentReason.PROVIDER_UNAVAILABLE
    settle(world)
    assert world.status.stable is not None
    assert world.status.stable.revision == 2


def test_the_policy_rollback_waits_only_for_the_hold() -> None:
    world = serving(analysis={**RULES["analysis"], "onInsufficientData": "RollBack"})
    world.fail_provider(10_000, EMPTY)
    last = rolled_back(world)
    assert last.reason is RollbackReason.INSUFFICIENT_DATA
    assert last.detected_after_seconds <= 15


def test_little_traffic_holds_and_says_so() -> None:
    world = at_weight(serving(), 25)
    world.dry_for = 45
    for _ in range(40):
        world.turn()
    assert world.traffic is not None
    assert world.traffic.weight == 25
    words = reason(world, DeploymentCondition.PROGRESSING)
    assert words == DeploymentReason.INSUFFICIENT_TRAFFIC
    settle(world)
    assert world.status.last_rollback is None


# -- the spec changes ---------------------------------------------------------------------------


def test_a_new_spec_in_the_middle_starts_at_the_first_step() -> None:
    world = at_weight(serving(), 50)
    world.offer(3)
    world.turn()
    assert world.traffic is not None
    assert world.traffic.weight == 0, "the canary nobody wants any more has no traffic"
    assert world.rollout.step == 0
    settle(world)
    weights = [w for _, w in world.weights]
    assert weights == [0, 25, 50, 0, 25, 50, 0]
    assert [h.outcome for h in world.status.history] == [
        Outcome.PROMOTED,
        Outcome.SUPERSEDED,
        Outcome.PROMOTED,
    ]


def test_new_limits_in_the_middle_start_again_with_the_same_pods() -> None:
    world = at_weight(serving(), 50)
    world.set_rules(failFast={"consecutiveErrors": 5})
    settle(world)
    assert [w for _, w in world.weights] == [0, 25, 50, 0, 25, 50, 0] or [
        w for _, w in world.weights
    ] == [0, 25, 50, 25, 50, 0]
    assert sum("create" in line for line in world.transcript) == 2


def test_going_back_to_the_stable_spec_is_instant() -> None:
    world = at_weight(serving(), 50)
    world.offer(1)
    world.turn()
    assert world.traffic is not None
    assert world.traffic.weight == 0
    settle(world, 2)
    assert world.status.rejected == ()


def test_the_same_bad_spec_is_not_tried_again_until_its_plan_changes() -> None:
    world = serving({2: Model(error_rate=1.0)})
    rolled_back(world)
    weights = len(world.weights)
    world.offer(1)
    settle(world)
    assert not is_true(world.status.conditions, DeploymentCondition.ROLLED_BACK)
    world.offer(2)
    for _ in range(60):
        world.turn()
    assert len(world.weights) == weights
    assert reason(world, DeploymentCondition.PROGRESSING) == DeploymentReason.REVISION_REJECTED
    world.set_rules(failFast={"consecutiveErrors": 10})
    at_weight(world, 25)


def test_a_mistake_in_the_configuration_comes_back_with_the_revision() -> None:
    world = settle(RolloutWorld(1))
    good = world.status.stable
    world.set_spec(engine={"type": "LlamaCpp", "args": ["--ctx-size=1"]})
    world.turn()
    assert world.status.canary is not None
    assert good is not None
    assert world.status.canary.version == good.version
    assert world.status.canary.digest != good.digest
    for revision in world.revisions.values():
        if revision.number == 2:
            at_weight(world, 25)
            revision.consecutive = 100
    settle(world)
    assert world.status.stable == good or world.status.stable is not None
    kept = world.revisions[good.name].template.engine
    assert kept.args == (), "stable's record still says how it was made"


def test_replicas_are_followed_in_the_middle_and_start_nothing_again() -> None:
    world = at_weight(serving(), 25)
    started = world.rollout.start_time
    world.set_spec(replicas=8)
    world.turn()
    assert world.status.rollout is not None
    assert world.rollout.start_time == started
    settle(world)
    assert max(r.replicas for r in world.revisions.values()) == 8


def test_an_unknown_version_leaves_what_serves_alone() -> None:
    world = settle(RolloutWorld(1))
    world.offer(99)
    for _ in range(30):
        world.turn()
    assert reason(world, DeploymentCondition.STALLED) == DeploymentReason.VERSION_NOT_FOUND
    assert is_true(world.status.conditions, DeploymentCondition.READY)
    assert world.status.canary is None


def test_a_pause_holds_the_weight_but_not_the_way_back() -> None:
    world = at_weight(serving(), 25)
    world.set_spec(paused=True)
    for _ in range(200):
        world.turn()
    assert world.traffic is not None
    assert world.traffic.weight == 25
    assert world.status.phase is RolloutPhase.PAUSED
    world.models[2] = Model(error_rate=1.0)
    until(world, lambda w: w.status.last_rollback is not None, 5)
    assert world.traffic.weight == 0


def test_a_pause_before_the_start_starts_nothing() -> None:
    world = settle(RolloutWorld(1))
    world.set_spec(paused=True)
    world.offer(2)
    for _ in range(30):
        world.turn()
    assert world.status.canary is None
    world.set_spec(paused=False)
    settle(world)


def test_an_approval_names_one_revision_and_can_stay() -> None:
    world = serving(approval="Manual")
    until(world, lambda w: w.status.phase is RolloutPhase.AWAITING_APPROVAL)
    world.dry_for = 300
    for _ in range(250):
        world.turn()  # at night nobody asks and nobody approves: no reason to go back
    assert world.traffic is not None
    assert world.traffic.weight == 50
    assert world.status.canary is not None
    world.set_rules(approvedDigest=world.status.canary.digest)
    settle(world)
    assert world.status.stable is not None
    assert world.status.stable.revision == 2
    world.offer(3)
    until(world, lambda w: w.status.phase is RolloutPhase.AWAITING_APPROVAL)


def test_a_canary_that_turns_bad_while_it_awaits_approval_goes() -> None:
    world = serving(approval="Manual")
    until(world, lambda w: w.status.phase is RolloutPhase.AWAITING_APPROVAL)
    world.models[2] = Model(latency="3")
    assert rolled_back(world).reason is RollbackReason.ANALYSIS_FAILED


def test_a_recent_good_revision_comes_back_without_steps() -> None:
    world = settle(serving())
    world.offer(1)
    settle(world, 5)
    assert world.transcript[-1] == "traffic 1: 100"
    assert world.status.stable is not None
    assert world.status.stable.revision == 1, "it has its old number"
    until(world, lambda w: w.status.previous is None, 90)
    world.offer(2)
    settle(world, 30)
    assert [w for _, w in world.weights[-2:]] == [0, 0], "cold, it needs pods but no steps"


def test_a_canary_superseded_at_all_of_the_traffic_carries_it_until_stable_has_its_pods() -> None:
    class Superseded(RolloutWorld):
        """The operator dies as the canary has all of it, and another spec comes."""

        def act(self, action: ServingAction) -> None:
            super().act(action)
            canary = self.status.canary
            if canary is None or canary.revision != 2 or not isinstance(action, SetTraffic):
                return
            if action.traffic.main == canary.name:
                self.offer(3)
                raise OperatorDied

    world = settle(Superseded(1, {}, {"capacity": {"mode": "NoSurge"}}))
    world.offer(2)
    until(world, lambda w: w.status.canary is not None and w.status.canary.revision == 3)
    # That no traffic goes to what is too small for it is an invariant of the world.
    settle(world)
    assert world.status.stable is not None
    assert world.status.stable.revision == 3
    assert world.unserved == 0


# -- stable breaks ------------------------------------------------------------------------------


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


# -- the operator and the router ----------------------------------------------------------------


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


# -- random worlds ------------------------------------------------------------------------------

ROUGH = Faults(
    evict=0.004,
    operator_dies=0.02,
    conflict=0.05,
    answer_lost=0.02,
    away=0.004,
    provider=0.01,
    no_traffic=0.006,
    router_silent=0.01,
    router_slow=0.3,
    router_edited=0.01,
    spec_changes=0.015,
    scaled=0.005,
    paused=0.004,
    plan_changes=0.004,
)
MODELS = [
    Model(),
    Model(),
    Model(error_rate=1.0),
    Model(error_rate=0.2),
    Model(latency="3"),
    Model(crashes_after=4),
    Model(never_ready="no GPU"),
    Model(refused="another digest"),
]
SHAPES: list[dict[str, Any]] = [
    {},
    {"capacity": {"mode": "NoSurge"}},
    {"steps": [{"weight": 0, "mirrorPercent": 20, "holdSeconds": 10}, *RULES["steps"]]},
    BURST_ONLY_BY_SAMPLES,
]

# `make simulate` plays many more than a test run has time for.
WORLDS_PER_BLOCK = max(1, int(os.environ.get("TUNESMITH_WORLDS", "10")) // 10)


def play(seed: int) -> RolloutWorld:
    """Disturb a world for five minutes, then let it come to rest with a good version."""
    world = RolloutWorld(seed, rules=SHAPES[seed % len(SHAPES)], faults=ROUGH)
    world.models = {n: world.rng.choice(MODELS) for n in range(2, 6)}
    try:
        for _ in range(300):
            world.turn()
        world.faults = Faults()
        world.set_spec(paused=False)
        for _ in range(150):
            world.turn()
        world.offer(6)
        # Data may have been missing for it before; another plan gives it another chance.
        world.set_rules(failFast={"restarts": 2, "consecutiveErrors": 99})
        settle(world, 900)
    except AssertionError as error:
        raise AssertionError(
            f"seed {seed}: {error}\n" + "\n".join(world.transcript[-25:])
        ) from error
    return world


@pytest.mark.timeout(2400)
@pytest.mark.parametrize("block", range(10))
def test_random_worlds_keep_every_promise_and_settle(block: int) -> None:
    for seed in range(block * WORLDS_PER_BLOCK, (block + 1) * WORLDS_PER_BLOCK):
        world = play(seed)
        assert world.status.stable is not None
        assert world.status.stable.version == "m-v6"
        until(world, lambda w: w.status.previous is None, 80)
        world.now += timedelta(hours=1)
        decision = world.one_pass()
        assert decision.actions == ()
