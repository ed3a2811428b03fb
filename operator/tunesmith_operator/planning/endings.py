"""What the end of an attempt means for the job: budgets, another attempt, or the job's own end.

Pure; called by decide. Every way to a terminal condition is in this module.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from tunesmith_api.attempts import (
    ActiveAttempt,
    Attempt,
    AttemptReason,
    Counters,
    StageName,
    StageTimes,
)
from tunesmith_api.compute import OnOutOfMemory
from tunesmith_api.conditions import ConditionType, Reason
from tunesmith_api.finetunejob import FineTuneJob
from tunesmith_api.jobstatus import CheckpointStatus, DisplayStage, Usage
from tunesmith_api.result import PREPARED_DATA_LOST, TrainerResult
from tunesmith_operator.planning.actions import DeleteSelf, StopAttempt
from tunesmith_operator.planning.causes import Ending
from tunesmith_operator.planning.draft import JobDraft
from tunesmith_operator.planning.observed import Observation, SeenJob

_KEPT_ATTEMPTS = 10
_FIRST_BACKOFF = timedelta(seconds=10)
_LONGEST_BACKOFF = timedelta(minutes=5)
_COUNTED_AS_FAILURE = {
    AttemptReason.IMAGE_PULL,
    AttemptReason.INFRASTRUCTURE,
    AttemptReason.STALLED,
}


@dataclass(frozen=True, slots=True)
class _Budget:
    """How often something may happen before the job ends, this time included."""

    spent: int
    counters: Counters
    """The status's, with this time counted."""
    limit: int
    what: str
    setting: str
    reason: Reason


def _disruptions(job: FineTuneJob, counters: Counters) -> _Budget:
    spent = counters.disruptions + 1
    return _Budget(
        spent,
        counters.model_copy(update={"disruptions": spent}),
        job.spec.run_policy.disruption_limit,
        "Attempts that were disrupted",
        "runPolicy.disruptionLimit",
        Reason.DISRUPTION_LIMIT_EXCEEDED,
    )


def _failures(job: FineTuneJob, counters: Counters) -> _Budget:
    spent = counters.failures + 1
    return _Budget(
        spent,
        counters.model_copy(update={"failures": spent}),
        job.spec.run_policy.backoff_limit,
        "Attempts that have failed",
        "runPolicy.backoffLimit",
        Reason.BACKOFF_LIMIT_EXCEEDED,
    )


def record(
    draft: JobDraft, job: FineTuneJob, active: ActiveAttempt, ending: Ending, seen: SeenJob | None
) -> None:
    """Write down how the active attempt ended; there is none active afterwards."""
    step = ending.result.step if ending.result else _last_step(draft)
    saved = _saved_step(draft, ending.result)
    succeeded = ending.reason is AttemptReason.SUCCEEDED
    entry = Attempt(
        number=active.number,
        stage=active.stage,
        reason=ending.reason,
        message=ending.message[:1024],
        start_time=active.start_time,
        completion_time=draft.now,
        start_step=_start_step(draft, ending.result),
        end_step=step,
        lost_steps=0 if succeeded else max(0, step - saved),
        exit_code=ending.exit_code,
    )
    counters = draft.status.counters
    draft.update(
        active=None,
        attempts=(*draft.status.attempts, entry)[-_KEPT_ATTEMPTS:],
        counters=counters.model_copy(update={"attempts": active.number}),
        usage=_usage(draft.status.usage, entry, _gpu_seconds(draft, job, active, seen)),
        stages=_with_end(draft.status.stages, active, draft.now),
    )
    if ending.result and ending.result.checkpoint:
        ref = ending.result.checkpoint
        draft.update(
            checkpoint=CheckpointStatus(
                step=ref.step,
                uri=ref.uri,
                time=ref.time,
                resumed_from_step=ending.result.resumed_from_step,
            )
        )


