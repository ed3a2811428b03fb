"""What follows from what a live attempt shows: go on, stop it, or end the job by time. Pure.

Called by ``training`` for the one attempt that is alive.
"""

import re
from datetime import timedelta

from tunesmith_api.attempts import ActiveAttempt, AttemptReason, StageName
from tunesmith_api.conditions import ConditionType, Reason
from tunesmith_api.jobstatus import DisplayStage
from tunesmith_operator.planning.actions import StopAttempt
from tunesmith_operator.planning.causes import Ending
from tunesmith_operator.planning.conditions import find
from tunesmith_operator.planning.draft import JobDraft
from tunesmith_operator.planning.endings import (
    condition_of,
    fail,
    record,
    stage_to_run,
    wind_up,
)
from tunesmith_operator.planning.monitoring import (
    checkpoint_status,
    current_progress,
    display_stage,
    overdue_stage,
    progress_status,
    reason_to_stop,
    standing,
)
from tunesmith_operator.planning.observed import Observation, SeenJob

_REPOSITORY_DIGEST = re.compile(r"@sha256:[0-9a-f]{64}$")
HINDRANCES = (
    Reason.UNSCHEDULABLE,
    Reason.IMAGE_PULL_FAILING,
    Reason.CONTAINER_NOT_STARTING,
    Reason.WAITING_FOR_QUOTA,
    Reason.CHILD_REFUSED,
)
"""What a job may wait for; said as an Event once, and named when time runs out."""
_LATE_STAGES = {DisplayStage.EVALUATE, DisplayStage.EXPORT}


def watch(draft: JobDraft, seen: Observation, attempt: SeenJob, active: ActiveAttempt) -> None:
    """Follow a live attempt; stop it where it must be stopped."""
    active = _note_running(draft, attempt, active)
    active = _note_checkpoints(draft, seen, attempt, active)
    _note_progress(draft, seen, attempt)
    if active.stop_reason is not None or attempt.is_deleting:
        if not attempt.is_deleting:
            draft.act(StopAttempt(attempt.name, attempt.uid))
        return
    if seen.job.spec.suspend:
        _stop(draft, attempt, active, AttemptReason.SUSPENDED, "spec.suspend was set")
        return
    late = overdue_stage(seen, attempt, draft.now)
    if late:
        end_by_time(draft, seen, Reason.STAGE_TIMEOUT, late)
        return
    stop = reason_to_stop(seen, attempt, draft.now)
    if stop is not None:
        _stop(draft, attempt, active, stop.reason, stop.message)
        return
    _note_standing(draft, seen, attempt)


def end_by_time(draft: JobDraft, seen: Observation, reason: Reason, message: str) -> None:
    """Fail at once; what still runs is stopped from here on, however long that takes."""
    active = draft.status.active
    if active is not None:
        attempt = next((a for a in seen.attempts if a.name == active.job_name), None)
        record(draft, seen.job, active, Ending(AttemptReason.DEADLINE_EXCEEDED, message), attempt)
    fail(draft, reason, message, active.stage if active else stage_to_run(draft))
    wind_up(draft, seen)


def note_image(draft: JobDraft, attempt: SeenJob) -> None:
    """Write down which image the newest attempt's pods have: a tag may have moved since.

    An image that was loaded into the node, not pulled, has no digest that a registry knows.
    """
    digests = (_REPOSITORY_DIGEST.search(pod.image_id) for pod in attempt.pods)
    digest = next((found[0] for found in digests if found), "")
    resolved = draft.status.resolved
    image = attempt.image.partition("@")[0] + digest
    if digest and image != resolved.trainer_image:
        draft.update(resolved=resolved.model_copy(update={"trainer_image": image}))


def _stop(
    draft: JobDraft, attempt: SeenJob, active: ActiveAttempt, reason: AttemptReason, message: str
) -> None:
    draft.act(StopAttempt(attempt.name, attempt.uid))
    draft.update(
        active=active.model_copy(update={"stop_reason": reason, "stop_message": message[:1024]})
    )
    draft.no(condition_of(active.stage), Reason.STOPPING, f"Stopping the attempt: {message}")


def _note_running(draft: JobDraft, attempt: SeenJob, active: ActiveAttempt) -> ActiveAttempt:
    """Write down when the pods began: a Job that is stopped takes them with it."""
    started = min((p.started for p in attempt.pods if p.started is not None), default=None)
    if active.running_time is None and started is not None:
        active = active.model_copy(update={"running_time": started})
        draft.update(active=active)
    return active


def _note_checkpoints(
    draft: JobDraft, seen: Observation, attempt: SeenJob, active: ActiveAttempt
) -> ActiveAttempt:
    """Tell of checkpoints that were passed over, once: the status remembers what was told."""
    progress = current_progress(seen, attempt)
    notes = tuple(note[:1024] for note in progress.notes[:8]) if progress else ()
    if not notes or notes == active.notes:
        return active
    for note in notes:
        draft.emit("Warning", "CheckpointPassedOver", f"Attempt {active.number}: {note}")
    active = active.model_copy(update={"notes": notes})
    draft.update(active=active)
    return active


def _note_progress(draft: JobDraft, seen: Observation, attempt: SeenJob) -> None:
    progress = current_progress(seen, attempt)
    # A trainer at its end answers no more; its last word stands.
    if progress is not None or draft.status.stage not in _LATE_STAGES:
        draft.update(stage=display_stage(attempt.stage, progress))
    if progress is not None:
        draft.update(
            progress=progress_status(progress, draft.now),
            metrics=progress.metrics[:32],
            checkpoint=checkpoint_status(progress) or draft.status.checkpoint,
        )


def _note_standing(draft: JobDraft, seen: Observation, attempt: SeenJob) -> None:
    now_is = standing(seen, attempt, draft.now)
    kind = condition_of(attempt.stage)
    before = find(draft.status.conditions, kind)
    draft.no(kind, now_is.reason, now_is.message)
    if now_is.reason in HINDRANCES:
        draft.update(stage=DisplayStage.PENDING)
        if before is None or before.reason != now_is.reason:
            draft.emit("Warning", now_is.reason, now_is.message)
    _note_quota(draft, attempt, now_is.message)
    # Pods announce changes by themselves; what they wait for, and their progress, must be asked.
    draft.look_again_in(timedelta(seconds=5))


def _note_quota(draft: JobDraft, attempt: SeenJob, why: str) -> None:
    if attempt.stage is not StageName.TRAIN:
        return  # preparation goes through no queue
    if attempt.is_suspended:
        draft.no(ConditionType.QUOTA_RESERVED, Reason.WAITING_FOR_QUOTA, why)
    elif find(draft.status.conditions, ConditionType.QUOTA_RESERVED) is not None:
        draft.yes(ConditionType.QUOTA_RESERVED, Reason.ADMITTED, "Kueue has admitted the pods")
