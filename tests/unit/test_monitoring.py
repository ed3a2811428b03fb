"""What pods and trainer of a live attempt say: when it is stopped, and where it is."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.unit.jobs import CONFIG, make_job
from tunesmith_api.attempts import ActiveAttempt, AttemptReason, StageName
from tunesmith_api.conditions import ConditionType, Reason
from tunesmith_api.jobstatus import DisplayStage, FineTuneJobStatus, ProgressStatus, Resolved
from tunesmith_api.result import Phase, TrainerProgress
from tunesmith_operator.planning.draft import JobDraft
from tunesmith_operator.planning.monitoring import (
    current_progress,
    display_stage,
    overdue_stage,
    reason_to_stop,
    slow_pod,
    standing,
)
from tunesmith_operator.planning.observed import Observation, SeenJob, SeenPod
from tunesmith_operator.planning.training import decide
from tunesmith_operator.planning.watching import note_image

NOW = datetime(2026, 1, 1, tzinfo=UTC)
JOB = make_job(compute={"gpusPerNode": 0})


def attempt(**facts: Any) -> SeenJob:
    pod = SeenPod(name="p", uid="p", job_uid="j", created=NOW, **facts)
    return SeenJob("j", "j", "o", StageName.TRAIN, 2, NOW, started=NOW, pods=(pod,))


def progress(**facts: Any) -> TrainerProgress:
    said = {"stage": "train", "attempt": 2, "phase": Phase.TRAINING, "phase_start_time": NOW}
    return TrainerProgress.model_validate(said | {"total_steps": 100} | facts)


@pytest.mark.parametrize(
    ("waits", "seconds", "reason"),
    [
        pytest.param("ErrImagePull", 5, None, id="a pull that failed may do better"),
        pytest.param("ErrImagePull", 121, AttemptReason.IMAGE_PULL, id="but not for ever"),
        pytest.param("InvalidImageName", 5, AttemptReason.IMAGE_PULL, id="a name never does"),
        pytest.param("CreateContainerError", 121, AttemptReason.INFRASTRUCTURE, id="no container"),
        pytest.param("ContainerCreating", 999, None, id="all is well"),
    ],
)
def test_a_pod_that_does_not_start_is_given_up_on(
    waits: str, seconds: int, reason: AttemptReason | None
) -> None:
    seen = Observation(job=JOB)
    stop = reason_to_stop(seen, attempt(waiting_reason=waits), NOW + timedelta(seconds=seconds))
    assert (stop.reason if stop else None) == reason
    gone = attempt(waiting_reason=waits, is_gone=True)
    assert reason_to_stop(seen, gone, NOW + timedelta(seconds=seconds)) is None


@pytest.mark.parametrize(
    ("said", "stage"),
    [
        pytest.param({"phase": Phase.EVALUATING, "step": 50}, "Train", id="a look in between"),
        pytest.param({"phase": Phase.EVALUATING, "step": 100}, "Evaluate", id="all steps are done"),
        pytest.param({"phase": Phase.UPLOADING, "step": 100}, "Export", id="the upload"),
    ],
)
def test_the_stage_that_is_shown(said: dict[str, Any], stage: str) -> None:
    assert display_stage(StageName.TRAIN, progress(**said)) == stage


@pytest.mark.parametrize("other", [{"attempt": 1}, {"stage": "prepare"}])
def test_an_answer_of_another_attempt_is_none(other: dict[str, Any]) -> None:
    seen = Observation(job=JOB, progress=progress(**other))
    assert current_progress(seen, attempt()) is None


NO_NODE = {"unschedulable": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."}
NO_IMAGE = {"waiting_reason": "ErrImagePull", "waiting_message": "not found"}
NO_MOUNT = {"waiting_reason": "CreateContainerConfigError", "waiting_message": "no such key"}


@pytest.mark.parametrize(
    ("stage", "compute", "facts", "reason", "words"),
    [
        pytest.param(
            StageName.TRAIN,
            {"gpusPerNode": 2, "gpuType": "A100"},
            NO_NODE,
            Reason.UNSCHEDULABLE,
            [
                "which wants 2 GPU(s) of type A100. The scheduler says: 0/3 nodes",
                "nvidia.com/gpu. It waits for one",
                "gpusPerNode, gpuType, nodeSelector or tolerations of compute",
            ],
            id="GPUs that no node has",
        ),
        pytest.param(
            StageName.TRAIN,
            {"gpusPerNode": 0},
            NO_NODE,
            Reason.UNSCHEDULABLE,
            ["The scheduler says", "(resources, nodeSelector or tolerations of compute)"],
            id="more memory than a node has",
        ),
        pytest.param(
            StageName.PREPARE,
            {"gpusPerNode": 2},
            NO_NODE,
            Reason.UNSCHEDULABLE,
            ["lower the chart's prepareResources"],
            id="a node that is full of others",
        ),
        pytest.param(
            StageName.TRAIN,
            {},
            NO_IMAGE,
            Reason.IMAGE_PULL_FAILING,
            ["trainer:7 cannot be pulled: ErrImagePull not found; check compute.image"],
            id="an image that is not there",
        ),
        pytest.param(
            StageName.TRAIN,
            {},
            NO_MOUNT,
            Reason.CONTAINER_NOT_STARTING,
            ["Pod p does not start: CreateContainerConfigError no such key"],
            id="a container that cannot be made",
        ),
    ],
)
def test_what_is_waited_for_is_told_with_what_to_change(
    stage: StageName,
    compute: dict[str, Any],
    facts: dict[str, str],
    reason: Reason,
    words: list[str],
) -> None:
    waiting = replace(attempt(**facts), stage=stage, image="trainer:7")
    told = standing(Observation(job=make_job(compute=compute)), waiting, NOW)
    assert told.reason is reason
    for word in words:
        assert word in told.message


@pytest.mark.parametrize(
    ("facts", "age", "is_told"),
    [
        pytest.param({"node": "n", "waiting_reason": "ContainerCreating"}, 30, True, id="slow"),
        pytest.param({"node": "n", "waiting_reason": "ContainerCreating"}, 29, False, id="new"),
        pytest.param({"waiting_reason": ""}, 30, False, id="without a node"),
        pytest.param({"node": "n", "phase": "Running"}, 30, False, id="running"),
        pytest.param({"node": "n", "is_gone": True}, 30, False, id="gone"),
    ],
)
def test_what_a_kubelet_warns_of_is_told_of_a_pod_that_is_slow_to_start(
    facts: dict[str, Any], age: int, is_told: bool
) -> None:
    waiting = attempt(**facts)
    now = NOW + timedelta(seconds=age)
    assert (slow_pod(waiting, now) is not None) == is_told
    told = standing(Observation(job=make_job(), pod_hindered="no such volume"), waiting, now)
    assert ("does not start: no such volume" in told.message) == is_told
    assert (told.reason is Reason.CONTAINER_NOT_STARTING) == is_told


LIMITS = {"prepare": 60, "train": 100, "evaluate": 30, "export": 20}
AGO = timedelta(seconds=10)


@pytest.mark.parametrize(
    ("seconds", "phase", "limits", "late"),
    [
        pytest.param(99, Phase.TRAINING, LIMITS, "", id="training within its limit"),
        pytest.param(100, Phase.TRAINING, LIMITS, "train", id="training that took too long"),
        pytest.param(100, Phase.LOADING_MODEL, LIMITS, "train", id="loading belongs to training"),
        pytest.param(9999, Phase.TRAINING, {"train": 0}, "", id="no limit"),
        pytest.param(9999, Phase.EVALUATING, LIMITS, "", id="what follows has its own limit"),
        pytest.param(
            9999, Phase.EVALUATING, {"evaluate": 10}, "evaluate", id="an endless evaluation"
        ),
        pytest.param(9999, Phase.EXPORTING, {"export": 10}, "export", id="an endless export"),
        pytest.param(9999, Phase.UPLOADING, {"export": 10}, "export", id="an endless upload"),
        pytest.param(9999, Phase.UPLOADING, LIMITS, "", id="an upload within its limit"),
        pytest.param(9999, Phase.DONE, LIMITS, "", id="done, and about to end"),
    ],
)
@pytest.mark.parametrize("answers", [True, False], ids=["it answers", "it has answered before"])
def test_each_part_of_an_attempt_has_a_time_limit(
    seconds: int, phase: Phase, limits: dict[str, int], late: str, answers: bool
) -> None:
    """The phase began ten seconds ago, the pods longer ago than that."""
    now = NOW + timedelta(seconds=seconds)
    since = now - AGO
    status = FineTuneJobStatus(progress=ProgressStatus(phase=phase, phase_start_time=since))
    job = make_job(compute={"gpusPerNode": 0}, runPolicy={"stageTimeoutSeconds": limits})
    seen = Observation(
        job=job.model_copy(update={"status": status}),
        progress=progress(phase=phase, phase_start_time=since) if answers else None,
    )
    said = overdue_stage(seen, attempt(phase="Running", started=NOW), now)
    assert bool(said) == bool(late), said
    if late:
        assert f"runPolicy.stageTimeoutSeconds.{late} ({limits[late]} s); raise it" in said
    assert overdue_stage(seen, attempt(phase="Pending"), now) == "", "nothing has begun"


@pytest.mark.parametrize(("seconds", "late"), [(59, False), (60, True)])
def test_preparation_has_a_time_limit(seconds: int, late: bool) -> None:
    job = make_job(runPolicy={"stageTimeoutSeconds": LIMITS})
    running = replace(attempt(phase="Running", started=NOW), stage=StageName.PREPARE)
    said = overdue_stage(Observation(job=job), running, NOW + timedelta(seconds=seconds))
    assert ("stageTimeoutSeconds.prepare (60 s)" in said) is late


def test_a_trainer_that_falls_silent_at_its_end_is_still_there() -> None:
    active = ActiveAttempt(number=2, stage=StageName.TRAIN, job_name="j", start_time=NOW)
    status = FineTuneJobStatus(start_time=NOW, active=active, stage=DisplayStage.EXPORT)
    job = JOB.model_copy(update={"status": status})
    running = attempt(phase="Running", started=NOW)
    decision = decide(Observation(job=job, attempts=(running,)), CONFIG, NOW)
    assert decision.status.stage is DisplayStage.EXPORT


def test_preparation_that_somebody_suspends_waits_in_no_queue() -> None:
    active = ActiveAttempt(number=2, stage=StageName.PREPARE, job_name="j", start_time=NOW)
    status = FineTuneJobStatus(start_time=NOW, active=active)
    held = replace(attempt(), stage=StageName.PREPARE, is_suspended=True, pods=())
    seen = Observation(job=JOB.model_copy(update={"status": status}), attempts=(held,))
    said = {c.type: c.reason for c in decide(seen, CONFIG, NOW).status.conditions}
    assert said == {ConditionType.DATA_READY: Reason.WAITING_FOR_QUOTA}


def test_a_digest_that_the_job_names_stays_where_a_pod_knows_none() -> None:
    image = f"trainer:1@sha256:{'1' * 64}"
    resolved = Resolved(trainer_image=image)
    draft = JobDraft(status=FineTuneJobStatus(resolved=resolved), generation=1, now=NOW)
    note_image(draft, replace(attempt(image_id=f"sha256:{'2' * 64}"), image=image))
    assert draft.status.resolved.trainer_image == image
