"""Why a canary is rejected: every reason in one list, the surest first.

Pure; called by decide_rollout in every phase of a roll-out, also while it waits, because a
canary that turned bad must go whatever it waits for. Reasons that say nothing of the model,
such as a provider that is down, have names of their own.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from tunesmith_api.analysis import OnInsufficientData, Verdict
from tunesmith_api.deploymentstatus import RollbackReason, RolloutStatus
from tunesmith_api.rollout import Approval, Rollout
from tunesmith_operator.planning.analysis import failed
from tunesmith_operator.planning.early import was_early
from tunesmith_operator.planning.hosting import AFTERMATH
from tunesmith_operator.planning.serving import SeenRevision, ServingObservation

# One eviction is nobody's fault; pods that are lost again and again are somebody's.
_INTERRUPTIONS = 3
# Kubernetes cuts times off to whole seconds: an end may be up to that much later than it says.
_SECOND = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why the canary is rejected."""

    reason: RollbackReason
    message: str
    metric: str = ""


def reason_to_reject(
    seen: ServingObservation, rollout: RolloutStatus, canary: SeenRevision | None, now: datetime
) -> Rejection | None:
    """Give the first reason against the canary, or None."""
    spec = seen.deployment.spec.rollout
    return (
        _by_its_pods(seen, spec, rollout, canary)
        or _by_shared_pods(seen, spec, rollout, canary)
        or _by_its_answers(seen, spec, rollout, canary)
        or _by_lost_pods(rollout)
        or _by_time(seen, spec, rollout, canary, now)
    )


def _by_its_pods(
    seen: ServingObservation, spec: Rollout, rollout: RolloutStatus, canary: SeenRevision | None
) -> Rejection | None:
    if canary is None:
        return None
    if canary.refusal:
        return Rejection(
            RollbackReason.MODEL_REFUSED, f"The pods refused the model: {canary.refusal}"
        )
    limit = spec.fail_fast.restarts
    if limit and canary.restarts >= limit and _are_its_own(seen, rollout, canary):
        return Rejection(
            RollbackReason.CRASH_LOOPING,
            f"Its containers restarted {canary.restarts} times; failFast.restarts is {limit}",
        )
    return None


def _are_its_own(seen: ServingObservation, rollout: RolloutStatus, canary: SeenRevision) -> bool:
    """Whether restarts are no others': pods for adapters may have served the canary before it."""
    host = seen.host(canary.host) if canary.host else None
    if host is None:
        return True
    return host.last_restart is not None and host.last_restart > rollout.start_time + AFTERMATH


def _by_shared_pods(
    seen: ServingObservation, spec: Rollout, rollout: RolloutStatus, canary: SeenRevision | None
) -> Rejection | None:
    """One end of an engine that stable needs is enough: taking the canary back restarts nothing.

    But for an engine that ended again and again under stable: that would say nothing new.
    """
    status = seen.deployment.status
    if canary is None or not seen.shares_host(status.canary, status.stable):
        return None
    host = seen.host(canary.host)
    since, last = rollout.exposed_time, host.last_restart if host else None
    if not spec.fail_fast.restarts or rollout.stable_crash_loops:
        return None
    if since is None or last is None or last + _SECOND <= since:
        return None
    return Rejection(
        RollbackReason.CRASH_LOOPING,
        "A container of the pods that it shares with stable ended while it had traffic",
    )


def _by_its_answers(
    seen: ServingObservation, spec: Rollout, rollout: RolloutStatus, canary: SeenRevision | None
) -> Rejection | None:
    limit = spec.fail_fast.consecutive_errors
    # Where stable ends the engine of all pods, nobody would have answered.
    is_down = rollout.stable_crash_loops and canary is not None and canary.ready_replicas == 0
    if limit and canary and seen.router and rollout.exposed_time and not is_down:
        errors = seen.router.counted(canary.name).consecutive_errors
        if errors >= limit:
            return Rejection(
                RollbackReason.CONSECUTIVE_ERRORS,
                f"{errors} answers in a row failed; failFast.consecutiveErrors is {limit}",
            )
    metric = failed(spec.analysis, rollout.metrics)
    if metric is not None:
        return Rejection(
            RollbackReason.ANALYSIS_FAILED,
            f"{metric.failures} of the last {len(metric.recent)} samples failed:"
            f" {metric.message or metric.name}",
            metric.name,
        )
    return None


