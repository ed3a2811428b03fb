"""The real ``decide`` of training in a toy cluster: what one job goes through."""

from dataclasses import replace
from datetime import timedelta

import pytest

from tests.simulation.training_parts import SPEC, STEPS, Faults
from tests.simulation.training_play import (
    OFFERED,
    ON_GPUS,
    ROUGH,
    failed_because,
    play,
    reasons,
    said_of,
)
from tests.simulation.world import World
from tunesmith_api.attempts import AttemptReason
from tunesmith_api.conditions import ConditionType
from tunesmith_api.jobstatus import DisplayStage
from tunesmith_api.result import Outcome
from tunesmith_operator.planning.conditions import find, is_true


def test_an_undisturbed_job_is_two_attempts_and_one_version() -> None:
    world = play(World(seed=1))
    assert world.transcript == [
        "StartAttempt demo-prepare-1",
        "StartAttempt demo-train-2",
        "MakeVersion ",
    ]
    assert world.job is not None
    assert world.job.status.stage is DisplayStage.COMPLETE
    assert world.job.status.model_version_ref is not None
    assert world.job.status.model_version_ref.name == "demo-v1"
    progress = world.job.status.progress
    assert progress is not None
    assert progress.total_steps == progress.step > 0


def test_training_holds_the_model_as_preparation_found_best() -> None:
    world = play(World(seed=1))
    assert world.job is not None
    resolved = world.job.status.resolved
    assert (resolved.sharding, resolved.estimated_gpu_memory_bytes) == ("FSDP", 1 << 30)
    assert [a.run.world.sharding for a in world.attempts.values()] == ["DDP", "FSDP"]


def test_a_settled_job_is_quiet() -> None:
    world = play(World(seed=1))
    assert world.job is not None
    status = world.job.status
    for _ in range(20):
        world.now += timedelta(minutes=10)
        decision = world.reconcile()
        assert decision is not None
        assert decision.actions == ()
        assert decision.status == status


def test_a_job_expires_only_after_its_end_was_written() -> None:
    world = play(World(seed=1, spec={**SPEC, "runPolicy": {"ttlSecondsAfterFinished": 60}}))
    assert world.job is not None
    ended = world.job.status.completion_time
    for _ in range(14):
        world.turn()
    assert world.job is None
    assert ended is not None
    assert world.now - ended <= timedelta(seconds=60 + 15)
    assert len(world.versions) == 1, "the version outlives the job"


def test_a_job_that_may_expire_at_once_ends_first() -> None:
    world = World(seed=1, spec={**SPEC, "runPolicy": {"ttlSecondsAfterFinished": 0}})
    play(world)
    assert [e.reason for e in world.events][-1] == "Complete"
    for _ in range(3):
        world.turn()
    assert world.job is None
    assert len(world.versions) == 1


def gpu_seconds(world: World) -> tuple[int, int]:
    """Give the GPU seconds that were used, and those of them that were lost."""
    assert world.job is not None
    usage = world.job.status.usage
    return int(usage.gpu_seconds), int(usage.gpu_seconds_lost)


def test_an_undisturbed_job_loses_no_gpu_seconds() -> None:
    used, lost = gpu_seconds(play(World(seed=1, spec=ON_GPUS)))
    assert used > 0
    assert lost == 0


@pytest.mark.parametrize(
    ("fault", "share"),
    [
        pytest.param("evict", 0, id="an eviction saves a checkpoint first"),
        # It makes a step a second and keeps every tenth: 35 were made, 30 are kept.
        pytest.param("crash", 5 / 35, id="a crash loses the steps since the last checkpoint"),
    ],
)
def test_what_must_be_done_again_is_lost(fault: str, share: float) -> None:
    world = World(seed=9, spec=ON_GPUS)
    while "demo-train-2" not in world.attempts or world.attempts["demo-train-2"].step < 33:
        world.turn()
    world.faults = Faults(**{fault: 1.0})
    while world.attempts["demo-train-2"].is_alive:
        world.turn()
    world.faults = Faults()
    while len(world.created) < 3:
        world.turn()
    used, lost = gpu_seconds(world)
    assert lost == pytest.approx(used * share, abs=1)
    play(world)
    assert gpu_seconds(world)[1] == lost, "the attempt that went on lost nothing"


