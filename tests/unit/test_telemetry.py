"""What the operator counts of jobs and roll-outs: each once, however often it is written down."""

from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client import REGISTRY

from tunesmith_api.attempts import Attempt, AttemptReason, Counters, StageName
from tunesmith_api.deploymentstatus import (
    HistoryEntry,
    ModelDeploymentStatus,
    Outcome,
    RollbackReason,
    RollbackStatus,
)
from tunesmith_api.jobstatus import DisplayStage, FineTuneJobStatus
from tunesmith_operator.telemetry import note_attempts, note_rollouts, note_stages

NOW = datetime(2026, 11, 22, 4, tzinfo=UTC)
ROLLBACKS = ("tunesmith_rollbacks_total", {"reason": "AnalysisFailed"})
REJECTED = ("tunesmith_rollouts_total", {"outcome": "RolledBack"})
PROMOTED = ("tunesmith_rollouts_total", {"outcome": "Promoted"})
DETECTION = ("tunesmith_rollback_detection_seconds_sum", {})
RESTORATION = ("tunesmith_rollback_restoration_seconds_sum", {})
Sample = tuple[str, dict[str, str]]


def entry(number: int, outcome: Outcome) -> HistoryEntry:
    return HistoryEntry(
        revision=number,
        name=f"chat-{number}",
        digest=f"sha256:{number:064x}",
        outcome=outcome,
        start_time=NOW,
        completion_time=NOW + timedelta(minutes=number),
    )


def rollback(restored: int | None, minutes: int = 0) -> RollbackStatus:
    return RollbackStatus(
        from_revision=2,
        to_revision=1,
        digest=f"sha256:{2:064x}",
        reason=RollbackReason.ANALYSIS_FAILED,
        time=NOW + timedelta(minutes=minutes),
        detected_after_seconds=12,
        restored_after_milliseconds=restored,
    )


FIRST = ModelDeploymentStatus(history=(entry(1, Outcome.PROMOTED),))
BEGUN = ModelDeploymentStatus(
    history=(*FIRST.history, entry(2, Outcome.ROLLED_BACK)), last_rollback=rollback(None)
)
DONE = BEGUN.model_copy(update={"last_rollback": rollback(250)})
AGAIN = ModelDeploymentStatus(
    # Another roll-out of the revision takes the place of its former one.
    history=(entry(1, Outcome.PROMOTED), entry(3, Outcome.ROLLED_BACK)),
    last_rollback=rollback(250, minutes=5),
)


def added(before: ModelDeploymentStatus, now: ModelDeploymentStatus, *of: Sample) -> list[float]:
    """Give by how much a pass raised some samples."""
    start = [REGISTRY.get_sample_value(*sample) or 0.0 for sample in of]
    note_rollouts(before, now)
    values = (REGISTRY.get_sample_value(*sample) or 0.0 for sample in of)
    return [value - former for value, former in zip(values, start, strict=True)]


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        pytest.param(ModelDeploymentStatus(), FIRST, [1, 0, 0, 0, 0], id="a promotion"),
        pytest.param(FIRST, FIRST, [0, 0, 0, 0, 0], id="nothing new"),
        pytest.param(FIRST, BEGUN, [0, 1, 1, 12, 0], id="a rollback, its traffic still there"),
        pytest.param(BEGUN, DONE, [0, 0, 0, 0, 0.25], id="its traffic is gone"),
        pytest.param(DONE, DONE, [0, 0, 0, 0, 0], id="written again"),
        pytest.param(DONE, AGAIN, [0, 1, 1, 12, 0.25], id="another, over at once"),
    ],
)
def test_what_a_pass_wrote_down_is_counted_once(
    before: ModelDeploymentStatus, now: ModelDeploymentStatus, expected: list[float]
) -> None:
    found = added(before, now, PROMOTED, REJECTED, ROLLBACKS, DETECTION, RESTORATION)
    assert found == pytest.approx(expected)


def attempt(number: int, reason: AttemptReason, minutes: int = 1) -> Attempt:
    stage = StageName.PREPARE if number == 1 else StageName.TRAIN
    end = NOW + timedelta(minutes=minutes)
    return Attempt(number=number, stage=stage, reason=reason, start_time=NOW, completion_time=end)


def ended(*attempts: Attempt) -> FineTuneJobStatus:
    return FineTuneJobStatus(attempts=attempts, counters=Counters(attempts=attempts[-1].number))


PREPARED = ended(attempt(1, AttemptReason.SUCCEEDED))
EVICTED = ended(*PREPARED.attempts, attempt(2, AttemptReason.EVICTED, 30))
TRAINED = ended(*EVICTED.attempts[1:], attempt(3, AttemptReason.SUCCEEDED, 7))
ATTEMPTS = "tunesmith_attempts_total"
STAGE_SECONDS = "tunesmith_stage_seconds_sum"
OF_JOBS = (
    (ATTEMPTS, {"stage": "prepare", "reason": "Succeeded"}),
    (ATTEMPTS, {"stage": "train", "reason": "Evicted"}),
    (ATTEMPTS, {"stage": "train", "reason": "Succeeded"}),
    (STAGE_SECONDS, {"stage": "prepare"}),
    (STAGE_SECONDS, {"stage": "train"}),
)


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        pytest.param(FineTuneJobStatus(), PREPARED, [1, 0, 0, 60, 0], id="a success has a time"),
        pytest.param(PREPARED, PREPARED, [0, 0, 0, 0, 0], id="written again"),
        pytest.param(PREPARED, EVICTED, [0, 1, 0, 0, 0], id="a disruption is no stage's time"),
        pytest.param(EVICTED, TRAINED, [0, 0, 1, 0, 420], id="the oldest is not kept for ever"),
        pytest.param(FineTuneJobStatus(), EVICTED, [1, 1, 0, 60, 0], id="two in one pass"),
    ],
)
def test_an_attempt_that_a_pass_wrote_down_is_counted_once(
    before: FineTuneJobStatus, now: FineTuneJobStatus, expected: list[float]
) -> None:
    start = [REGISTRY.get_sample_value(*sample) or 0.0 for sample in OF_JOBS]
    note_attempts(before, now)
    values = [REGISTRY.get_sample_value(*sample) or 0.0 for sample in OF_JOBS]
    found = [value - former for value, former in zip(values, start, strict=True)]
    assert found == pytest.approx(expected)


def test_a_stage_that_no_job_is_in_has_none() -> None:
    note_stages({"Train": 3, "Pending": 1}, {})
    note_stages({"Train": 2}, {})
    values = {
        stage: REGISTRY.get_sample_value("tunesmith_finetunejobs", {"stage": stage})
        for stage in DisplayStage
    }
    assert values == dict.fromkeys(DisplayStage, 0.0) | {DisplayStage.TRAIN: 2.0}


def test_a_phase_that_nobody_is_in_has_none() -> None:
    note_stages({}, {"Stable": 2})
    note_stages({}, {"Stalled": 1})
    values = {
        phase: REGISTRY.get_sample_value("tunesmith_modeldeployments", {"phase": phase})
        for phase in ("Stable", "Stalled")
    }
    assert values == {"Stable": 0, "Stalled": 1}
