"""What is said of a ModelDeployment: its conditions, its phase and its figures.

Pure; called by decide_rollout when all is decided, and decides nothing. Messages hold no clock,
so a status that has nothing new to say is not written.
"""

from dataclasses import dataclass
from math import ceil

from tunesmith_api.analysis import Verdict
from tunesmith_api.conditions import DeploymentCondition, DeploymentReason
from tunesmith_api.deploymentstatus import RevisionStatus, RolloutPhase, RolloutStatus
from tunesmith_api.labels import COMPONENT_ENGINE, LABEL_COMPONENT, LABEL_DEPLOYMENT_UID
from tunesmith_api.meta import ConditionStatus
from tunesmith_operator.planning.capacity import canary_needs
from tunesmith_operator.planning.rejection import awaits
from tunesmith_operator.planning.revisions import is_rejected
from tunesmith_operator.planning.serving import ServingObservation
from tunesmith_operator.planning.serving_draft import ServingDraft
from tunesmith_operator.planning.sources import SourceObjection
from tunesmith_operator.planning.stepping import Standing, sizing, target_weight

_TRUE, _FALSE, _UNKNOWN = ConditionStatus.TRUE, ConditionStatus.FALSE, ConditionStatus.UNKNOWN

_PHASES = {
    DeploymentReason.WAITING_FOR_REPLICAS: RolloutPhase.STARTING,
    DeploymentReason.WAITING_FOR_ROUTER: RolloutPhase.STARTING,
    DeploymentReason.ANALYSING: RolloutPhase.ANALYSING,
    DeploymentReason.INSUFFICIENT_TRAFFIC: RolloutPhase.ANALYSING,
    DeploymentReason.PROVIDER_UNAVAILABLE: RolloutPhase.ANALYSING,
    DeploymentReason.AWAITING_APPROVAL: RolloutPhase.AWAITING_APPROVAL,
    DeploymentReason.PAUSED: RolloutPhase.PAUSED,
    DeploymentReason.PROMOTING: RolloutPhase.PROMOTING,
    DeploymentReason.ROLLING_BACK: RolloutPhase.ROLLING_BACK,
    DeploymentReason.ROLLOUT_COMPLETE: RolloutPhase.STABLE,
    DeploymentReason.REVISION_REJECTED: RolloutPhase.ROLLED_BACK,
}


@dataclass(frozen=True, slots=True)
class Saying:
    """One condition's status, reason and message."""

    status: ConditionStatus
    reason: DeploymentReason
    message: str


def report(
    draft: ServingDraft,
    seen: ServingObservation,
    objection: SourceObjection | None,
    standing: Standing,
) -> None:
    """Say all there is to say."""
    _note_figures(draft, seen)
    progressing = _progressing(draft, seen, objection, standing)
    stalled = _stalled(progressing, objection, standing)
    sayings = {
        DeploymentCondition.READY: _ready(draft, seen),
        DeploymentCondition.AVAILABLE: _available(seen),
        DeploymentCondition.PROGRESSING: progressing,
        DeploymentCondition.STALLED: stalled,
    }
    for kind, saying in sayings.items():
        draft.say(kind, saying.status, saying.reason, saying.message)
    _say_rolled_back(draft)
    draft.update(phase=_phase(draft, progressing, stalled))


def _note_figures(draft: ServingDraft, seen: ServingObservation) -> None:
    status = draft.status
    draft.update(
        url=_url(seen),
        stable=_figures(status.stable, seen),
        canary=_figures(status.canary, seen),
        previous=_figures(status.previous, seen),
        replicas=sum(h.replicas for h in seen.hosts)
        + sum(r.replicas for r in seen.revisions if not r.host),
        selector=(
            f"{LABEL_DEPLOYMENT_UID}={seen.deployment.metadata.uid},"
            f"{LABEL_COMPONENT}={COMPONENT_ENGINE}"
        ),
    )


def _url(seen: ServingObservation) -> str:
    """Give where requests go to: the router's Service, or the host name of the HTTPRoute."""
    deployment = seen.deployment
    gateway = deployment.spec.routing.gateway
    if gateway is not None:
        return f"http://{gateway.hostname}" if gateway.hostname else ""
    return f"http://{deployment.metadata.name}.{deployment.metadata.namespace}.svc"