def test_an_attempt_without_a_step_is_lost_as_a_whole() -> None:
    world = World(seed=8, spec=ON_GPUS)
    while not world.is_prepared:
        world.turn()
    world.faults = Faults(hang=1.0)
    while len(world.created) < 3:
        world.turn()
    used, lost = gpu_seconds(world)
    # Two GPUs for the stall timeout of 60 s and what it takes to see it, though the Job is gone.
    assert lost == used
    assert 2 * 60 <= used <= 2 * 90


def test_a_checkpoint_that_was_passed_over_is_told_once() -> None:
    world = World(seed=9)
    note = "The checkpoint of step 30 is damaged and was passed over: optimizer.pt."
    world.notes = (note,)
    play(world)
    told = [e.message for e in world.events if e.reason == "CheckpointPassedOver"]
    assert told == [f"Attempt 2: {note}"]


def test_twenty_evictions_are_survived_and_use_up_no_failure_budget() -> None:
    world = World(seed=3, faults=Faults(evict=1.0))
    while len(world.created) < 21:
        world.turn()
        assert len(world.attempts) <= 3, "Jobs of attempts that ended long ago are not kept"
    world.faults = Faults()
    play(world)
    assert world.job is not None
    assert is_true(world.job.status.conditions, ConditionType.COMPLETE)
    assert world.job.status.counters.failures == 0
    assert world.job.status.counters.disruptions >= 19


def test_a_crash_loop_ends_with_the_backoff_limit() -> None:
    world = play(World(seed=4, faults=Faults(crash=1.0)))
    assert failed_because(world) == "BackoffLimitExceeded"
    assert len(world.created) == 4  # the first try and backoffLimit 3 more


def test_a_user_error_is_not_tried_again() -> None:
    world = play(World(seed=5, faults=Faults(user_error=1.0)))
    assert failed_because(world) == "NonFiniteLoss"
    assert len(world.created) == 1


@pytest.mark.parametrize(
    ("batch", "halved"),
    [
        pytest.param(8, (4, 2), id="8 rows: 4 at once, twice"),
        pytest.param(7, (1, 7), id="7 rows, which have no half: 1 at once, so the step stays"),
    ],
)
def test_out_of_memory_halves_the_batch_once_and_then_fails(
    batch: int, halved: tuple[int, int]
) -> None:
    world = World(seed=6, spec={**SPEC, "hyperparameters": {"perDeviceBatchSize": batch}})
    while "demo-train-2" not in world.attempts:
        world.turn()
    world.faults = Faults(out_of_memory=1.0)
    play(world)
    assert failed_because(world) == "OutOfMemory"
    runs = [w for w in world.transcript if w.startswith("StartAttempt demo-train")]
    assert len(runs) == 2
    second = world.attempts["demo-train-3"].run.hyperparameters
    assert (second.per_device_batch_size, second.gradient_accumulation_steps) == halved
    assert world.job is not None
    first, last = world.job.status.attempts[-2:]
    assert (first.reason, last.reason) == ("OutOfMemory", "OutOfMemory")
    said = f"takes {halved[0]} rows at once instead of {batch}, {halved[1]} times a step"
    assert said in first.message
    assert "next attempt" not in last.message


def test_out_of_memory_in_preparation_has_no_batch_to_halve() -> None:
    world = play(World(seed=6, faults=Faults(out_of_memory=1.0)))
    assert failed_because(world) == "OutOfMemory"
    assert world.created == ["demo-prepare-1"]


