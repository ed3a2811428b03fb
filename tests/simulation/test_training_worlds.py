"""Training in thousands of random worlds, in which everything fails at times."""

import os

import pytest

from tests.simulation.training_parts import STEPS, Faults
from tests.simulation.training_play import ON_GPUS, ROUGH, play
from tests.simulation.world import World
from tunesmith_api.conditions import ConditionType
from tunesmith_operator.planning.conditions import is_true

# `make simulate` plays many more than a test run has time for.
WORLDS_PER_BLOCK = int(os.environ.get("TUNESMITH_WORLDS", "200")) // 10


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("block", range(10))
def test_random_worlds_keep_every_promise_and_settle(block: int) -> None:
    for seed in range(block * WORLDS_PER_BLOCK, (block + 1) * WORLDS_PER_BLOCK):
        world = World(seed=seed, spec=ON_GPUS, faults=ROUGH)
        for _ in range(80):
            world.turn()
        world.faults = Faults()
        if world.job is not None and world.job.spec.suspend:
            world.set_suspend(False)
        play(world)
        assert world.job is not None
        if is_true(world.job.status.conditions, ConditionType.COMPLETE):
            assert world.report is not None
            assert world.report.step == STEPS
