"""What a live attempt's pods and trainer say: progress, what it waits for, whether to stop it.

Pure; called by decide for the one attempt that is alive.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from tunesmith_api.attempts import AttemptReason, StageName
from tunesmith_api.conditions import Reason
from tunesmith_api.finetunejob import FineTuneJob
from tunesmith_api.jobstatus import CheckpointStatus, DisplayStage, ProgressStatus
from tunesmith_api.result import Phase, TrainerProgress
from tunesmith_operator.planning.observed import Observation, SeenJob, SeenPod
from tunesmith_operator.planning.starting import QUIET_REASONS, is_overdue

_PULL_REASONS = {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"}
_START_PATIENCE = timedelta(seconds=120)
# The Job controller makes pods within a second; watches may be some seconds late.
_POD_PATIENCE = timedelta(seconds=15)
_CHECK_IMAGE = "check compute.image or the chart's trainer image, and the pull secrets"
_QUOTA_IS_FULL = "exceeded quota"
_EXPORT_PHASES = {Phase.EXPORTING, Phase.UPLOADING}


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a live attempt stands, as a condition says it."""

    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class Stop:
    """Why a live attempt must be stopped."""

    reason: AttemptReason
    message: str


def lacks_pods(attempt: SeenJob, now: datetime) -> bool:
    """Whether the Job controller has had the time to make all pods of an attempt and has not.

    A Job says nothing of it: only its Events do.
    """
    is_waiting = attempt.is_suspended or attempt.is_deleting or attempt.is_finished
    if is_waiting or attempt.started is None or len(attempt.pods) >= attempt.parallelism:
        return False
    return now - attempt.started >= _POD_PATIENCE


def slow_pod(attempt: SeenJob, now: datetime) -> SeenPod | None:
    """Give a pod that its node has had the time to start and has not.

    Its status says ContainerCreating, whatever is wrong: only its Events tell.
    """
    for pod in attempt.pods:
        is_placed = pod.phase == "Pending" and pod.node and not pod.is_gone
        is_quiet = pod.waiting_reason in QUIET_REASONS
        if is_placed and is_quiet and is_overdue(pod.created, now):
            return pod
    return None


def standing(seen: Observation, attempt: SeenJob, now: datetime) -> Standing:
    """Say what a live attempt does or waits for."""
    if attempt.is_suspended:
        return Standing(
            Reason.WAITING_FOR_QUOTA,
            f"Job {attempt.name} is suspended: Kueue has not admitted it yet, or, where there is no"
            " Kueue, somebody has set its spec.suspend",
        )
    if lacks_pods(attempt, now):
        is_full = _QUOTA_IS_FULL in seen.pods_refused
        reason = Reason.WAITING_FOR_QUOTA if is_full else Reason.CONTAINER_NOT_STARTING
        return Standing(reason, _why_unmade(seen, attempt))
    slow = slow_pod(attempt, now)
    if slow is not None and seen.pod_hindered:
        message = f"Pod {slow.name} does not start: {seen.pod_hindered}"
        return Standing(Reason.CONTAINER_NOT_STARTING, message)
    return _standing_of_pods(attempt, seen.job)


def _why_unmade(seen: Observation, attempt: SeenJob) -> str:
    missing = attempt.parallelism - len(attempt.pods)
    told = f"{missing} of {attempt.parallelism} pod(s) of Job {attempt.name} cannot be made: "
    if not seen.pods_refused:
        # Not for how long: a condition that counts seconds is written every time.
        return (
            f"{told}no Event says why. kubectl describe job {attempt.name} may tell of a quota, a"
            " policy, a priority class or a service account"
        )
    advice = (
        "They are made as soon as others give up enough of it, or it is raised"
        if _QUOTA_IS_FULL in seen.pods_refused
        else "Create what it names, change the policy, or name another in a new job"
    )
    return f"{told}{seen.pods_refused.rstrip('.')}. {advice}"


