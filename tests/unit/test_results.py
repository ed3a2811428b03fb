"""What the status of a FineTuneJob says at its end."""

from datetime import UTC, datetime, timedelta

import pytest

from tests.unit.jobs import CONFIG, make_job
from tunesmith_api.attempts import ActiveAttempt, AttemptReason, StageName
from tunesmith_api.conditions import ConditionType, Reason
from tunesmith_api.jobstatus import CheckpointStatus, FineTuneJobStatus, ProgressStatus
from tunesmith_api.measurements import Metric
from tunesmith_api.meta import ConditionStatus
from tunesmith_api.result import Outcome, TrainerResult, TrainingSummary
from tunesmith_operator.planning.causes import Ending
from tunesmith_operator.planning.conditions import condition, find
from tunesmith_operator.planning.draft import JobDraft
from tunesmith_operator.planning.endings import record
from tunesmith_operator.planning.observed import Observation
from tunesmith_operator.planning.results import trained
from tunesmith_operator.planning.training import decide

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SEEN = Metric(name="loss", value="2.5")


def test_a_run_too_short_to_be_asked_still_says_how_long_it_was() -> None:
    status = FineTuneJobStatus(progress=ProgressStatus(phase="Starting"))
    draft = JobDraft(status=status, generation=1, now=NOW)
    result = TrainerResult(
        stage=StageName.TRAIN,
        attempt=2,
        outcome=Outcome.SUCCEEDED,
        reason="Done",
        message="Trained 10 steps.",
        step=10,
        training=TrainingSummary(steps=10, epochs="1.429", last_loss="1", tokens_per_second="2"),
    )
    trained(draft, make_job(), result)
    progress = draft.status.progress
    assert progress is not None
    assert (progress.step, progress.total_steps, progress.epoch) == (10, 10, "1.429")


def done(training: TrainingSummary | None) -> TrainerResult:
    return TrainerResult(
        stage=StageName.TRAIN,
        attempt=2,
        outcome=Outcome.SUCCEEDED,
        reason="Done",
        message="Trained 10 steps.",
        step=10,
        training=training,
    )


def test_the_last_numbers_of_training_are_those_of_its_result() -> None:
    draft = JobDraft(status=FineTuneJobStatus(metrics=(SEEN,)), generation=1, now=NOW)
    trained(draft, make_job(), done(TrainingSummary(last_loss="1.23456", tokens_per_second="99")))
    assert [(m.name, m.value) for m in draft.status.metrics] == [
        ("loss", "1.2346"),
        ("tokens_per_second", "99"),
    ]


def test_a_result_without_numbers_takes_none_away() -> None:
    """A trainer that only had to judge and export, after its training was over, has no summary."""
    progress = ProgressStatus(phase="Exporting", epoch="2.5", step=10, total_steps=10)
    status = FineTuneJobStatus(metrics=(SEEN,), progress=progress)
    draft = JobDraft(status=status, generation=1, now=NOW)
    trained(draft, make_job(), done(None))
    assert draft.status.metrics == (SEEN,)
    assert draft.status.progress is not None
    assert draft.status.progress.epoch == "2.5"


@pytest.mark.parametrize(
    ("reason", "lost"),
    [
        pytest.param(AttemptReason.SUCCEEDED, 0, id="a success has lost nothing"),
        pytest.param(AttemptReason.EVICTED, 3, id="an eviction all since the checkpoint"),
    ],
)
def test_lost_are_the_steps_that_must_be_done_again(reason: AttemptReason, lost: int) -> None:
    """The checkpoints of a run that is over are deleted: the last one says nothing of it."""
    active = ActiveAttempt(number=2, stage=StageName.TRAIN, job_name="j", start_time=NOW)
    status = FineTuneJobStatus(
        active=active,
        progress=ProgressStatus(step=10, total_steps=10),
        checkpoint=CheckpointStatus(step=7),
    )
    draft = JobDraft(status=status, generation=1, now=NOW)
    result = done(None) if reason is AttemptReason.SUCCEEDED else None
    record(draft, make_job(), active, Ending(reason, "over", result=result), None)
    (ended,) = draft.status.attempts
    assert (ended.end_step, ended.lost_steps) == (10, lost)
    assert draft.status.usage.gpu_seconds_lost == "0"


def test_a_deadline_that_went_by_in_waiting_says_what_was_waited_for() -> None:
    words = "No node can take pod demo-prepare-1-0-x. The scheduler says: 0/1 nodes."
    waiting = condition(
        ConditionType.DATA_READY,
        ConditionStatus.FALSE,
        Reason.UNSCHEDULABLE,
        words,
        generation=1,
        now=NOW,
    )
    status = FineTuneJobStatus(
        start_time=NOW,
        conditions=(waiting,),
        active=ActiveAttempt(
            number=1, stage=StageName.PREPARE, job_name="demo-prepare-1", start_time=NOW
        ),
    )
    job = make_job(runPolicy={"activeDeadlineSeconds": 60})
    seen = Observation(job=job.model_copy(update={"status": status}))
    decision = decide(seen, CONFIG, NOW + timedelta(seconds=61))
    failed = find(decision.status.conditions, ConditionType.FAILED)
    assert failed is not None
    assert failed.reason == Reason.DEADLINE_EXCEEDED
    assert "activeDeadlineSeconds (60 s)" in failed.message
    assert failed.message.endswith(words)


def test_an_attempt_whose_pods_are_gone_has_used_the_gpus_of_all_its_nodes() -> None:
    active = ActiveAttempt(
        number=2, stage=StageName.TRAIN, job_name="j", start_time=NOW, running_time=NOW
    )
    later = NOW + timedelta(seconds=10)
    draft = JobDraft(status=FineTuneJobStatus(active=active), generation=1, now=later)
    job = make_job(compute={"nodes": 3, "gpusPerNode": 2})
    record(draft, job, active, Ending(AttemptReason.EVICTED, "gone"), None)
    assert draft.status.usage.gpu_seconds == "60"
