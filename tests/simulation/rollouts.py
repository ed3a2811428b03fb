"""Roll-outs in the toy cluster: where a story begins, what is waited for, what is asked of it."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import pytest

from tests.simulation.rollout_parts import GOLDEN, RULES, Faults, Model
from tests.simulation.rollout_world import RolloutWorld
from tunesmith_api.conditions import DeploymentCondition
from tunesmith_api.deploymentstatus import (
    RollbackStatus,
    RolloutPhase,
)
from tunesmith_operator.planning.conditions import find, is_true

AnyWorld = TypeVar("AnyWorld", bound=RolloutWorld)

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


def message(world: RolloutWorld, kind: DeploymentCondition) -> str:
    found = find(world.status.conditions, kind)
    return found.message if found else ""


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
    approved=0.03,
    slow_samples=0.2,
)
MODELS = [
    Model(),
    Model(),
    Model(error_rate=1.0),
    Model(error_rate=0.2),
    Model(latency="3"),
    Model(quality="0.5"),
    Model(crashes_after=4),
    Model(never_ready="no GPU"),
    Model(refused="another digest"),
]
ANALYSIS = RULES["analysis"]
SHAPES: list[dict[str, Any]] = [
    {},
    {"capacity": {"mode": "NoSurge"}},
    {"steps": [{"weight": 0, "mirrorPercent": 20, "holdSeconds": 10}, *RULES["steps"]]},
    BURST_ONLY_BY_SAMPLES,
    {"analysis": {**ANALYSIS, "metrics": [*ANALYSIS["metrics"], GOLDEN]}},
    {"analysis": {**ANALYSIS, "metrics": [GOLDEN], "onInsufficientData": "RollBack"}},
    {"analysis": {**ANALYSIS, "onInsufficientData": "RollBack"}},
    {"approval": "Manual"},
    {"rollback": {"automatic": False, "keepStableWarmSeconds": 60}},
    {"rollback": {"keepStableWarmSeconds": 0}},
]


def play(
    kind: type[AnyWorld],
    seed: int,
    *,
    faults: Faults = ROUGH,
    shapes: Sequence[dict[str, Any]] = SHAPES,
    replicas: int = 4,
) -> AnyWorld:
    """Disturb a world for five minutes, then let it come to rest with a good version."""
    world = kind(seed, rules=shapes[seed % len(shapes)], faults=faults, replicas=replicas)
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
        last_chance = {"restarts": 2, "consecutiveErrors": 99}
        world.set_rules(failFast=last_chance, approvedDigest=world.wanted())
        settle(world, 900)
    except AssertionError as error:
        raise AssertionError(
            f"seed {seed}: {error}\n" + "\n".join(world.transcript[-25:])
        ) from error
    return world