def _figures(role: RevisionStatus | None, seen: ServingObservation) -> RevisionStatus | None:
    if role is None:
        return None
    there = seen.revision(role.name)
    ready = there.ready_replicas if there else 0
    weight = seen.traffic.share(role.name) if seen.traffic else role.weight
    return role.model_copy(update={"weight": weight, "ready_replicas": ready})


def _available(seen: ServingObservation) -> Saying:
    if seen.router is None:
        return Saying(_UNKNOWN, DeploymentReason.ROUTER_UNAVAILABLE, "The router cannot be asked")
    if seen.traffic is None:
        return Saying(_FALSE, DeploymentReason.NO_REVISION, "No revision has been ready yet")
    if seen.router.refusal:
        message = f"The HTTPRoute is not in effect: {seen.router.refusal}"
        return Saying(_FALSE, DeploymentReason.ROUTER_UNAVAILABLE, message)
    main = seen.revision(seen.traffic.main)
    if main is None or main.ready_replicas == 0:
        message = f"Revision {main.number if main else seen.traffic.main} has no ready pods"
        return Saying(_FALSE, DeploymentReason.REPLICAS_UNAVAILABLE, message)
    return Saying(_TRUE, DeploymentReason.SERVING, f"Revision {main.number} serves")


def _ready(draft: ServingDraft, seen: ServingObservation) -> Saying:
    available = _available(seen)
    traffic, stable = seen.traffic, draft.status.stable
    if available.status is not _TRUE or traffic is None:
        return available
    if stable is not None and stable.ready_replicas == 0:
        main = seen.revision(traffic.main)
        return Saying(
            _FALSE,
            DeploymentReason.FAILED_OVER,
            f"Revision {stable.revision} has no ready pods; revision"
            f" {main.number if main else '?'} has its traffic",
        )
    for revision in seen.revisions:
        share = traffic.share(revision.name)
        spare = 1 if sizing(draft, seen).hands_over else 0
        needed = max(1, ceil(draft.spec.replicas * share / 100) - spare)
        if share and revision.ready_replicas < needed:
            return Saying(
                _FALSE,
                DeploymentReason.REPLICAS_UNAVAILABLE,
                f"Revision {revision.number} has {revision.ready_replicas} of {needed} pods ready"
                f" for {share} % of the traffic",
            )
    return available


def _progressing(
    draft: ServingDraft,
    seen: ServingObservation,
    objection: SourceObjection | None,
    standing: Standing,
) -> Saying:
    rollout = draft.status.rollout
    if rollout is None:
        return _at_rest(draft, objection)
    held = _held(draft, rollout, objection, standing)
    if held is not None:
        return held
    if draft.spec.paused:
        return Saying(_TRUE, DeploymentReason.PAUSED, f"Paused at {_place(draft, rollout)}")
    if rollout.unready_time is not None:
        return _waiting(draft, seen, rollout)
    if seen.router is not None and seen.router.refusal:
        message = f"The HTTPRoute does not go to {_place(draft, rollout)}: {seen.router.refusal}"
        return Saying(_TRUE, DeploymentReason.WAITING_FOR_ROUTER, message)
    return _stepping(draft, rollout)


def _held(
    draft: ServingDraft,
    rollout: RolloutStatus,
    objection: SourceObjection | None,
    standing: Standing,
) -> Saying | None:
    if rollout.abort is not None:
        return Saying(_TRUE, DeploymentReason.ROLLING_BACK, rollout.abort.message)
    if standing.held_by is not None and draft.status.stable is not None:
        return Saying(_FALSE, DeploymentReason.ROLLBACK_DISABLED, standing.held_by.message)
    if objection is not None:
        return Saying(_FALSE, objection.reason, objection.message)
    return None


def _at_rest(draft: ServingDraft, objection: SourceObjection | None) -> Saying:
    status, wanted = draft.status, draft.wanted
    if objection is not None:
        return Saying(_FALSE, objection.reason, objection.message)
    if status.stable is not None and status.stable.digest == wanted:
        message = f"Revision {status.stable.revision} is what is wanted"
        return Saying(_FALSE, DeploymentReason.ROLLOUT_COMPLETE, message)
    if wanted and is_rejected(status, wanted, draft.plan):
        return Saying(_FALSE, DeploymentReason.REVISION_REJECTED, _why_rejected(draft, wanted))
    return Saying(_FALSE, DeploymentReason.PAUSED, "spec.paused holds the roll-out back")


