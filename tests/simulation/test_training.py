"""The real ``decide`` in a toy cluster: golden stories and thousands of random ones."""

import os
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from tests.simulation.training_parts import DEPLOYMENTS, IMAGE_DIGEST, SPEC, START, STEPS, Faults
from tests.simulation.world import World
from tunesmith_api.attempts import AttemptReason
from tunesmith_api.conditions import ConditionType
from tunesmith_api.jobstatus import DisplayStage
from tunesmith_api.result import Outcome
from tunesmith_operator.planning.conditions import find, is_true
from tunesmith_operator.planning.observed import SeenArtifact, SeenVersion


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


ON_GPUS = {**SPEC, "compute": {"gpusPerNode": 2}}


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


def test_out_of_memory_halves_the_batch_once_and_then_fails() -> None:
    world = World(seed=6)
    while "demo-train-2" not in world.attempts:
        world.turn()
    world.faults = Faults(out_of_memory=1.0)
    play(world)
    assert failed_because(world) == "OutOfMemory"
    runs = [w for w in world.transcript if w.startswith("StartAttempt demo-train")]
    assert len(runs) == 2
    second = world.attempts["demo-train-3"].run.hyperparameters
    assert (second.per_device_batch_size, second.gradient_accumulation_steps) == (4, 2)


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


def test_a_missing_image_is_given_up_on() -> None:
    world = play(World(seed=7, faults=Faults(image_missing=1.0)))
    assert failed_because(world) == "BackoffLimitExceeded"
    assert set(reasons(world)) == {AttemptReason.IMAGE_PULL}


def said_of_the_data(world: World) -> tuple[str, str]:
    assert world.job is not None
    found = find(world.job.status.conditions, ConditionType.DATA_READY)
    assert found is not None
    return found.reason, found.message


def test_pods_that_cannot_be_made_are_told_of_soon_and_given_up_on() -> None:
    world = World(seed=18, faults=Faults(pod_refused=1.0))
    world.turn()
    while said_of_the_data(world)[0] == "Starting":
        world.turn()
    reason, message = said_of_the_data(world)
    assert reason == "ContainerNotStarting"
    assert world.now - START <= timedelta(seconds=30)
    assert "1 of 1 pod(s) of Job demo-prepare-1 cannot be made" in message
    assert world.refusal in message
    assert world.job is not None
    assert world.job.status.stage is DisplayStage.PENDING
    play(world)
    assert failed_because(world) == "BackoffLimitExceeded"
    assert set(reasons(world)) == {AttemptReason.INFRASTRUCTURE}
    assert world.now - START <= timedelta(minutes=12)
    told = [e.message for e in world.events if e.reason == "ContainerNotStarting"]
    assert len(told) == len(world.created) == 4, "once for each attempt"


def test_a_quota_that_is_used_up_is_waited_for_and_uses_up_no_failure_budget() -> None:
    world = World(seed=19, faults=Faults(pod_refused=1.0))
    world.refusal = 'pods "demo-prepare-1-0" is forbidden: exceeded quota: gpus, used: 8'
    for _ in range(400):
        world.turn()
    reason, message = said_of_the_data(world)
    assert reason == "WaitingForQuota"
    assert world.refusal in message
    assert world.created == ["demo-prepare-1"]
    world.faults = Faults()
    play(world)
    assert world.job is not None
    assert is_true(world.job.status.conditions, ConditionType.COMPLETE)
    assert world.job.status.counters.failures == 0


def test_the_time_limit_tells_of_the_quota_that_was_waited_for() -> None:
    spec = {**SPEC, "runPolicy": {"activeDeadlineSeconds": 60}}
    world = World(seed=19, spec=spec, faults=Faults(pod_refused=1.0))
    world.refusal = "exceeded quota: gpus"
    play(world)
    assert failed_because(world) == "DeadlineExceeded"
    assert world.job is not None
    said = find(world.job.status.conditions, ConditionType.FAILED)
    assert said is not None
    assert "exceeded quota: gpus" in said.message


def test_a_child_that_is_invalid_ends_the_job_and_keeps_what_was_done() -> None:
    world = World(seed=20)
    while not world.created:
        world.turn()
    world.faults = Faults(child_invalid=1.0)
    play(world)
    assert world.job is not None
    status = world.job.status
    assert failed_because(world) == "InvalidSpec"
    assert status.stage is DisplayStage.FAILED
    assert is_true(status.conditions, ConditionType.DATA_READY)
    assert status.resolved.dataset_digest
    assert reasons(world) == [AttemptReason.SUCCEEDED]
    said = find(status.conditions, ConditionType.TRAINED)
    assert said is not None
    assert "nodeSelector is invalid" in said.message
    assert world.created == ["demo-prepare-1"]
    before = status
    for _ in range(20):
        world.turn()
    assert world.job.status == before


