"""The real ``decide_rollout`` in a toy cluster: users who change the spec in the middle."""

import pytest

from tests.simulation.rollout_parts import RULES, Model
from tests.simulation.rollout_world import OperatorDied, RolloutWorld
from tests.simulation.rollouts import (
    at_weight,
    message,
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
    RolloutPhase,
)
from tunesmith_operator.planning.conditions import is_true
from tunesmith_operator.planning.serving_actions import ServingAction, SetTraffic


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


def test_what_was_promoted_since_is_not_held_under_the_plan_that_had_rejected_it() -> None:
    world = serving({2: Model(error_rate=1.0)})
    settle(world)
    world.models[2] = Model()
    world.set_rules(readyTimeoutSeconds=50)
    settle(world)
    world.offer(3)
    settle(world)
    world.set_rules(readyTimeoutSeconds=RULES["readyTimeoutSeconds"])
    world.offer(2)
    settle(world)
    assert world.status.stable is not None
    assert world.status.stable.revision == 2


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
    assert [e.reason for e in world.events].count(DeploymentReason.VERSION_NOT_FOUND) == 1
    assert is_true(world.status.conditions, DeploymentCondition.READY)
    assert world.status.canary is None


def test_a_pause_holds_the_weight_but_not_the_way_back() -> None:
    world = at_weight(serving(), 25)
    world.set_spec(paused=True)
    for _ in range(200):
        world.turn()
    assert world.traffic is not None
    assert world.traffic.weight == 25
    # Nor is it granted more meanwhile, to be had at once when the pause is over.
    assert (world.rollout.step, world.rollout.weight) == (0, 25)
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


def test_a_first_revision_that_is_refused_says_why_and_tells_it_once() -> None:
    world = RolloutWorld(1, {1: Model(refused="another digest")})
    for _ in range(60):
        world.turn()
    assert reason(world, DeploymentCondition.STALLED) == DeploymentReason.NO_REVISION
    for kind in (DeploymentCondition.STALLED, DeploymentCondition.PROGRESSING):
        assert "another digest" in message(world, kind)
    assert "ask for another revision" in message(world, DeploymentCondition.STALLED)
    told = [e for e in world.events if e.type == "Warning"]
    assert [(e.reason, "another digest" in e.message) for e in told] == [("NoRevision", True)]


def test_history_is_trimmed_with_its_records_and_no_number_is_given_twice() -> None:
    world = settle(RolloutWorld(1, rules={"rollback": {"keepStableWarmSeconds": 5}}))
    world.set_spec(revisionHistoryLimit=3)
    for version in range(2, 6):
        world.offer(version)
        settle(world)
    until(world, lambda w: w.status.previous is None, 10)
    assert [h.revision for h in world.status.history] == [3, 4, 5]
    until(world, lambda w: {r.number for r in w.revisions.values()} == {3, 4, 5}, 5)
    world.offer(1)
    settle(world)
    assert world.status.stable is not None
    assert (world.status.stable.version, world.status.stable.revision) == ("m-v1", 6)


def test_a_revision_that_serves_is_kept_however_short_history_is() -> None:
    world = serving({n: Model(error_rate=1.0) for n in (2, 3, 4)})
    world.set_spec(revisionHistoryLimit=2)
    for version in (2, 3, 4):
        world.offer(version)
        settle(world)
    assert [h.revision for h in world.status.history] == [3, 4]
    assert world.status.stable is not None
    assert world.status.stable.revision == 1
    until(world, lambda w: {r.number for r in w.revisions.values()} == {1, 3, 4}, 5)


@pytest.mark.parametrize("weight", [25, 50])
@pytest.mark.parametrize("is_bad", [False, True], ids=["in a step", "in a rollback"])
def test_a_deployment_that_is_deleted_is_left_to_the_garbage_collector(
    weight: int, is_bad: bool
) -> None:
    world = at_weight(serving(), weight)
    if is_bad:
        world.models[2] = Model(error_rate=0.3)
        world.router_silent_for = 60  # or it would be over within the second
        until(world, lambda w: w.status.rollout is not None and w.rollout.abort is not None, 40)
    world.delete()
    passes, done, events = world.passes, list(world.transcript), list(world.events)
    status, traffic = world.status, world.traffic
    while world.revisions:
        # In any order: what is left of a revision must not be mended.
        name = world.rng.choice(list(world.revisions))
        revision = world.revisions[name]
        if revision.pods:
            revision.pods.pop()
        else:
            del world.revisions[name]
        world.turn()
    assert world.passes > passes, "somebody looked"
    assert (world.transcript, world.events) == (done, events)
    assert (world.status, world.traffic) == (status, traffic)
