"""Adapters on shared pods in the toy cluster: a story for each fault, and random ones."""

import os
from dataclasses import replace
from typing import Any

import pytest

from tests.simulation.adapter_world import OTHER_BASE, AdapterWorld
from tests.simulation.rollout_parts import RULES, Model
from tests.simulation.rollouts import ROUGH, at_weight, message, play, settle, until
from tunesmith_api.conditions import DeploymentCondition, DeploymentReason
from tunesmith_api.deploymentstatus import RollbackReason, RollbackStatus
from tunesmith_api.modelversion import BaseModelRef, ModelVersion
from tunesmith_operator.planning.conditions import find, is_true
from tunesmith_operator.planning.serving import ServingObservation
from tunesmith_operator.planning.serving_actions import EnsureRevision, ServingAction

# `make simulate` plays many more than a test run has time for.
WORLDS_PER_BLOCK = max(1, int(os.environ.get("TUNESMITH_WORLDS", "10")) // 5)


def serving(models: dict[int, Model] | None = None, **rules: Any) -> AdapterWorld:
    """Version 1 is stable; version 2 is asked for."""
    world = AdapterWorld(1, models or {}, rules)
    settle(world)
    world.offer(2)
    return world


def rolled_back(world: AdapterWorld) -> RollbackStatus:
    settle(world)
    assert world.status.stable is not None
    assert world.status.stable.revision == 1
    assert world.status.last_rollback is not None
    return world.status.last_rollback


def untouched(world: AdapterWorld) -> bool:
    """Whether no pod was started beside the first ones, and none restarted."""
    restarts = sum(p.restarts for h in world.hosts.values() for p in h.pods)
    return len(world.born) == world.replicas and restarts == 0


def test_a_canary_comes_to_the_pods_that_are_there_and_the_old_one_leaves_them() -> None:
    world = serving()
    settle(world)
    assert world.transcript == [
        "create the pods of a base model",
        "pods of the base model: 4",
        "create 1",
        "hold 1",
        "traffic 1: 100",
        "spec asks for version 2",
        "create 2",
        "hold 1, 2",
        "traffic 1: 75, 2: 25",
        "traffic 1: 50, 2: 50",
        "traffic 2: 100",
    ]
    until(world, lambda w: w.status.previous is None, 70)
    until(world, lambda w: w.transcript[-1] == "hold 2", 10)
    assert untouched(world)
    assert world.unserved == 0


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        pytest.param(Model(error_rate=1.0), RollbackReason.CONSECUTIVE_ERRORS, id="errors"),
        pytest.param(Model(error_rate=0.2), RollbackReason.ANALYSIS_FAILED, id="some errors"),
        pytest.param(Model(latency="3"), RollbackReason.ANALYSIS_FAILED, id="slow"),
        pytest.param(Model(refused="digest"), RollbackReason.MODEL_REFUSED, id="another digest"),
        pytest.param(Model(never_ready="S3: 403"), RollbackReason.READY_TIMEOUT, id="S3 refuses"),
    ],
)
def test_a_rollback_restarts_no_pod(model: Model, reason: RollbackReason) -> None:
    world = serving({2: model})
    assert rolled_back(world).reason is reason
    until(world, lambda w: w.transcript[-1] == "hold 1", 10)
    assert untouched(world)
    assert sum(g.failed for g in world.guests.values() if g.number == 1) == 0
    if model.never_ready:
        assert "S3: 403" in rolled_back(world).message


def test_a_canary_that_ends_the_engine_goes_at_its_first_victim() -> None:
    world = serving({2: Model(crashes_after=3)})
    assert rolled_back(world).reason is RollbackReason.CRASH_LOOPING
    assert max(p.restarts for h in world.hosts.values() for p in h.pods) == 1


def test_restarts_from_before_the_canary_are_not_its_own() -> None:
    world = serving()
    for host in world.hosts.values():
        for pod in host.pods:
            pod.restarts, pod.last_restart = 9, world.now
    settle(world)
    assert world.status.stable is not None
    assert world.status.stable.revision == 2


