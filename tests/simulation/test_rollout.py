"""The real ``decide_rollout`` in a toy cluster: roll-outs that nothing disturbs."""

from datetime import timedelta

from tests.simulation.rollout_parts import RULES, Model, Pod
from tests.simulation.rollout_world import RolloutWorld
from tests.simulation.rollouts import (
    BURST_ONLY_BY_SAMPLES,
    at_weight,
    reason,
    rolled_back,
    serving,
    settle,
    until,
)
from tunesmith_api.conditions import DeploymentCondition, DeploymentReason
from tunesmith_api.deploymentstatus import (
    Outcome,
    RollbackReason,
)


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


def test_a_roll_out_is_not_forgotten_between_two_samples() -> None:
    """Nothing else wakes anybody here: no burst is looked for, and no sample is taken early."""
    analysis = {**RULES["analysis"], "intervalSeconds": 20, "confirmSeconds": 20}
    steps = [{"weight": weight, "holdSeconds": 21} for weight in (25, 50)]
    world = serving(analysis=analysis, steps=steps, **BURST_ONLY_BY_SAMPLES)
    # A sample, the end of the hold, and pods that start, twice; the next sample would be too late.
    settle(world, 2 * 21 + 20)
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
