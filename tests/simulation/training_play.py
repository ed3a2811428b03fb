"""Plays a world of training to its end, and says how that was."""

import pytest

from tests.simulation.training_parts import SPEC, Faults
from tests.simulation.world import World
from tunesmith_api.attempts import AttemptReason
from tunesmith_api.conditions import ConditionType
from tunesmith_operator.planning.conditions import find

ON_GPUS = {**SPEC, "compute": {"gpusPerNode": 2}}
OFFERED = {**SPEC, "deployTo": {"name": "demo"}}
ROUGH = Faults(
    evict=0.05,
    crash=0.02,
    out_of_memory=0.01,
    user_error=0.003,
    hang=0.05,
    job_deleted=0.02,
    operator_dies=0.1,
    answer_lost=0.05,
    toggle_suspend=0.03,
    image_missing=0.1,
    worse_than_base=0.1,
    prepared_lost=0.05,
    pod_refused=0.1,
    child_refused=0.05,
    child_invalid=0.003,
    version_refused=0.3,
)


def play(world: World, turns: int = 400) -> World:
    for _ in range(turns):
        world.turn()
        if world.is_settled():
            return world
    pytest.fail(f"never settled (seed {world.seed}): {world.transcript[-20:]}")


def reasons(world: World) -> list[AttemptReason]:
    assert world.job is not None
    return [a.reason for a in world.job.status.attempts]


def failed_because(world: World) -> str:
    assert world.job is not None
    found = find(world.job.status.conditions, ConditionType.FAILED)
    return found.reason if found else ""


def said_of(world: World, kind: ConditionType) -> tuple[str, str]:
    assert world.job is not None
    found = find(world.job.status.conditions, kind)
    return (found.status, found.reason) if found else ("", "")