def test_a_batch_of_one_row_is_not_halved() -> None:
    spec = {**SPEC, "hyperparameters": {"perDeviceBatchSize": 1}}
    world = World(seed=6, spec=spec)
    while "demo-train-2" not in world.attempts:
        world.turn()
    world.faults = Faults(out_of_memory=1.0)
    play(world)
    assert failed_because(world) == "OutOfMemory"
    assert world.created == ["demo-prepare-1", "demo-train-2"]


@pytest.mark.parametrize("seed", range(40))
def test_a_job_that_is_deleted_at_any_time_makes_nothing_more_and_leaves_nothing(seed: int) -> None:
    world = World(seed=seed, spec=OFFERED if seed % 2 else ON_GPUS, faults=ROUGH)
    for _ in range(world.rng.randrange(60)):
        world.turn()
    world.delete_job()
    made, versions = list(world.created), list(world.versions)
    for _ in range(60):
        world.turn()  # create and make_version hold it, too
    assert world.job is None
    assert not world.attempts
    assert not world.strays
    assert (world.created, world.versions) == (made, versions)


def test_a_hanging_trainer_is_replaced_within_the_stall_timeout_and_half_a_minute() -> None:
    world = World(seed=8, faults=Faults(hang=1.0))
    while not world.attempts or next(iter(world.attempts.values())).pod.phase != "Running":
        world.turn()
    hung_at = world.now
    while "StopAttempt demo-prepare-1" not in world.transcript:
        world.turn()
    assert world.now - hung_at <= timedelta(seconds=60 + 30)
    world.faults = Faults()
    play(world)
    assert AttemptReason.STALLED in reasons(world)


def test_suspending_stops_the_pods_and_resuming_goes_on_from_the_checkpoint() -> None:
    world = World(seed=9)
    while "demo-train-2" not in world.attempts or world.attempts["demo-train-2"].step < 33:
        world.turn()
    step = world.attempts["demo-train-2"].step
    world.set_suspend(True)
    for _ in range(10):
        world.turn()
    assert world.job is not None
    assert not world.attempts_alive()
    assert is_true(world.job.status.conditions, ConditionType.SUSPENDED)
    assert world.job.status.stage is DisplayStage.SUSPENDED
    said = find(world.job.status.conditions, ConditionType.TRAINED)
    assert said is not None
    assert said.reason == "SuspendedByUser"
    world.set_suspend(False)
    play(world)
    assert world.attempts["demo-train-3"].resumed_from >= step
    assert world.job.status.counters.failures == world.job.status.counters.disruptions == 0


def test_training_that_was_done_before_it_could_be_stopped_counts() -> None:
    world = World(seed=9)
    while "demo-train-2" not in world.attempts:
        world.turn()
    attempt = world.attempts["demo-train-2"]
    world.set_suspend(True)
    while "StopAttempt demo-train-2" not in world.transcript:
        world.reconcile()
    attempt.step, attempt.terminating_for = STEPS, -1
    world.report = world.result(attempt, Outcome.SUCCEEDED, "Trained")
    world.finish(attempt, world.report, 0)
    play(world)
    assert reasons(world) == [AttemptReason.SUCCEEDED] * 2
    assert said_of(world, ConditionType.COMPLETE)[0] == "True"


def test_the_deadline_fails_the_job_at_once_and_stops_what_runs() -> None:
    spec = {**SPEC, "runPolicy": {"activeDeadlineSeconds": 30}}
    world = play(World(seed=11, spec=spec, faults=Faults(hang=1.0)))
    assert failed_because(world) == "DeadlineExceeded"
    assert not world.attempts_alive()
    assert world.transcript.count("StopAttempt demo-prepare-1") == 1, "once is enough"
    assert world.job is not None
    said = find(world.job.status.conditions, ConditionType.FAILED)
    assert said is not None
    assert "runPolicy.activeDeadlineSeconds (30 s); raise it" in said.message


