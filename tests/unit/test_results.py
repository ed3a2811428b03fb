"""What the status of a FineTuneJob says at its end."""

from datetime import UTC, datetime, timedelta

from tests.unit.jobs import CONFIG, make_job
from tunesmith_api.attempts import ActiveAttempt, AttemptReason, StageName
from tunesmith_api.conditions import ConditionType, Reason
from tunesmith_api.jobstatus import FineTuneJobStatus, ProgressStatus
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