def _standing_of_pods(attempt: SeenJob, job: FineTuneJob) -> Standing:
    pods = [p for p in attempt.pods if not p.is_gone]
    for pod in pods:
        if pod.unschedulable:
            return Standing(
                Reason.UNSCHEDULABLE,
                f"No node can take pod {pod.name}{_wanted(job, attempt)}. The scheduler says:"
                f" {pod.unschedulable.rstrip('.')}. {_what_would_fit(job, attempt)}",
            )
    for pod in pods:
        if pod.waiting_reason in _PULL_REASONS:
            return Standing(
                Reason.IMAGE_PULL_FAILING,
                f"Image {attempt.image} cannot be pulled: {_waits_for(pod)}; {_CHECK_IMAGE}",
            )
        if pod.waiting_reason not in QUIET_REASONS:
            return Standing(
                Reason.CONTAINER_NOT_STARTING,
                f"Pod {pod.name} does not start: {_waits_for(pod)}",
            )
    if pods and all(p.phase == "Running" for p in pods):
        return Standing(Reason.RUNNING, f"Attempt {attempt.attempt} is running")
    return Standing(Reason.STARTING, f"Attempt {attempt.attempt} is starting")


def _waits_for(pod: SeenPod) -> str:
    return f"{pod.waiting_reason} {pod.waiting_message}".strip()


def _wanted(job: FineTuneJob, attempt: SeenJob) -> str:
    compute = job.spec.compute
    if attempt.stage is not StageName.TRAIN or not compute.gpus_per_node:
        return ""
    kind = f" of type {compute.gpu_type}" if compute.gpu_type else ""
    return f", which wants {compute.gpus_per_node} GPU(s){kind}"


def _what_would_fit(job: FineTuneJob, attempt: SeenJob) -> str:
    if attempt.stage is not StageName.TRAIN:
        return "It waits for one: add a node, or lower the chart's prepareResources"
    asked = "gpusPerNode, gpuType" if job.spec.compute.gpus_per_node else "resources"
    return (
        "It waits for one: add or free such a node, or create a job that asks for something else"
        f" ({asked}, nodeSelector or tolerations of compute)"
    )


def reason_to_stop(seen: Observation, attempt: SeenJob, now: datetime) -> Stop | None:
    """Say why the attempt must be replaced, or None. Time limits are decided elsewhere."""
    for pod in attempt.pods:
        if pod.is_gone or pod.created is None:
            continue
        if now - pod.created < _START_PATIENCE and pod.waiting_reason != "InvalidImageName":
            continue
        if pod.waiting_reason in _PULL_REASONS:
            return Stop(
                AttemptReason.IMAGE_PULL,
                f"image {attempt.image} cannot be pulled: {_waits_for(pod)}; {_CHECK_IMAGE}",
            )
        if pod.waiting_reason not in QUIET_REASONS:
            return Stop(
                AttemptReason.INFRASTRUCTURE,
                f"pod {pod.name} does not start: {_waits_for(pod)}",
            )
    return _unmade(seen, attempt, now) or _stalled(seen, attempt)


def _unmade(seen: Observation, attempt: SeenJob, now: datetime) -> Stop | None:
    """Give up on pods that cannot be made; a used-up quota is waited for, like a full node."""
    if not lacks_pods(attempt, now) or _QUOTA_IS_FULL in seen.pods_refused:
        return None
    if attempt.started is None or now - attempt.started < _START_PATIENCE:
        return None
    return Stop(AttemptReason.INFRASTRUCTURE, _why_unmade(seen, attempt))


def _stalled(seen: Observation, attempt: SeenJob) -> Stop | None:
    limit = timedelta(seconds=seen.job.spec.run_policy.stall_timeout_seconds)
    progress = current_progress(seen, attempt)
    idle = timedelta(seconds=progress.seconds_since_progress) if progress else seen.unanswered
    if idle < limit:
        return None
    return Stop(
        AttemptReason.STALLED,
        f"the trainer got no further for {short(idle)}"
        f" (runPolicy.stallTimeoutSeconds {int(limit.total_seconds())})",
    )


