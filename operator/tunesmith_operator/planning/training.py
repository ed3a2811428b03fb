"""What comes next for a FineTuneJob: the whole of its life on one page.

    accepted? -> prepare -> train -> judge the gates -> make the version -> complete

A pure function of what was seen, the configuration and the time. The status is its only memory:
``active`` names the attempt in flight and is written after its Job exists, so an operator that
dies in between finds the Job by its derived name and takes it on.
"""

from dataclasses import replace
from datetime import datetime, timedelta

from tunesmith_api.attempts import ActiveAttempt, AttemptReason, StageName, StageTimes
from tunesmith_api.conditions import ConditionType, Reason
from tunesmith_api.jobstatus import DisplayStage
from tunesmith_api.meta import ConditionStatus
from tunesmith_operator.config import Config
from tunesmith_operator.planning.acceptance import objection
from tunesmith_operator.planning.actions import Decision, DeleteAttempt, StartAttempt
from tunesmith_operator.planning.baselines import choose_baselines
from tunesmith_operator.planning.causes import Ending, why_ended
from tunesmith_operator.planning.conditions import find
from tunesmith_operator.planning.draft import JobDraft
from tunesmith_operator.planning.endings import (
    backoff,
    condition_of,
    follow_up,
    record,
    stage_to_run,
    wind_up,
)
from tunesmith_operator.planning.monitoring import display_stage
from tunesmith_operator.planning.names import attempt_name, run_uri
from tunesmith_operator.planning.observed import Observation, SeenJob, SeenPod
from tunesmith_operator.planning.results import finish, prepared, trained
from tunesmith_operator.planning.runs import build_run, trainer_image
from tunesmith_operator.planning.watching import HINDRANCES, end_by_time, note_image, watch

_KEPT_JOBS = 3
_VERSION_LOOK = timedelta(minutes=1)


def decide(seen: Observation, config: Config, now: datetime) -> Decision:
    """Choose what comes next. Pure: the same input gives the same decision."""
    # Kubernetes times have whole seconds.
    draft = JobDraft(
        status=seen.job.status,
        generation=seen.job.metadata.generation,
        now=now.replace(microsecond=0),
    )
    if seen.job.metadata.deletion_timestamp is not None:
        return draft.decision()  # the garbage collector takes the children
    if _is_finished(draft):
        wind_up(draft, seen)
    else:
        if _accept(draft, seen, config):
            _advance(draft, seen, config)
        else:
            # What was accepted before, and is not any more, waits no longer than its deadline.
            _is_overdue(draft, seen)
        if _is_finished(draft):
            # Our own write of the status wakes nobody; what follows the end waits for the write.
            draft.look_again_in(timedelta())
    return draft.decision()


def _is_finished(draft: JobDraft) -> bool:
    return draft.holds(ConditionType.COMPLETE) or draft.holds(ConditionType.FAILED)


def _accept(draft: JobDraft, seen: Observation, config: Config) -> bool:
    """Look at the spec as long as nothing runs; the inputs of a run never change."""
    if draft.status.active is not None:
        return True
    # Of what is trained the results count, whatever would be said of a new run by now.
    wrong = None if draft.holds(ConditionType.TRAINED) else objection(seen, config)
    if wrong is not None:
        before = find(draft.status.conditions, ConditionType.ACCEPTED)
        if before is None or before.reason != wrong.reason:
            draft.emit("Warning", wrong.reason, wrong.message)
        draft.no(ConditionType.ACCEPTED, wrong.reason, wrong.message)
        if wrong.reason is Reason.VERSION_EXISTS:
            # All else that a spec is held against changes with the spec or a new operator.
            draft.look_again_in(_VERSION_LOOK)
        return False
    draft.yes(ConditionType.ACCEPTED, Reason.VALID_SPEC, "The spec can be run")
    if draft.status.start_time is None:
        resolved = draft.status.resolved.model_copy(
            update={"run_uri": run_uri(seen.job), "trainer_image": trainer_image(seen.job, config)}
        )
        draft.update(start_time=draft.now, resolved=resolved)
        for kind in (ConditionType.DATA_READY, ConditionType.TRAINED):
            draft.no(kind, Reason.WAITING, "Not started yet")
    return True


