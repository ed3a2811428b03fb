"""What a cluster does not take or does not start: told soon, waited for, given up on in the end."""

from datetime import timedelta

from tests.simulation.training_parts import SPEC, START, Faults
from tests.simulation.training_play import failed_because, play, reasons, said_of
from tests.simulation.world import World
from tunesmith_api.attempts import AttemptReason
from tunesmith_api.conditions import ConditionType
from tunesmith_api.jobstatus import DisplayStage
from tunesmith_operator.planning.conditions import find, is_true
from tunesmith_operator.planning.observed import SeenVersion


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


def test_a_version_that_somebody_makes_meanwhile_ends_the_job() -> None:
    wanted = {**SPEC["output"], "modelVersion": {"version": "5"}}
    world = World(seed=22, spec={**SPEC, "output": wanted}, faults=Faults(version_refused=1.0))
    while said_of(world, ConditionType.ACCEPTED)[1] != "ChildRefused":
        world.turn()
    world.versions.append(SeenVersion("demo-v5", "demo", "5", "another"))
    for _ in range(20):
        world.turn()
    assert failed_because(world) == "VersionExists"


def test_a_job_whose_version_exists_goes_on_when_that_is_deleted() -> None:
    wanted = {**SPEC["output"], "modelVersion": {"version": "5"}}
    world = World(seed=22, spec={**SPEC, "output": wanted})
    world.versions.append(SeenVersion("demo-v5", "demo", "5", "another"))
    for _ in range(3):
        world.turn()
    assert said_of(world, ConditionType.ACCEPTED) == ("False", "VersionExists")
    assert not world.created
    world.versions.clear()
    play(world)
    assert said_of(world, ConditionType.COMPLETE)[0] == "True"
    assert [e.reason for e in world.events].count("VersionExists") == 1


def test_what_was_accepted_and_is_not_any_more_waits_for_its_deadline_only() -> None:
    """Somebody makes the version while the job is suspended, and never takes it away."""
    policy = {**SPEC["runPolicy"], "activeDeadlineSeconds": 120}
    wanted = {**SPEC["output"], "modelVersion": {"version": "5"}}
    world = World(seed=22, spec={**SPEC, "output": wanted, "runPolicy": policy})
    world.turn()
    world.set_suspend(True)
    while said_of(world, ConditionType.SUSPENDED)[0] != "True":
        world.turn()
    world.versions.append(SeenVersion("demo-v5", "demo", "5", "another"))
    world.set_suspend(False)
    play(world, 40)
    assert failed_because(world) == "DeadlineExceeded"
    assert world.created == ["demo-prepare-1"]
    assert world.job is not None
    said = find(world.job.status.conditions, ConditionType.FAILED)
    assert said is not None
    assert "demo-v5" in said.message


def test_what_is_wrong_with_a_spec_is_an_event_once() -> None:
    world = World(seed=1, spec={**SPEC, "compute": {"gpusPerNode": 1, "gpuType": "B9000"}})
    for _ in range(3):
        world.reconcile()
    assert [e.reason for e in world.events] == ["UnknownGpuType"]
    assert not world.created