def with_a_stable_that_ends_the_engine(canary: Model, **rules: Any) -> AdapterWorld:
    world = AdapterWorld(1, {1: Model(crashes_after=7), 2: canary}, rules)
    until(world, lambda w: w.status.stable is not None, 50)
    (host,) = world.hosts.values()
    for place, pod in enumerate(host.pods):
        pod.lived = 2 * place  # they do not all end at once
    until(world, lambda w: max(p.restarts for h in w.hosts.values() for p in h.pods) >= 2, 50)
    world.offer(2)
    return world


@pytest.mark.parametrize("restarts", [0, 1, 2])
def test_a_stable_that_ends_the_engine_does_not_stand_in_the_way_of_what_mends_it(
    restarts: int,
) -> None:
    rules = {"restarts": restarts, "consecutiveErrors": 30}
    world = with_a_stable_that_ends_the_engine(Model(), failFast=rules)
    settle(world)
    assert world.status.stable is not None
    assert world.status.stable.revision == 2
    assert [e.reason for e in world.events].count("StableCrashLoops") == 1


def test_beside_a_stable_that_ends_the_engine_bad_answers_still_count() -> None:
    world = with_a_stable_that_ends_the_engine(Model(error_rate=1.0))
    until(world, lambda w: w.status.last_rollback is not None, 100)
    assert world.status.last_rollback is not None
    assert world.status.last_rollback.reason is RollbackReason.CONSECUTIVE_ERRORS


def test_a_bad_version_beside_it_takes_no_chance_from_the_next_one() -> None:
    world = with_a_stable_that_ends_the_engine(Model(error_rate=1.0))
    world.set_rules(failFast={"restarts": 1, "consecutiveErrors": 30})
    until(world, lambda w: w.status.last_rollback is not None, 100)
    world.offer(3)
    settle(world)
    assert world.status.stable is not None
    assert world.status.stable.version == "m-v3"


@pytest.mark.parametrize("by_stable", [True, False], ids=["stable", "the canary"])
def test_after_a_canary_was_rejected_for_an_end_it_is_said_whose_doing_it_was(
    by_stable: bool,
) -> None:
    world = at_weight(serving(), 25)
    world.models[1 if by_stable else 2] = Model(crashes_after=7)
    until(world, lambda w: w.status.last_rollback is not None, 40)
    assert rolled_back(world).reason is RollbackReason.CRASH_LOOPING
    for _ in range(60):
        world.turn()
    for kind in (DeploymentCondition.PROGRESSING, DeploymentCondition.STALLED):
        assert ("that is stable's doing" in message(world, kind)) is by_stable
    # Held all the same, as every rejection; its next chance is one.
    world.set_rules(readyTimeoutSeconds=50)
    settle(world)
    assert world.status.stable is not None
    assert world.status.stable.revision == (2 if by_stable else 1)


def test_what_a_rejected_canary_did_to_the_engine_is_not_put_down_to_stable() -> None:
    bad = Model(crashes_after=3)
    world = serving({2: bad, 3: bad})
    assert rolled_back(world).reason is RollbackReason.CRASH_LOOPING
    world.offer(3)
    until(world, lambda w: w.status.rollout is not None, 5)
    assert not world.status.rollout.stable_crash_loops
    assert rolled_back(world).reason is RollbackReason.CRASH_LOOPING


@pytest.mark.parametrize("places", [(), (0,), (0, 1, 2)], ids=["all", "one", "three"])
@pytest.mark.parametrize("mode", ["Surge", "NoSurge"])
def test_a_stable_whose_files_are_gone_does_not_stand_in_the_way_of_what_mends_it(
    places: tuple[int, ...], mode: str
) -> None:
    world = settle(AdapterWorld(1, rules={"capacity": {"mode": mode}}))
    world.lose_files(1)
    world.replace_pods(*places)
    for _ in range(20):
        world.turn()
    unserved = world.unserved
    world.offer(2)
    until(world, lambda w: w.status.rollout is not None, 5)
    settle(world)
    assert world.status.stable is not None
    assert world.status.stable.version == "m-v2"
    (host,) = world.hosts.values()
    until(world, lambda _: all(p.is_ready for p in host.pods), 10)
    assert not places or world.unserved == unserved == 0