def _advance(draft: JobDraft, seen: Observation, config: Config) -> None:
    if _take_on(draft, seen):
        # Whatever happens to it next, its number must never be given again: write it down first.
        draft.look_again_in(timedelta())
        return
    active = draft.status.active
    if active is not None:
        attempt = next((a for a in seen.attempts if a.name == active.job_name), None)
        if attempt is not None:
            note_image(draft, attempt)
        # What has ended counts, also where nobody looked before the time was over.
        has_ended = attempt is not None and attempt.is_finished
        if not has_ended and _is_overdue(draft, seen):
            return
        if attempt is not None and not has_ended:
            watch(draft, seen, attempt, active)
            return
        _close(draft, seen, attempt, active)
    if _is_finished(draft):
        return
    if draft.holds(ConditionType.TRAINED):
        finish(draft, seen, seen.job)
    elif not _is_overdue(draft, seen):
        _next(draft, seen, config)


def _take_on(draft: JobDraft, seen: Observation) -> bool:
    """Adopt a Job that was created by an operator which died before it could say so.

    Returns whether there was one.
    """
    newest = max(seen.attempts, key=lambda a: a.attempt, default=None)
    active = draft.status.active
    known = active.number if active else draft.status.counters.attempts
    if newest is None or newest.attempt <= known:
        return False
    if active is not None:
        # The same pass had judged the attempt before it; that was not written down either.
        before = next((a for a in seen.attempts if a.name == active.job_name), None)
        _close(draft, seen, before, active)
    if not _is_finished(draft):
        _note_start(draft, newest.stage, newest.attempt, newest.name)
    return True


def _is_overdue(draft: JobDraft, seen: Observation) -> bool:
    limit = seen.job.spec.run_policy.active_deadline_seconds
    started = draft.status.start_time
    if limit == 0 or started is None:
        return False
    left = started + timedelta(seconds=limit) - draft.now
    if left > timedelta():
        draft.look_again_in(left)
        return False
    end_by_time(draft, seen, Reason.DEADLINE_EXCEEDED, _why_late(draft, seen, limit))
    return True


def _why_late(draft: JobDraft, seen: Observation, limit: int) -> str:
    """Name the limit, and what the job was waiting for if that is where the time went."""
    told = (
        f"The job took longer than runPolicy.activeDeadlineSeconds ({limit} s); raise it in a new"
        " job, or give that more compute"
    )
    active = draft.status.active
    # This very pass has accepted the spec anew; what the last one was refused is in what was seen.
    said = (
        find(draft.status.conditions, condition_of(active.stage))
        if active
        else find(seen.job.status.conditions, ConditionType.ACCEPTED)
    )
    is_hindrance = said is not None and (
        said.reason in HINDRANCES or (active is None and said.status is ConditionStatus.FALSE)
    )
    return f"{told}. {said.message}" if said and is_hindrance else told


def _close(
    draft: JobDraft, seen: Observation, attempt: SeenJob | None, active: ActiveAttempt
) -> None:
    """Say why the attempt in flight has ended and what that means."""
    if attempt is not None:
        ending = why_ended(attempt)
    else:
        ending = Ending(
            AttemptReason.EVICTED,
            f"Job {active.job_name} was deleted, or does not belong to the FineTuneJob any more",
        )
    asked = active.stop_reason
    if asked is not None and ending.reason is not AttemptReason.SUCCEEDED:
        ending = replace(ending, reason=asked, message=active.stop_message)
    record(draft, seen.job, active, ending, attempt)
    result = ending.result
    if ending.reason is not AttemptReason.SUCCEEDED or result is None:
        follow_up(draft, seen.job, active, ending)
    elif active.stage is StageName.PREPARE:
        prepared(draft, result)
    else:
        trained(draft, seen.job, result)


