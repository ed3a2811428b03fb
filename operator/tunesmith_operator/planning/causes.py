"""Why an attempt ended, from what was seen of its Job and pods. Pure; called by decide.

The trainer's own word (its result in the termination message) comes first. Where several pods
train together one sick rank takes the others with it, so the most telling pod counts, not the
first: a user error beats out of memory beats a disruption beats a broken connection.
"""

from dataclasses import dataclass

from pydantic import ValidationError

from tunesmith_api.attempts import AttemptReason
from tunesmith_api.result import Outcome, TrainerResult
from tunesmith_operator.planning.observed import SeenJob, SeenPod

_KILLED = 137
_NODE_REASONS = {"Evicted", "NodeLost", "NodeShutdown", "Shutdown", "Terminated", "Preempting"}


@dataclass(frozen=True, slots=True)
class Ending:
    """Why an attempt ended."""

    reason: AttemptReason
    message: str
    detail: str = ""
    """The trainer's own reason, for the condition: a UserErrorReason."""
    exit_code: int | None = None
    result: TrainerResult | None = None


_RANKING = (
    AttemptReason.USER_ERROR,
    AttemptReason.OUT_OF_MEMORY,
    AttemptReason.EVICTED,
    AttemptReason.DEADLINE_EXCEEDED,
    AttemptReason.INFRASTRUCTURE,
)

_OUTCOMES = {
    Outcome.CHECKPOINTED: AttemptReason.EVICTED,
    Outcome.USER_ERROR: AttemptReason.USER_ERROR,
    Outcome.OUT_OF_MEMORY: AttemptReason.OUT_OF_MEMORY,
    Outcome.INFRASTRUCTURE: AttemptReason.INFRASTRUCTURE,
    # A result that claims success from a Job that failed was written before something broke.
    Outcome.SUCCEEDED: AttemptReason.INFRASTRUCTURE,
}


def parse_result(pod: SeenPod, job: SeenJob) -> TrainerResult | None:
    """Give the trainer's result, or None where there is none of this attempt."""
    try:
        result = TrainerResult.model_validate_json(pod.termination_message)
    except ValidationError:
        return None
    return result if (result.stage, result.attempt) == (job.stage, job.attempt) else None


def why_ended(job: SeenJob) -> Ending:
    """Say why the finished attempt ``job`` ended."""
    results = [r for r in (parse_result(pod, job) for pod in job.pods) if r is not None]
    success = next((r for r in results if _is_success(r)), None)
    if job.is_complete and success is not None:
        return Ending(AttemptReason.SUCCEEDED, success.message, success.reason, 0, success)
    if job.is_complete:
        # Exit code 0 is not success: a trainer that traps SIGTERM may end with it as well.
        return Ending(
            AttemptReason.INFRASTRUCTURE,
            "the pod ended with exit code 0 but left no result; the attempt counts as failed",
            exit_code=0,
        )
    if job.failure_reason == "DeadlineExceeded":
        return Ending(AttemptReason.DEADLINE_EXCEEDED, "the Job's deadline is over")
    endings = [_why_pod_ended(pod, job) for pod in job.pods]
    if not endings:
        # A pod leaves a result or a status behind; nothing at all is left only by a lost node
        # or by somebody who deleted it.
        return Ending(AttemptReason.EVICTED, "its pods are gone without a trace")
    return min(endings, key=_tells_less)


def _tells_less(ending: Ending) -> tuple[int, bool]:
    """Order endings; of two alike, that of a pod which had done its work says nothing."""
    result = ending.result
    was_done = result is not None and result.outcome is Outcome.SUCCEEDED
    return _RANKING.index(ending.reason), was_done


def _is_success(result: TrainerResult) -> bool:
    if result.outcome is not Outcome.SUCCEEDED:
        return False
    # A custom image may claim anything: without a report and artifacts in S3 nothing was made.
    is_made = result.artifacts and all(a.uri.startswith("s3://") for a in result.artifacts)
    return result.stage == "prepare" or bool(result.report_digest and is_made)


def _why_pod_ended(pod: SeenPod, job: SeenJob) -> Ending:
    result = parse_result(pod, job)
    if result is not None:
        is_in_vain = result.outcome is Outcome.SUCCEEDED
        told = f"pod {pod.name} was done, but its Job has failed" if is_in_vain else result.message
        return Ending(_OUTCOMES[result.outcome], told, result.reason, pod.exit_code, result)
    if pod.disruption or pod.status_reason in _NODE_REASONS:
        why = pod.disruption or pod.status_reason
        return Ending(
            AttemptReason.EVICTED, f"pod {pod.name} was disrupted: {why}", exit_code=pod.exit_code
        )
    if pod.exit_reason == "OOMKilled":
        return Ending(
            AttemptReason.OUT_OF_MEMORY,
            f"pod {pod.name} went over its memory limit",
            exit_code=pod.exit_code,
        )
    if pod.is_terminating or pod.is_gone:
        return Ending(AttemptReason.EVICTED, f"pod {pod.name} was deleted", exit_code=pod.exit_code)
    if pod.exit_code is None:
        return Ending(AttemptReason.INFRASTRUCTURE, f"pod {pod.name} never ran to its end")
    killed = " (killed)" if pod.exit_code == _KILLED else ""
    return Ending(
        AttemptReason.INFRASTRUCTURE,
        f"pod {pod.name} ended with exit code {pod.exit_code}{killed} and without a result;"
        f" see kubectl logs {pod.name}",
        exit_code=pod.exit_code,
    )
