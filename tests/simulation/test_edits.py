"""Random chains of the edits that a user may make to a running job, then all of them reverted.

F8 of the faults: whatever the chain was, the job ends; and a revert recovers it, unless the edits
had ended it by then. Deleting and making again needs a real API server, see tests/integration.
"""

import os
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.simulation.training_parts import SPEC, Faults
from tests.simulation.world import World
from tunesmith_api.conditions import ConditionType
from tunesmith_operator.planning.conditions import find, is_true

ORIGINAL = SPEC["runPolicy"]
NO_RETRY: dict[str, Any] = {**ORIGINAL, "backoffLimit": 0}
LATE: dict[str, Any] = {**ORIGINAL, "activeDeadlineSeconds": 20}
POLICIES: list[dict[str, Any]] = [
    ORIGINAL,
    NO_RETRY,
    {**ORIGINAL, "disruptionLimit": 0},
    LATE,
    {**ORIGINAL, "activeDeadlineSeconds": 100_000},
    {**ORIGINAL, "ttlSecondsAfterFinished": 0},
    {"stallTimeoutSeconds": 3600},
]
TURNS_BETWEEN = st.integers(0, 6)
EDITS = st.one_of(
    st.tuples(st.just("suspend"), st.booleans(), TURNS_BETWEEN),
    st.tuples(st.just("run_policy"), st.sampled_from(POLICIES), TURNS_BETWEEN),
)
# What an edited limit may end a job with; nothing else may.
ENDED_BY_AN_EDIT = {"DeadlineExceeded", "BackoffLimitExceeded", "DisruptionLimitExceeded"}


# `make simulate` plays other chains each time; a test run must not fail for luck.
EXAMPLES = os.environ.get("TUNESMITH_WORLDS")


@settings(max_examples=int(EXAMPLES or 60), derandomize=not EXAMPLES, deadline=None)
@example(
    chain=[("run_policy", LATE, 5), ("run_policy", ORIGINAL, 2), ("run_policy", NO_RETRY, 0)],
    seed=0,
    is_rough=False,
).via("an edit and its revert between two looks: the spec is the same, its generation is not")
@given(chain=st.lists(EDITS, max_size=12), seed=st.integers(0, 1000), is_rough=st.booleans())
def test_any_chain_of_edits_and_its_revert_ends_well(
    chain: list[tuple[str, Any, int]], seed: int, is_rough: bool
) -> None:
    world = World(seed=seed, faults=Faults(evict=0.05, operator_dies=0.1) if is_rough else Faults())
    for field, value, turns in chain:
        world.edit(**{field: value})
        for _ in range(turns):
            world.turn()
    was_over = world.job is None or world.is_over()
    world.faults = Faults()
    world.edit(suspend=False, run_policy=ORIGINAL)
    for _ in range(200):
        world.turn()
    if world.job is None:
        assert was_over, "only a finished job expires"
        return
    conditions = world.job.status.conditions
    failed = find(conditions, ConditionType.FAILED)
    assert is_true(conditions, ConditionType.COMPLETE) or (
        was_over and failed is not None and failed.reason in ENDED_BY_AN_EDIT
    ), f"{failed} {world.transcript[-10:]}"
    assert world.job.status.observed_generation == world.job.metadata.generation