def follow_up(draft: JobDraft, job: FineTuneJob, active: ActiveAttempt, ending: Ending) -> None:
    """Decide whether an attempt that did not succeed is followed by another one."""
    draft.emit(
        "Warning" if ending.reason is not AttemptReason.SUSPENDED else "Normal",
        f"Attempt{ending.reason}",
        f"Attempt {active.number} ({active.stage}) ended: {ending.message}",
    )
    match ending.reason:
        case AttemptReason.USER_ERROR:
            fail(draft, ending.detail or Reason.INVALID_SPEC, ending.message, active.stage)
        case AttemptReason.DEADLINE_EXCEEDED:
            fail(draft, Reason.DEADLINE_EXCEEDED, ending.message, active.stage)
        case AttemptReason.OUT_OF_MEMORY:
            _out_of_memory(draft, job, active, ending)
        case AttemptReason.EVICTED:
            _spend(draft, active, ending, _disruptions(job, draft.status.counters))
        case AttemptReason.SUSPENDED | AttemptReason.SUCCEEDED:
            pass
        case _:
            if ending.detail == PREPARED_DATA_LOST:
                lost = "The prepared data is gone from S3; it is made again from the sources"
                draft.no(ConditionType.DATA_READY, Reason.RETRYING, lost)
            _spend(draft, active, ending, _failures(job, draft.status.counters))


def _out_of_memory(
    draft: JobDraft, job: FineTuneJob, active: ActiveAttempt, ending: Ending
) -> None:
    counters = draft.status.counters
    policy = job.spec.compute.on_out_of_memory
    given = job.spec.hyperparameters
    may_halve = active.stage is StageName.TRAIN and policy is OnOutOfMemory.HALVE_BATCH
    if not may_halve or counters.batch_halvings or given.per_device_batch_size == 1:
        message = (
            f"{ending.message}. Raise compute.resources.limits.memory, take a GPU with more"
            " memory, or lower perDeviceBatchSize or maxSequenceLength"
        )
        fail(draft, AttemptReason.OUT_OF_MEMORY, message, active.stage)
        return
    halved = given.halved()
    said = (
        f"The next attempt takes {halved.per_device_batch_size} rows at once instead of"
        f" {given.per_device_batch_size}, {halved.gradient_accumulation_steps} times a step"
    )
    # Events are gone after an hour, and nothing else in the status names the numbers.
    *before, last = draft.status.attempts
    noted = last.model_copy(update={"message": f"{last.message[:700].rstrip('.')}. {said}"})
    counted = counters.model_copy(update={"batch_halvings": 1})
    draft.update(counters=counted, attempts=(*before, noted))
    draft.emit("Normal", "BatchHalved", said)
    _retry(draft, active, ending)


def _spend(draft: JobDraft, active: ActiveAttempt, ending: Ending, budget: _Budget) -> None:
    """Count the attempt against a budget: another one follows, or the job ends."""
    draft.update(counters=budget.counters)
    if budget.spent > budget.limit:
        message = f"{budget.what}: {budget.spent} ({budget.setting} {budget.limit}). Last: "
        fail(draft, budget.reason, message + ending.message, active.stage)
        return
    _retry(draft, active, ending)


def _retry(draft: JobDraft, active: ActiveAttempt, ending: Ending) -> None:
    draft.no(
        condition_of(active.stage),
        Reason.RETRYING,
        f"Attempt {active.number} ended ({ending.reason}): {ending.message}. Another one follows",
    )


def backoff(counters: Counters, last: Attempt | None, now: datetime) -> timedelta:
    """Give how long the next attempt must still wait.

    Failures double the wait, so that a broken dependency is not hammered. A disruption waits for
    nothing: the checkpoint is there and the time is the user's.
    """
    if last is None or last.completion_time is None or last.reason not in _COUNTED_AS_FAILURE:
        return timedelta()
    doublings = min(max(counters.failures - 1, 0), 10)
    pause = min(_FIRST_BACKOFF * (1 << doublings), _LONGEST_BACKOFF)
    return max(timedelta(), last.completion_time + pause - now)