@pytest.mark.parametrize(
    ("stage", "faults"),
    [
        pytest.param("prepare", Faults(hang=1.0), id="preparation that hangs"),
        pytest.param("train", Faults(), id="training that takes a minute"),
    ],
)
def test_a_stage_that_takes_too_long_fails_the_job_and_stops_what_runs(
    stage: str, faults: Faults
) -> None:
    limits = {stage: 20}
    policy = {"stallTimeoutSeconds": 3600, "stageTimeoutSeconds": limits}
    world = play(World(seed=11, spec={**SPEC, "runPolicy": policy}, faults=faults))
    assert failed_because(world) == "StageTimeout"
    assert reasons(world)[-1] is AttemptReason.DEADLINE_EXCEEDED
    assert world.job is not None
    assert world.job.status.attempts[-1].stage == stage
    said = find(world.job.status.conditions, ConditionType.FAILED)
    assert said is not None
    assert f"{stage} took longer than runPolicy.stageTimeoutSeconds.{stage} (20 s)" in said.message
    assert not world.attempts_alive()


def test_what_was_trained_in_time_counts_though_nobody_looked() -> None:
    spec = {**SPEC, "runPolicy": {"activeDeadlineSeconds": 300}}
    world = World(seed=11, spec=spec)
    while "demo-train-2" not in world.attempts:
        world.turn()
    while world.attempts["demo-train-2"].is_alive:  # the operator is away
        world.now += timedelta(seconds=5)
        world.advance(world.attempts["demo-train-2"], 5)
    world.now += timedelta(hours=1)
    play(world)
    assert said_of(world, ConditionType.COMPLETE)[0] == "True"
    assert len(world.versions) == 1


def test_the_time_limit_does_not_undo_a_version() -> None:
    spec = {**SPEC, "runPolicy": {"activeDeadlineSeconds": 300}}
    world = World(seed=11, spec=spec)
    while not world.versions:
        world.turn()
    assert not world.is_over()
    world.now += timedelta(hours=1)
    play(world)
    assert said_of(world, ConditionType.COMPLETE)[0] == "True"


def test_a_suspended_job_that_runs_out_of_time_is_not_suspended_any_more() -> None:
    spec = {**SPEC, "suspend": True, "runPolicy": {"activeDeadlineSeconds": 30}}
    world = play(World(seed=11, spec=spec))
    assert said_of(world, ConditionType.SUSPENDED) == ("False", "DeadlineExceeded")
    assert said_of(world, ConditionType.DATA_READY) == ("False", "DeadlineExceeded")


def test_a_job_that_is_suspended_by_others_is_told_of_and_waited_for() -> None:
    world = World(seed=23)
    while "demo-train-2" not in world.attempts:
        world.turn()
    attempt = world.attempts["demo-train-2"]
    running = attempt.job
    attempt.job = replace(running, is_suspended=True, pods=())  # Kueue, or kubectl patch
    for _ in range(3):
        world.now += timedelta(seconds=5)
        world.wake()
    assert said_of(world, ConditionType.TRAINED) == ("False", "WaitingForQuota")
    assert said_of(world, ConditionType.QUOTA_RESERVED) == ("False", "WaitingForQuota")
    assert world.job is not None
    assert world.job.status.stage is DisplayStage.PENDING
    attempt.job = running
    play(world)
    assert said_of(world, ConditionType.QUOTA_RESERVED)[0] == "True"


def test_prepared_data_that_got_lost_is_made_again() -> None:
    world = World(seed=13)
    while not world.is_prepared:
        world.turn()
    world.faults = Faults(prepared_lost=1.0)
    while "demo-train-2" not in world.attempts or world.attempts["demo-train-2"].is_alive:
        world.turn()
    world.faults = Faults()
    play(world)
    assert world.created == ["demo-prepare-1", "demo-train-2", "demo-prepare-3", "demo-train-4"]
    assert world.job is not None
    assert is_true(world.job.status.conditions, ConditionType.COMPLETE)


def test_a_deleted_job_waits_for_its_old_pod() -> None:
    world = World(seed=12, faults=Faults(job_deleted=0.2))
    for _ in range(200):
        world.turn()  # check() holds that two attempts never run at once
    world.faults = Faults()
    play(world)