def _by_lost_pods(rollout: RolloutStatus) -> Rejection | None:
    if rollout.interruptions < _INTERRUPTIONS:
        return None
    return Rejection(
        RollbackReason.CANARY_UNHEALTHY,
        f"It lost all its ready pods {rollout.interruptions} times while it had traffic",
    )


def _by_time(
    seen: ServingObservation,
    spec: Rollout,
    rollout: RolloutStatus,
    canary: SeenRevision | None,
    now: datetime,
) -> Rejection | None:
    if rollout.unready_time and now >= ready_deadline(rollout, spec):
        why = (canary.waiting if canary else "") or seen.refused
        waits = f": {why}" if why else ""
        return Rejection(
            RollbackReason.READY_TIMEOUT,
            f"Its pods were not ready within {spec.ready_timeout_seconds} s{waits}",
        )
    return None if rollout.skips_analysis else _by_missing_data(spec, rollout)


def _by_missing_data(spec: Rollout, rollout: RolloutStatus) -> Rejection | None:
    """Time alone is no evidence: a sample taken by the deadline or later must have found none."""
    deadline, last = data_deadline(rollout, spec), rollout.sample_time
    if rollout.step_start_time is None or deadline is None or last is None:
        return None
    if was_early(rollout):
        return None
    if last < deadline and not _gives_up_early(spec, rollout, last):
        return None
    is_provider = rollout.verdict is Verdict.PROVIDER_ERROR
    missing = next((m for m in rollout.metrics if m.verdict is rollout.verdict), None)
    return Rejection(
        RollbackReason.PROVIDER_ERROR if is_provider else RollbackReason.INSUFFICIENT_DATA,
        f"Not enough data to judge it: {missing.message if missing else 'no sample was taken'}",
        missing.name if missing else "",
    )


def ready_deadline(rollout: RolloutStatus, spec: Rollout) -> datetime:
    """Give the time at which pods that are still awaited are given up."""
    since = rollout.unready_time or rollout.start_time
    return since + timedelta(seconds=spec.ready_timeout_seconds)


def data_deadline(rollout: RolloutStatus, spec: Rollout) -> datetime | None:
    """Give the time at which a lack of data ends the roll-out; None where data is not awaited."""
    if rollout.data_time is None:
        return None
    return rollout.data_time + timedelta(seconds=spec.analysis.data_timeout_seconds)


def hold_end(rollout: RolloutStatus, spec: Rollout) -> datetime | None:
    """Give the time at which the step's hold is over; None before the step has begun."""
    if rollout.step_start_time is None:
        return None
    if rollout.skips_analysis or rollout.step >= len(spec.steps):
        return rollout.step_start_time
    return rollout.step_start_time + timedelta(seconds=spec.steps[rollout.step].hold_seconds)


def awaits(spec: Rollout, rollout: RolloutStatus, now: datetime) -> bool:
    """Whether the last step is held until a person approves."""
    end = hold_end(rollout, spec)
    is_last = rollout.step == len(spec.steps) - 1
    is_over = end is not None and now >= end
    needs = spec.approval is Approval.MANUAL and spec.approved_digest != rollout.digest
    return needs and is_last and is_over and not rollout.skips_analysis


def _gives_up_early(spec: Rollout, rollout: RolloutStatus, last: datetime) -> bool:
    """Whether the policy is RollBack and the sample at the hold's end said nothing.

    Data is given one interval at least: an operator that came back only begins to count.
    """
    end, since = hold_end(rollout, spec), rollout.data_time
    return (
        spec.analysis.on_insufficient_data is OnInsufficientData.ROLL_BACK
        and end is not None
        and since is not None
        and last >= max(end, since + timedelta(seconds=spec.analysis.interval_seconds))
        and any(m.samples > 0 for m in rollout.metrics)
        and rollout.verdict in (Verdict.NO_DATA, Verdict.PROVIDER_ERROR)
    )
