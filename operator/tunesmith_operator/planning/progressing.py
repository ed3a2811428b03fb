"""What the condition Progressing of a ModelDeployment says. Pure; called by ``serving_report``."""

from dataclasses import dataclass

from tunesmith_api.analysis import Verdict
from tunesmith_api.conditions import DeploymentReason
from tunesmith_api.deploymentstatus import RolloutStatus
from tunesmith_api.meta import ConditionStatus
from tunesmith_operator.planning.hosting import still_crash_loops
from tunesmith_operator.planning.needs import needed_pods
from tunesmith_operator.planning.rejection import awaits
from tunesmith_operator.planning.revisions import is_rejected
from tunesmith_operator.planning.serving import SeenRouter, ServingObservation
from tunesmith_operator.planning.serving_draft import ServingDraft
from tunesmith_operator.planning.sources import SourceObjection
from tunesmith_operator.planning.stepping import Standing, target_weight

_TRUE, _FALSE = ConditionStatus.TRUE, ConditionStatus.FALSE
_LACKING = {
    Verdict.PROVIDER_ERROR: DeploymentReason.PROVIDER_UNAVAILABLE,
    Verdict.NO_DATA: DeploymentReason.INSUFFICIENT_TRAFFIC,
}


@dataclass(frozen=True, slots=True)
class Saying:
    """One condition's status, reason and message."""

    status: ConditionStatus
    reason: DeploymentReason
    message: str


def progressing(
    draft: ServingDraft,
    seen: ServingObservation,
    objection: SourceObjection | None,
    standing: Standing,
) -> Saying:
    """Give what goes on, or why nothing does."""
    rollout = draft.status.rollout
    if rollout is None:
        return _at_rest(draft, seen, objection)
    held = _held(draft, rollout, objection, standing)
    if held is not None:
        return held
    if draft.spec.paused:
        return Saying(_TRUE, DeploymentReason.PAUSED, f"Paused at {_place(draft, rollout)}")
    if rollout.unready_time is not None:
        return _waiting(draft, seen, rollout, standing)
    return _of_the_router(draft, seen, rollout) or _stepping(draft, rollout)


def _of_the_router(
    draft: ServingDraft, seen: ServingObservation, rollout: RolloutStatus
) -> Saying | None:
    if seen.router is not None and seen.router.is_moving:
        return _moving(seen.router)
    if seen.router is not None and seen.router.refusal:
        message = f"The HTTPRoute does not go to {_place(draft, rollout)}: {seen.router.refusal}"
        return Saying(_TRUE, DeploymentReason.WAITING_FOR_ROUTER, message)
    canary, traffic = draft.status.canary, seen.traffic
    is_without = canary is not None and traffic is not None and not traffic.touches(canary.name)
    is_awaited = rollout.step_start_time is None or is_without
    if seen.router is not None and seen.router.trouble and is_awaited:
        message = f"Not all of the router goes to {_place(draft, rollout)}: {seen.router.trouble}"
        return Saying(_TRUE, DeploymentReason.WAITING_FOR_ROUTER, message)
    return None


def _moving(router: SeenRouter) -> Saying:
    why = f": {router.refusal}" if router.refusal else ""
    return Saying(
        _TRUE,
        DeploymentReason.WAITING_FOR_ROUTER,
        f"The former router serves until that of spec.routing is in effect{why}",
    )


def _held(
    draft: ServingDraft,
    rollout: RolloutStatus,
    objection: SourceObjection | None,
    standing: Standing,
) -> Saying | None:
    if rollout.abort is not None:
        return Saying(_TRUE, DeploymentReason.ROLLING_BACK, rollout.abort.message)
    if standing.held_by is not None and draft.status.stable is not None:
        why = standing.held_by.message.rstrip(".")
        return Saying(
            _FALSE,
            DeploymentReason.ROLLBACK_DISABLED,
            f"{why}. rollback.automatic is false, so it keeps its weight: put the former source"
            " into the spec, or ask for another revision",
        )
    if objection is not None:
        return Saying(_FALSE, objection.reason, objection.message)
    return None