def fail(draft: JobDraft, reason: str, message: str, stage: StageName | None) -> None:
    """End the job without a version."""
    if stage is not None:
        draft.no(condition_of(stage), reason, message)
    if draft.holds(ConditionType.SUSPENDED):
        draft.no(ConditionType.SUSPENDED, reason, "The job has ended")
    draft.yes(ConditionType.FAILED, reason, message)
    draft.update(
        stage=DisplayStage.FAILED,
        completion_time=draft.now,
        active=None,
    )
    draft.emit("Warning", "Failed", message)


def complete(draft: JobDraft, message: str) -> None:
    """End the job with its version."""
    draft.yes(ConditionType.COMPLETE, Reason.VERSION_CREATED, message)
    draft.update(stage=DisplayStage.COMPLETE, completion_time=draft.now)
    draft.emit("Normal", "Complete", message)


def wind_up(draft: JobDraft, seen: Observation) -> None:
    """Stop what is left and expire; a finished job makes nothing any more."""
    for attempt in seen.attempts:
        if not attempt.is_finished and not attempt.is_deleting:
            draft.act(StopAttempt(attempt.name, attempt.uid))
    ttl = seen.job.spec.run_policy.ttl_seconds_after_finished
    ended = draft.status.completion_time
    if ttl is None or ended is None:
        return
    left = ended + timedelta(seconds=ttl) - draft.now
    if left > timedelta():
        draft.look_again_in(left)
    else:
        draft.act(DeleteSelf(seen.job.metadata.uid))


def stage_to_run(draft: JobDraft) -> StageName:
    """The stage that comes next; meaningless once training is done."""
    ready = draft.holds(ConditionType.DATA_READY)
    return StageName.TRAIN if ready else StageName.PREPARE


def condition_of(stage: StageName) -> ConditionType:
    """The condition that a stage is about."""
    return ConditionType.DATA_READY if stage is StageName.PREPARE else ConditionType.TRAINED


def _last_step(draft: JobDraft) -> int:
    return draft.status.progress.step if draft.status.progress else 0


def _saved_step(draft: JobDraft, result: TrainerResult | None) -> int:
    known = draft.status.checkpoint.step if draft.status.checkpoint else 0
    return result.checkpoint.step if result and result.checkpoint else known


def _start_step(draft: JobDraft, result: TrainerResult | None) -> int:
    if result is not None:
        return result.resumed_from_step or 0
    known = draft.status.checkpoint
    return (known.resumed_from_step or 0) if known else 0


def _gpu_seconds(
    draft: JobDraft, job: FineTuneJob, active: ActiveAttempt, seen: SeenJob | None
) -> int:
    """Count what an attempt's pods have used; of one that was stopped there are none left."""
    compute = job.spec.compute
    gpus = compute.gpus_per_node if active.stage is StageName.TRAIN else 0
    spans = [(pod.started, pod.finished) for pod in seen.pods] if seen else []
    if not spans:
        spans = [(active.running_time, None)] * compute.nodes
    ran = [(end or draft.now) - start for start, end in spans if start is not None]
    return sum(gpus * max(0, round(span.total_seconds())) for span in ran)


def _usage(before: Usage, ended: Attempt, spent: int) -> Usage:
    lost = 0 if ended.reason is AttemptReason.SUCCEEDED else _lost(ended, spent)
    return Usage(
        gpu_seconds=str(Decimal(before.gpu_seconds) + spent),
        gpu_seconds_lost=str(Decimal(before.gpu_seconds_lost) + lost),
    )


def _lost(ended: Attempt, spent: int) -> int:
    """Give the part of the time for which there is no checkpoint, by steps.

    Starting is no step, so an attempt that made none has only cost time. Steps before it began are
    not its own: where its own checkpoint and an older one are lost, it has lost no more than all.
    """
    made = ended.end_step - ended.start_step
    return spent if made <= 0 else min(spent, round(spent * ended.lost_steps / made))


def _with_end(
    stages: tuple[StageTimes, ...], active: ActiveAttempt, now: datetime
) -> tuple[StageTimes, ...]:
    return tuple(
        s.model_copy(update={"completion_time": now}) if s.name is active.stage else s
        for s in stages
    )