def test_while_stable_serves_a_pod_that_cannot_get_it_is_not_ready() -> None:
    world = settle(AdapterWorld(1))
    world.lose_files(1)
    world.replace_pods(0)
    world.offer(2)
    at_weight(world, 50)
    (host,) = world.hosts.values()
    assert [p.is_ready for p in host.pods] == [False, True, True, True]


def test_a_bad_version_that_came_after_stables_files_were_gone_is_rejected_all_the_same() -> None:
    world = settle(AdapterWorld(1, {2: Model(error_rate=1.0)}))
    world.lose_files(1)
    world.replace_pods()
    world.offer(2)
    until(world, lambda w: any(r.reason == "ConsecutiveErrors" for r in w.status.rejected), 60)
    world.offer(3)
    settle(world)
    assert world.status.stable is not None
    assert world.status.stable.version == "m-v3"


def test_another_plan_gives_what_stands_in_another_chance() -> None:
    world = settle(AdapterWorld(1, {2: Model(error_rate=0.2)}))
    world.lose_files(1)
    world.replace_pods()
    world.offer(2)
    until(world, lambda w: bool(w.status.rejected), 60)
    lenient = {"name": "error-rate", "builtin": "ErrorRate", "max": "0.5"}
    world.set_rules(analysis={**RULES["analysis"], "metrics": [lenient]})
    settle(world)
    assert world.status.stable is not None
    assert world.status.stable.version == "m-v2"


def without_stables_files() -> AdapterWorld:
    """Version 2 stands in for a stable that no pod can load any more."""
    world = settle(AdapterWorld(1))
    world.lose_files(1)
    world.replace_pods()
    world.offer(2)
    until(world, lambda w: w.traffic is not None and w.number(w.traffic.main) == 2, 60)
    assert world.status.rollout is not None
    return world


def test_files_that_are_there_again_take_no_pod_from_what_stands_in() -> None:
    world = without_stables_files()
    unserved = world.unserved
    (host,) = world.hosts.values()
    (stable,) = (g for g in world.guests.values() if g.number == 1)
    world.models[1] = Model()
    for place, pod in enumerate(host.pods):  # each tries again at another time
        pod.loading[stable.name] = 3 * place
    for _ in range(15):
        world.turn()
        assert all(p.is_ready for p in host.pods)
    settle(world)
    assert world.status.stable is not None
    assert world.status.stable.version == "m-v2"
    assert world.unserved == unserved


def test_pods_that_do_not_answer_are_not_taken_for_holding_what_was_given_up() -> None:
    world = without_stables_files()
    (host,) = world.hosts.values()
    for pod in host.pods:
        pod.is_silent = True
    for _ in range(10):
        world.turn()
    assert world.traffic is not None
    assert world.number(world.traffic.main) == 2


def test_a_pod_that_comes_while_another_stands_in_waits_for_that_alone() -> None:
    world = without_stables_files()
    unserved = world.unserved
    world.replace_pods(0)
    for _ in range(20):
        world.turn()
        (host,) = world.hosts.values()
        assert all(p.is_ready for p in host.pods[1:])
    assert world.unserved == unserved
    settle(world)
    assert world.status.stable is not None
    assert world.status.stable.version == "m-v2"


def test_the_former_stable_serves_when_the_files_of_the_new_one_are_gone() -> None:
    world = serving()
    settle(world)
    assert world.status.previous is not None
    world.lose_files(2)
    world.replace_pods()
    until(world, lambda w: w.traffic is not None and w.number(w.traffic.main) == 1, 30)
    world.offer(3)
    settle(world)
    assert world.status.stable is not None
    assert world.status.stable.version == "m-v3"


def test_a_canary_whose_files_are_gone_keeps_no_pod_from_serving_stable() -> None:
    world = serving(failFast={"consecutiveErrors": 0, "restarts": 2})
    at_weight(world, 25)
    world.lose_files(2)
    world.replace_pods()
    (host,) = world.hosts.values()
    until(world, lambda _: all(p.is_ready for p in host.pods), 20)
    until(world, lambda w: w.traffic is not None and w.traffic.weight == 0, 5)
    assert rolled_back(world).reason is RollbackReason.READY_TIMEOUT