def test_a_child_that_is_refused_is_tried_again_without_an_event_each_time() -> None:
    world = World(seed=21, faults=Faults(child_refused=1.0))
    for _ in range(100):
        world.turn()
    tries = world.transcript.count("StartAttempt demo-prepare-1")
    assert 100 * 5 / 10 <= tries + 1 <= 100 * 5 / 10 + 1, "every ten seconds"
    assert [e.reason for e in world.events] == ["ChildRefused"]
    world.faults = Faults()
    play(world)
    assert world.job is not None
    assert is_true(world.job.status.conditions, ConditionType.COMPLETE)
    assert is_true(world.job.status.conditions, ConditionType.ACCEPTED)


def said_of(world: World, kind: ConditionType) -> tuple[str, str]:
    assert world.job is not None
    found = find(world.job.status.conditions, kind)
    return (found.status, found.reason) if found else ("", "")


def test_what_preparation_gave_is_kept_while_training_is_refused() -> None:
    world = World(seed=21)
    while not world.created:
        world.turn()
    world.faults = Faults(child_refused=1.0)
    while said_of(world, ConditionType.ACCEPTED)[1] != "ChildRefused":
        world.turn()
    assert world.job is not None
    assert said_of(world, ConditionType.DATA_READY)[0] == "True"
    assert reasons(world) == [AttemptReason.SUCCEEDED]
    status = world.job.status
    world.attempts.clear()  # somebody tidies up; whoever has the result needs the Job no more
    for _ in range(20):
        world.turn()
    assert world.job.status == status, "each try says the same"
    assert [e.reason for e in world.events] == ["DataReady", "ChildRefused"]
    world.faults = Faults()
    while "demo-train-2" not in world.attempts:
        world.turn()
    assert said_of(world, ConditionType.ACCEPTED) == ("True", "ValidSpec")
    play(world)
    assert world.created == ["demo-prepare-1", "demo-train-2"]


def test_what_was_trained_is_kept_while_the_version_is_refused() -> None:
    world = World(seed=22, faults=Faults(version_refused=1.0))
    while said_of(world, ConditionType.ACCEPTED)[1] != "ChildRefused":
        world.turn()
    assert said_of(world, ConditionType.TRAINED)[0] == "True"
    world.attempts.clear()
    for _ in range(20):
        world.turn()
    world.faults = Faults()
    play(world)
    assert world.created == ["demo-prepare-1", "demo-train-2"]
    assert said_of(world, ConditionType.COMPLETE)[0] == "True"
    assert said_of(world, ConditionType.ACCEPTED) == ("True", "ValidSpec")


def test_the_time_limit_tells_of_what_was_refused() -> None:
    spec = {**SPEC, "runPolicy": {"activeDeadlineSeconds": 60}}
    world = play(World(seed=21, spec=spec, faults=Faults(child_refused=1.0)))
    assert failed_because(world) == "DeadlineExceeded"
    assert world.job is not None
    said = find(world.job.status.conditions, ConditionType.FAILED)
    assert said is not None
    assert "create Job: forbidden" in said.message


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


OFFERED = {**SPEC, "deployTo": {"name": "demo"}}


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


def test_a_version_that_somebody_makes_meanwhile_ends_the_job() -> None:
    wanted = {**SPEC["output"], "modelVersion": {"version": "5"}}
    world = World(seed=22, spec={**SPEC, "output": wanted}, faults=Faults(version_refused=1.0))
    while said_of(world, ConditionType.ACCEPTED)[1] != "ChildRefused":
        world.turn()
    world.versions.append(SeenVersion("demo-v5", "demo", "5", "another"))
    for _ in range(20):
        world.turn()
    assert failed_because(world) == "VersionExists"


def test_what_is_wrong_with_a_spec_is_an_event_once() -> None:
    world = World(seed=1, spec={**SPEC, "compute": {"gpusPerNode": 1, "gpuType": "B9000"}})
    for _ in range(3):
        world.reconcile()
    assert [e.reason for e in world.events] == ["UnknownGpuType"]
    assert not world.created