def _why_rejected(draft: ServingDraft, wanted: str) -> str:
    last = draft.status.last_rollback
    why = last.message if last and last.digest == wanted else "it was rejected before"
    return (
        f"The wanted revision was rejected: {why}. It is tried again only when the spec changes:"
        " the revision, or the steps, analysis, failFast or readyTimeoutSeconds it is judged by"
    )


def _waiting(draft: ServingDraft, seen: ServingObservation, rollout: RolloutStatus) -> Saying:
    canary = draft.status.canary
    there = seen.revision(canary.name) if canary else None
    target = target_weight(draft, rollout)
    has_stable = draft.status.stable is not None
    needed = canary_needs(sizing(draft, seen), target, has_stable=has_stable)
    waits = f": {there.waiting}" if there and there.waiting else ""
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
    missing = next((m for m in rollout.metrics if m.samples and m.verdict is rollout.verdict), None)
    if rollout.verdict is Verdict.PROVIDER_ERROR and missing:
        return Saying(_TRUE, DeploymentReason.PROVIDER_UNAVAILABLE, f"At {place}; no answer yet")
    if rollout.verdict is Verdict.NO_DATA and missing:
        return Saying(
            _TRUE, DeploymentReason.INSUFFICIENT_TRAFFIC, f"At {place}; {missing.name} has no data"
        )
    if rollout.verdict is Verdict.PASS and awaits(draft.spec.rollout, rollout, draft.now):
        return Saying(
            _TRUE,
            DeploymentReason.AWAITING_APPROVAL,
            f"All steps have passed. Set spec.rollout.approvedDigest to {rollout.digest}",
        )
    return Saying(_TRUE, DeploymentReason.ANALYSING, f"At {place}")


def _place(draft: ServingDraft, rollout: RolloutStatus) -> str:
    count = len(draft.spec.rollout.steps)
    weight = target_weight(draft, rollout)
    if weight == 100:
        return "weight 100"
    return f"step {rollout.step + 1} of {count}, weight {weight}"


def _stalled(progressing: Saying, objection: SourceObjection | None, standing: Standing) -> Saying:
    if objection is not None:
        return Saying(_TRUE, objection.reason, objection.message)
    if progressing.reason in (
        DeploymentReason.REVISION_REJECTED,
        DeploymentReason.ROLLBACK_DISABLED,
    ):
        return Saying(_TRUE, progressing.reason, progressing.message)
    if standing.held_by is not None:
        # The first revision of all: there is nothing to go back to, so it is waited for.
        return Saying(_TRUE, DeploymentReason.NO_REVISION, standing.held_by.message)
    return Saying(_FALSE, DeploymentReason.NOT_STALLED, "Nothing stands in the way")


def _say_rolled_back(draft: ServingDraft) -> None:
    last, stable = draft.status.last_rollback, draft.status.stable
    wanted = draft.wanted
    is_held = wanted is not None and is_rejected(draft.status, wanted, draft.plan)
    if last is None or not is_held or (stable is not None and stable.digest == wanted):
        draft.say(
            DeploymentCondition.ROLLED_BACK,
            _FALSE,
            DeploymentReason.NOT_ROLLED_BACK,
            "The wanted revision was not rejected",
        )
    elif last.digest == wanted:
        draft.say(DeploymentCondition.ROLLED_BACK, _TRUE, last.reason, last.message)
    else:
        reason = next(r.reason for r in draft.status.rejected if r.digest == wanted)
        draft.say(
            DeploymentCondition.ROLLED_BACK,
            _TRUE,
            reason,
            "It was rejected before",
        )


def _phase(draft: ServingDraft, progressing: Saying, stalled: Saying) -> RolloutPhase:
    if progressing.reason is DeploymentReason.REVISION_REJECTED:
        return RolloutPhase.ROLLED_BACK
    if stalled.status is _TRUE:
        return RolloutPhase.STALLED
    if draft.status.stable is None and progressing.reason is not DeploymentReason.PAUSED:
        return RolloutPhase.PENDING
    return _PHASES.get(progressing.reason, RolloutPhase.PENDING)