def test_no_surge_takes_no_pod_from_stable() -> None:
    world = serving(capacity={"mode": "NoSurge"})
    settle(world)
    assert [line for line in world.transcript if line.startswith("pods of")] == [
        "pods of the base model: 4"
    ]
    assert world.status.previous is not None, "on shared pods it costs none to keep"


def test_another_base_model_has_pods_of_its_own() -> None:
    world = serving()
    settle(world)
    world.offer(OTHER_BASE)
    until(world, lambda w: len(w.hosts) == 2, 5)
    settle(world)
    until(world, lambda w: w.status.previous is None, 70)
    until(world, lambda w: len(w.hosts) == 1, 10)
    assert world.unserved == 0


def test_a_new_pod_loads_what_is_in_use_before_it_is_ready() -> None:
    world = serving()
    at_weight(world, 25)
    (host,) = world.hosts.values()
    host.pods[0] = pod = world.new_pod()
    until(world, lambda _: pod.is_ready, 20)
    assert all(pod.holds(name) for name in world.guests)
    settle(world)
    assert world.unserved == 0


def test_pods_that_come_during_a_canary_hold_it_before_its_weight_rises() -> None:
    """``AdapterWorld.check_rise`` looks at each rise."""
    world = serving()
    at_weight(world, 25)
    world.set_spec(replicas=6)
    settle(world)
    assert world.status.stable is not None
    assert world.status.stable.revision == 2
    (host,) = world.hosts.values()
    assert (len(host.pods), world.unserved) == (6, 0)


def test_a_new_pod_does_not_wait_for_a_canary_that_cannot_be_had() -> None:
    world = serving({2: Model(never_ready="S3: 403")})
    until(world, lambda w: "hold 1, 2" in w.transcript, 10)
    (host,) = world.hosts.values()
    host.pods[0] = pod = world.new_pod()
    until(world, lambda _: pod.is_ready, 20)
    assert world.status.rollout is not None, "the canary is still awaited"


def test_a_ready_pod_that_does_not_answer_the_operator_keeps_its_share() -> None:
    world = serving()
    at_weight(world, 25)
    (host,) = world.hosts.values()
    for pod in host.pods:
        pod.is_silent = True
    for _ in range(5):
        world.turn()
    assert world.rollout.interruptions == 0
    assert world.traffic is not None
    assert world.traffic.weight >= 25


@pytest.mark.parametrize("away", [1, 5, 300])
@pytest.mark.parametrize("weight", [25, 50])
def test_an_operator_that_was_away_goes_on(weight: int, away: int) -> None:
    world = serving({2: Model(error_rate=0.2)} if weight == 50 else {})
    if weight == 25:
        at_weight(world, 25)
    else:
        until(world, lambda w: w.status.canary is not None, 10)
    world.go_away(away, with_api_server=False)
    settle(world)
    assert world.status.stable is not None
    assert world.status.stable.revision == (2 if weight == 25 else 1)
    assert untouched(world)


@pytest.mark.parametrize("seed", [251, 253, 340])
def test_worlds_that_once_kept_a_stable_that_ends_the_engine(seed: int) -> None:
    world = play(AdapterWorld, seed)
    assert world.status.stable is not None
    assert world.status.stable.version == "m-v6"


def test_restarts_under_one_canary_are_not_held_against_the_next_one() -> None:
    """On pods that stable, on another base model, does not share with them."""
    world = settle(AdapterWorld(1, {2: Model(crashes_after=4)}))
    world.offer(OTHER_BASE)
    settle(world)
    until(world, lambda w: len(w.hosts) == 1, 80)
    world.set_rules(rollback={"automatic": False, "keepStableWarmSeconds": 60})
    world.offer(2)
    until(world, lambda w: any(p.restarts >= 2 for h in w.all_hosts for p in h.pods), 60)
    world.offer(3)
    settle(world)
    assert world.status.stable is not None
    assert world.status.stable.version == "m-v3"


LOSSES = replace(ROUGH, files_lost=0.01, evict=0.01)


# Where the plan was changed for what stands in; beside a rejected version that ends the engine; for
# want of pods that the former stable, which stands in, cannot be loaded in; for want of requests to
# a stable whose pods are too few to take its traffic back; because silent pods' restarts counted
# against the canary alone, while a rejected version that ends the engine stood in.
@pytest.mark.parametrize("seed", [65, 110, 143, 671, 1522])
def test_worlds_that_once_kept_a_stable_that_cannot_be_loaded(seed: int) -> None:
    world = play(AdapterWorld, seed, faults=LOSSES)
    assert world.status.stable is not None
    assert world.status.stable.version == "m-v6"