def _at_rest(
    draft: ServingDraft, seen: ServingObservation, objection: SourceObjection | None
) -> Saying:
    status, wanted = draft.status, draft.wanted
    if objection is not None:
        return Saying(_FALSE, objection.reason, objection.message)
    if seen.router is not None and seen.router.is_moving:
        return _moving(seen.router)
    if status.stable is not None and status.stable.digest == wanted:
        message = f"Revision {status.stable.revision} is what is wanted"
        return Saying(_FALSE, DeploymentReason.ROLLOUT_COMPLETE, message)
    if wanted and is_rejected(status, wanted, draft.plan):
        message = _why_rejected(draft, seen, wanted)
        return Saying(_FALSE, DeploymentReason.REVISION_REJECTED, message)
    return Saying(_FALSE, DeploymentReason.PAUSED, "spec.paused holds the roll-out back")


def _why_rejected(draft: ServingDraft, seen: ServingObservation, wanted: str) -> str:
    last = draft.status.last_rollback
    why = last.message if last and last.digest == wanted else "it was rejected before"
    again = ""
    if last and last.digest == wanted and still_crash_loops(draft, seen):
        again = (
            " Containers of those pods have ended again without it, so that is stable's doing, and"
            " it will not be held to that when it is tried again."
        )
    return (
        f"The wanted revision was rejected: {why.rstrip('.')}.{again} It is tried again only when"
        " the spec changes: the revision, or the steps, analysis, failFast or readyTimeoutSeconds"
        " it is judged by"
    )


def _waiting(
    draft: ServingDraft, seen: ServingObservation, rollout: RolloutStatus, standing: Standing
) -> Saying:
    canary = draft.status.canary
    there = seen.revision(canary.name) if canary else None
    needed = needed_pods(draft, seen, target_weight(draft, rollout))
    # What a container said when it ended tells more than that it is started again later.
    told = there.waiting if there else ""
    why = standing.held_by.message if standing.held_by else told
    waits = f": {why}" if why else ""
    return Saying(
        _TRUE,
        DeploymentReason.WAITING_FOR_REPLICAS,
        f"{there.ready_replicas if there else 0} of {needed} pods are ready for"
        f" {_place(draft, rollout)}{waits}",
    )


def _stepping(draft: ServingDraft, rollout: RolloutStatus) -> Saying:
    place = _place(draft, rollout)
    if target_weight(draft, rollout) == 100:
        return Saying(_TRUE, DeploymentReason.PROMOTING, f"Going to {place}")
    if rollout.step_start_time is None:
        return Saying(_TRUE, DeploymentReason.WAITING_FOR_ROUTER, f"The router goes to {place}")
    lacking = _lacking_data(rollout, place)
    if lacking is not None:
        return lacking
    if rollout.verdict is Verdict.PASS and awaits(draft.spec.rollout, rollout, draft.now):
        return Saying(
            _TRUE,
            DeploymentReason.AWAITING_APPROVAL,
            f"All steps have passed. Set spec.rollout.approvedDigest to {rollout.digest}",
        )
    return Saying(_TRUE, DeploymentReason.ANALYSING, f"At {place}")


def _lacking_data(rollout: RolloutStatus, place: str) -> Saying | None:
    sampled = [m for m in rollout.metrics if m.samples]
    wrong = next((m for m in sampled if m.needs_change), None)
    if wrong is not None:
        return Saying(_TRUE, DeploymentReason.QUERY_INVALID, f"At {place}; {wrong.message}")
    missing = next((m for m in sampled if m.verdict is rollout.verdict), None)
    if missing is None or rollout.verdict not in _LACKING:
        return None
    return Saying(_TRUE, _LACKING[rollout.verdict], f"At {place}; {missing.message}")


def _place(draft: ServingDraft, rollout: RolloutStatus) -> str:
    count = len(draft.spec.rollout.steps)
    weight = target_weight(draft, rollout)
    if weight == 100:
        return "weight 100"
    return f"step {rollout.step + 1} of {count}, weight {weight}"