def current_progress(seen: Observation, attempt: SeenJob) -> TrainerProgress | None:
    """Give the trainer's answer if it came from this very attempt."""
    progress = seen.progress
    if progress is None or (progress.stage, progress.attempt) != (attempt.stage, attempt.attempt):
        return None
    return progress


def overdue_stage(seen: Observation, attempt: SeenJob, now: datetime) -> str:
    """Say which stage timeout is over, or nothing."""
    limits = seen.job.spec.run_policy.stage_timeout_seconds
    running = _running_since(attempt.pods)
    if running is None:
        return ""
    if attempt.stage is StageName.PREPARE:
        return _overdue("prepare", limits.prepare, running, now)
    phase, since = _last_phase(seen, attempt)
    if phase == Phase.EVALUATING:
        return _overdue("evaluate", limits.evaluate, since or running, now)
    if phase in _EXPORT_PHASES:
        return _overdue("export", limits.export, since or running, now)
    if phase == Phase.DONE:
        return ""  # its Job ends any moment
    return _overdue("train", limits.train, running, now)


def _last_phase(seen: Observation, attempt: SeenJob) -> tuple[str, datetime | None]:
    """Give the trainer's phase and its start; one that does not answer is where it last was."""
    progress = current_progress(seen, attempt)
    if progress is not None:
        return progress.phase, progress.phase_start_time
    known = seen.job.status.progress
    return (known.phase, known.phase_start_time) if known else ("", None)


def _overdue(name: str, limit: int, since: datetime, now: datetime) -> str:
    if limit == 0 or now - since < timedelta(seconds=limit):
        return ""
    return (
        f"{name} took longer than runPolicy.stageTimeoutSeconds.{name} ({limit} s);"
        " raise it in a new job, or give that more compute"
    )


def _running_since(pods: tuple[SeenPod, ...]) -> datetime | None:
    starts = [p.started for p in pods if p.started is not None]
    return min(starts, default=None)


def progress_status(progress: TrainerProgress, now: datetime) -> ProgressStatus:
    """Translate the trainer's answer for the status."""
    eta = progress.eta_seconds
    moved = now - timedelta(seconds=progress.seconds_since_progress)
    return ProgressStatus(
        percent=percent(progress.step, progress.total_steps),
        step=progress.step,
        total_steps=progress.total_steps,
        epoch=progress.epoch,
        eta_seconds=eta,
        eta="" if eta is None else short(timedelta(seconds=eta)),
        phase=progress.phase,
        phase_start_time=progress.phase_start_time,
        last_update_time=moved.replace(microsecond=0),
    )


def checkpoint_status(progress: TrainerProgress) -> CheckpointStatus | None:
    """Give the newest checkpoint the trainer knows of."""
    if progress.checkpoint is None:
        return None
    ref = progress.checkpoint
    return CheckpointStatus(
        step=ref.step, uri=ref.uri, time=ref.time, resumed_from_step=progress.resumed_from_step
    )


def display_stage(stage: StageName, progress: TrainerProgress | None) -> DisplayStage:
    """One word for where a live attempt is."""
    if stage is StageName.PREPARE:
        return DisplayStage.PREPARE
    if progress and progress.phase is Phase.EVALUATING and progress.step >= progress.total_steps:
        return DisplayStage.EVALUATE
    if progress and progress.phase in _EXPORT_PHASES:
        return DisplayStage.EXPORT
    return DisplayStage.TRAIN


def percent(step: int, total: int) -> int:
    """Whole percent of the steps; 100 only when all are done."""
    return min(100, step * 100 // total) if total else 0


def short(span: timedelta) -> str:
    """Write a time span as people say it: 45s, 4m10s, 2h05m."""
    seconds = max(0, int(span.total_seconds()))
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m{seconds % 60:02d}s"
    return f"{seconds // 3600}h{seconds % 3600 // 60:02d}m"