@pytest.mark.timeout(2400)
def test_random_worlds_that_lose_files_keep_every_promise_and_settle() -> None:
    for seed in range(WORLDS_PER_BLOCK):
        world = play(AdapterWorld, seed, faults=LOSSES)
        assert world.status.stable is not None
        assert world.status.stable.version == "m-v6"


@pytest.mark.timeout(2400)
@pytest.mark.parametrize("block", range(5))
def test_random_worlds_keep_every_promise_and_settle(block: int) -> None:
    for seed in range(block * WORLDS_PER_BLOCK, (block + 1) * WORLDS_PER_BLOCK):
        world = play(AdapterWorld, seed)
        assert world.status.stable is not None
        assert world.status.stable.version == "m-v6"
        until(world, lambda w: w.status.previous is None, 80)
        until(world, lambda w: len(w.hosts) == 1, 20)
        assert world.one_pass().actions == ()


class Extended(AdapterWorld):
    """Version 2's adapter brings tokens that the base model does not have."""

    @property
    def versions(self) -> tuple[ModelVersion, ...]:
        return tuple(_with_tokens(v) if v.spec.version == "2" else v for v in super().versions)


def _with_tokens(version: ModelVersion) -> ModelVersion:
    (adapter,) = version.spec.artifacts
    artifacts = (adapter.model_copy(update={"added_tokens": 1}),)
    spec = version.spec.model_copy(update={"artifacts": artifacts})
    return version.model_copy(update={"spec": spec})


def test_an_adapter_with_tokens_of_its_own_never_comes_near_the_pods() -> None:
    world = settle(Extended(1))
    before = list(world.transcript)
    world.offer(2)
    for _ in range(30):
        world.turn()
    said = find(world.status.conditions, DeploymentCondition.STALLED)
    assert said is not None
    assert (said.status, said.reason) == ("True", DeploymentReason.ADAPTER_ADDS_TOKENS)
    assert is_true(world.status.conditions, DeploymentCondition.READY)
    assert world.transcript == [*before, "spec asks for version 2"]
    assert world.status.canary is None
    assert untouched(world)
    world.offer(3)
    settle(world)
    assert world.status.stable is not None
    assert world.status.stable.version == "m-v3"
    assert not is_true(world.status.conditions, DeploymentCondition.STALLED)


class WithoutQuota(AdapterWorld):
    """The cluster makes no object of version 2."""

    refused: str | None = None

    def act(self, action: ServingAction) -> None:
        if isinstance(action, EnsureRevision) and action.number == 2:
            self.refused = "exceeded quota"
        else:
            super().act(action)

    def observe(self) -> ServingObservation:
        return replace(super().observe(), refused=self.refused)


def test_what_the_cluster_refuses_is_not_asked_for_ten_times_a_second() -> None:
    world = settle(WithoutQuota(1))
    world.offer(2)
    until(world, lambda w: w.status.canary is not None, 5)
    before = world.passes
    for _ in range(10):
        world.turn()
    assert world.passes - before <= 20


class NamelessBase(AdapterWorld):
    """Versions made by hand, which do not say which commit of their base they belong to."""

    @property
    def versions(self) -> tuple[ModelVersion, ...]:
        bare = {"base_model": BaseModelRef(uri="hf://org/base")}
        return tuple(
            v.model_copy(update={"spec": v.spec.model_copy(update=bare)}) for v in super().versions
        )


@pytest.mark.parametrize(("kind", "warnings"), [(AdapterWorld, 0), (NamelessBase, 1)])
def test_a_base_model_that_is_not_pinned_is_told_of_when_a_roll_out_begins(
    kind: type[AdapterWorld], warnings: int
) -> None:
    world = settle(kind(1))
    told = [e for e in world.events if e.reason == "BaseModelUnverified"]
    assert len(told) == warnings
    assert all("ModelVersion m-v1 names no commit or digest" in e.message for e in told)
    assert world.status.stable is not None, "it serves all the same"
