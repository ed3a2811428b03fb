"""Why an attempt ended: facts of Kubernetes in, one cause out."""

from datetime import UTC, datetime
from typing import Any

import pytest

from tunesmith_api.attempts import AttemptReason, StageName
from tunesmith_api.jobstatus import ArtifactStatus
from tunesmith_api.result import Outcome, TrainerResult
from tunesmith_operator.planning.causes import why_ended
from tunesmith_operator.planning.observed import SeenJob, SeenPod

DIGEST = "sha256:" + "0" * 64
MERGED = ArtifactStatus(name="Merged", uri="s3://bucket/m/", digest=DIGEST, size_bytes=1)


def pod(**facts: Any) -> SeenPod:
    return SeenPod(name="p", uid="p", job_uid="j", phase="Failed", **facts)


def job(*pods: SeenPod, complete: bool = False, **facts: Any) -> SeenJob:
    return SeenJob(
        name="j",
        uid="j",
        owner_uid="o",
        stage=StageName.TRAIN,
        attempt=2,
        created=datetime(2026, 1, 1, tzinfo=UTC),
        is_complete=complete,
        is_failed=not complete,
        pods=pods,
        **facts,
    )


def said(outcome: Outcome, reason: str = "R", **more: Any) -> str:
    facts = {"stage": "train", "attempt": 2, **more}
    return TrainerResult(outcome=outcome, reason=reason, message="m", **facts).model_dump_json(
        by_alias=True
    )


def succeeded(**more: Any) -> str:
    facts = {"report_digest": DIGEST, "artifacts": (MERGED,), **more}
    return said(Outcome.SUCCEEDED, "Trained", **facts)


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        pytest.param(
            job(pod(exit_code=0, termination_message=succeeded()), complete=True),
            AttemptReason.SUCCEEDED,
            id="a result with report and artifacts is success",
        ),
        pytest.param(
            job(pod(exit_code=0), complete=True),
            AttemptReason.INFRASTRUCTURE,
            id="exit code 0 without a result is not success",
        ),
        pytest.param(
            job(pod(exit_code=0, termination_message=succeeded(report_digest=None)), complete=True),
            AttemptReason.INFRASTRUCTURE,
            id="a success without report is none",
        ),
        pytest.param(
            job(pod(exit_code=0, termination_message=succeeded(attempt=1)), complete=True),
            AttemptReason.INFRASTRUCTURE,
            id="another attempt's success is not ours",
        ),
        pytest.param(
            job(pod(exit_code=65, termination_message=said(Outcome.USER_ERROR))),
            AttemptReason.USER_ERROR,
            id="the trainer's word counts",
        ),
        pytest.param(
            job(pod(exit_code=75, termination_message=said(Outcome.CHECKPOINTED))),
            AttemptReason.EVICTED,
            id="a SIGTERM that we did not send is a disruption",
        ),
        pytest.param(
            job(pod(exit_code=137, exit_reason="OOMKilled")),
            AttemptReason.OUT_OF_MEMORY,
            id="killed at its own memory limit",
        ),
        pytest.param(
            job(pod(exit_code=137, exit_reason="OOMKilled", status_reason="Evicted")),
            AttemptReason.EVICTED,
            id="evicted because the node ran out of memory",
        ),
        pytest.param(
            job(pod(disruption="PreemptionByScheduler")), AttemptReason.EVICTED, id="preempted"
        ),
        pytest.param(
            job(pod(exit_code=137, is_gone=True)),
            AttemptReason.EVICTED,
            id="killed after somebody deleted the pod",
        ),
        pytest.param(job(), AttemptReason.EVICTED, id="no pod left at all"),
        pytest.param(job(pod(exit_code=1)), AttemptReason.INFRASTRUCTURE, id="a plain crash"),
        pytest.param(
            job(failure_reason="DeadlineExceeded"),
            AttemptReason.DEADLINE_EXCEEDED,
            id="the Job's own deadline",
        ),
        pytest.param(
            job(pod(exit_code=1), pod(disruption="TerminationByKubelet")),
            AttemptReason.EVICTED,
            id="one rank was evicted and the others lost their peer",
        ),
        pytest.param(
            job(
                pod(exit_code=1, termination_message="{broken"),
                pod(exit_code=65, termination_message=said(Outcome.USER_ERROR)),
                pod(disruption="x"),
            ),
            AttemptReason.USER_ERROR,
            id="a user error on one rank explains all others",
        ),
    ],
)
def test_the_cause(seen: SeenJob, reason: AttemptReason) -> None:
    ending = why_ended(seen)
    assert ending.reason is reason
    assert ending.message


def test_a_rank_that_was_done_does_not_hide_why_another_was_not() -> None:
    done = pod(exit_code=0, termination_message=succeeded())
    ending = why_ended(job(done, pod(exit_code=1)))
    assert ending.reason is AttemptReason.INFRASTRUCTURE
    assert "ended with exit code 1" in ending.message
    assert "its Job has failed" in why_ended(job(done)).message