def _next(draft: JobDraft, seen: Observation, config: Config) -> None:
    """Nothing runs and there is more to do. Hold, wait, or start the next attempt."""
    if _is_held(draft, seen):
        return
    lingering = [p.name for p in _pods_alive(seen)]
    if lingering:
        # Two pods of one rank would write over each other's work: the old one must be gone first.
        stage = stage_to_run(draft)
        draft.no(
            condition_of(stage),
            Reason.STOPPING,
            f"Waiting for {', '.join(lingering[:3])} of an earlier attempt to end. If its node is"
            " lost, delete the node or the pod",
        )
        draft.look_again_in(timedelta(seconds=5))
        return
    attempts = draft.status.attempts
    wait = backoff(draft.status.counters, attempts[-1] if attempts else None, draft.now)
    if wait > timedelta():
        draft.look_again_in(wait)
        return
    _start(draft, seen, config)


def _pods_alive(seen: Observation) -> list[SeenPod]:
    pods = [p for a in seen.attempts for p in a.pods] + list(seen.stray_pods)
    return [p for p in pods if not p.is_gone and p.phase not in ("Succeeded", "Failed")]


def _is_held(draft: JobDraft, seen: Observation) -> bool:
    if seen.job.spec.suspend:
        saved = draft.status.checkpoint
        where = f"; it goes on from step {saved.step}" if saved else ""
        draft.yes(
            ConditionType.SUSPENDED,
            Reason.SUSPENDED_BY_USER,
            f"spec.suspend is true: no pods run{where}",
        )
        stage = condition_of(stage_to_run(draft))
        draft.no(stage, Reason.SUSPENDED_BY_USER, "Not running: spec.suspend is true")
        draft.update(stage=DisplayStage.SUSPENDED)
        return True
    if draft.holds(ConditionType.SUSPENDED):
        draft.no(ConditionType.SUSPENDED, Reason.RESUMED, "spec.suspend is false again")
        draft.emit("Normal", Reason.RESUMED, "The job goes on")
    return False


def _start(draft: JobDraft, seen: Observation, config: Config) -> None:
    draft.before_start = draft.status
    # Where the last try was refused and this one is not, the refusal is over.
    draft.yes(ConditionType.ACCEPTED, Reason.VALID_SPEC, "The spec can be run")
    stage = stage_to_run(draft)
    number = draft.status.counters.attempts + 1
    name = attempt_name(seen.job, stage, number)
    # build_run reads the counters, which this very pass may have changed.
    job = seen.job.model_copy(update={"status": draft.status})
    baselines = choose_baselines(seen) if stage is StageName.TRAIN else ()
    draft.act(StartAttempt(name, build_run(job, stage, number, config, baselines)))
    _note_start(draft, stage, number, name)
    for old in seen.attempts:
        if old.is_finished and not old.is_deleting and old.attempt <= number - _KEPT_JOBS:
            draft.act(DeleteAttempt(old.name, old.uid))


def _note_start(draft: JobDraft, stage: StageName, number: int, name: str) -> None:
    now = draft.now
    stages = draft.status.stages
    if all(s.name is not stage for s in stages):
        stages = (*stages, StageTimes(name=stage, start_time=now))
    else:
        stages = tuple(
            s.model_copy(update={"completion_time": None}) if s.name is stage else s for s in stages
        )
    draft.update(
        active=ActiveAttempt(number=number, stage=stage, job_name=name, start_time=now),
        stages=stages,
        progress=None,
        stage=display_stage(stage, None),
    )
    draft.no(condition_of(stage), Reason.STARTING, f"Attempt {number} is starting")
    draft.look_again_in(timedelta(seconds=5))