@pytest.mark.parametrize("spec", [SPEC, OFFERED], ids=["for nobody", "for a deployment"])
def test_a_worse_model_gets_no_version(spec: dict[str, Any]) -> None:
    world = World(seed=10, spec=spec, faults=Faults(worse_than_base=1.0))
    world.deployment = DEPLOYMENTS[3]
    play(world)
    assert failed_because(world) == "GatesFailed"
    assert world.versions == world.made == []
    assert world.job is not None
    assert find(world.job.status.conditions, ConditionType.OFFERED) is None
    assert "Offered" not in {e.reason for e in world.events}


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


def test_a_version_names_the_very_image_it_was_trained_with() -> None:
    world = play(World(seed=1))
    (made,) = world.made
    assert made.lineage is not None
    assert made.lineage.trainer_image == f"trainer:1@{IMAGE_DIGEST}"


def test_a_version_tells_what_its_rows_were() -> None:
    (made,) = play(World(seed=1)).made
    assert made.lineage is not None
    assert (made.lineage.prompt_version, made.lineage.synthetic_rows) == ("v2", 7)
    assert made.lineage.template_date == "2024-07-26"


def test_an_image_without_a_registrys_digest_keeps_its_tag() -> None:
    world = play(World(seed=1, image_id=IMAGE_DIGEST))
    (made,) = world.made
    assert made.lineage is not None
    assert made.lineage.trainer_image == "trainer:1"


def test_a_version_names_the_one_it_was_trained_from() -> None:
    uri = "s3://bucket/models/merged/attempt-2"
    world = World(seed=1, spec={**SPEC, "model": {"uri": uri}})
    digest = "sha256:" + "0" * 64
    merged = (SeenArtifact("Merged", f"{uri}/", digest),)
    world.versions = [
        SeenVersion("demo-v1", "demo", "1", "another-job", artifacts=merged),
        SeenVersion("demo-v2", "demo", "2", "a-third-job"),
    ]
    while not world.made:
        world.turn()
    (made,) = world.made
    assert made.lineage is not None
    assert (made.version, made.lineage.parent) == ("3", "demo-v1")


def test_a_deleted_job_waits_for_its_old_pod() -> None:
    world = World(seed=12, faults=Faults(job_deleted=0.2))
    for _ in range(200):
        world.turn()  # check() holds that two attempts never run at once
    world.faults = Faults()
    play(world)


def test_a_version_is_offered_by_the_tag_of_the_channel_that_the_deployment_follows() -> None:
    world = World(seed=14, spec=OFFERED)
    world.deployment = DEPLOYMENTS[3]
    play(world)
    (made,) = world.made
    assert made.tags == ("stable",)
    assert world.transcript[-1] == "MakeVersion "
    assert [(e.type, e.reason) for e in world.events[-2:]] == [
        ("Normal", "Offered"),
        ("Normal", "Complete"),
    ]


def test_an_operator_that_died_after_the_version_says_what_was_offered_not_what_is_followed() -> (
    None
):
    world = World(seed=15, spec=OFFERED)
    world.deployment = DEPLOYMENTS[3]
    while not world.made:
        before = world.job
        world.turn(seconds=1)
    world.job = before  # the status was never written
    world.deployment = DEPLOYMENTS[4]
    play(world)
    assert world.job is not None
    said = find(world.job.status.conditions, ConditionType.OFFERED)
    assert said is not None
    assert (said.status, said.reason) == ("True", "ChannelTagged")
    assert "the tag stable" in said.message
    assert len(world.made) == 1


def test_a_version_that_nobody_took_stays_so_when_the_deployment_appears_too_late() -> None:
    world = World(seed=16, spec=OFFERED)
    while not world.made:
        before = world.job
        world.turn(seconds=1)
    world.job = before
    world.deployment = DEPLOYMENTS[3]
    play(world)
    assert world.job is not None
    said = find(world.job.status.conditions, ConditionType.OFFERED)
    assert said is not None
    assert (said.status, said.reason) == ("False", "OfferMissed")
    assert world.made[0].tags == ()


@pytest.mark.parametrize("seed", range(20))
def test_what_is_offered_is_what_was_followed_whoever_dies_and_edits(seed: int) -> None:
    faults = Faults(
        evict=0.02, operator_dies=0.2, answer_lost=0.1, worse_than_base=0.1, deployment_edited=0.3
    )
    world = World(seed=seed, spec=OFFERED, faults=faults)
    for _ in range(60):
        world.turn()  # make_version and check_offer hold it
    world.faults = Faults()
    play(world)


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
