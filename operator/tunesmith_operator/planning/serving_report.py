"""What is said of a ModelDeployment: its conditions, its phase and its figures.

Pure; called by decide_rollout when all is decided, and decides nothing. Messages hold no clock,
so a status that has nothing new to say is not written.
"""

from math import ceil

from tunesmith_api.conditions import DeploymentCondition, DeploymentReason
from tunesmith_api.deploymentstatus import RevisionStatus, RolloutPhase
from tunesmith_api.labels import COMPONENT_ENGINE, LABEL_COMPONENT, LABEL_DEPLOYMENT_UID
from tunesmith_api.meta import ConditionStatus
from tunesmith_operator.planning.conditions import find
from tunesmith_operator.planning.needs import sizing
from tunesmith_operator.planning.progressing import Saying, progressing
from tunesmith_operator.planning.revisions import is_rejected
from tunesmith_operator.planning.serving import ServingObservation
from tunesmith_operator.planning.serving_draft import ServingDraft
from tunesmith_operator.planning.sources import SourceObjection
from tunesmith_operator.planning.stepping import Standing

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


def report(
    draft: ServingDraft,
    seen: ServingObservation,
    objection: SourceObjection | None,
    standing: Standing,
) -> None:
    """Say all there is to say."""
    _note_figures(draft, seen)
    goes_on = progressing(draft, seen, objection, standing)
    stalled = _stalled(goes_on, objection, standing, _refused(draft, seen))
    sayings = {
        DeploymentCondition.READY: _ready(draft, seen),
        DeploymentCondition.AVAILABLE: _available(seen),
        DeploymentCondition.PROGRESSING: goes_on,
        DeploymentCondition.STALLED: stalled,
    }
    _tell_stalled(draft, stalled)
    for kind, saying in sayings.items():
        draft.say(kind, saying.status, saying.reason, saying.message)
    _say_rolled_back(draft)
    draft.update(phase=_phase(draft, goes_on, stalled))


def _note_figures(draft: ServingDraft, seen: ServingObservation) -> None:
    status = draft.status
    draft.update(
        url=_url(seen, status.url),
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


def _url(seen: ServingObservation, known: str) -> str:
    """Give where requests go to: the router's Service, or the host name of the HTTPRoute."""
    deployment = seen.deployment
    if seen.router is not None and seen.router.is_moving and known:
        return known
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
    if seen.router.refusal and not seen.router.is_moving:
        message = f"The HTTPRoute is not in effect: {seen.router.refusal}"
        return Saying(_FALSE, DeploymentReason.ROUTER_UNAVAILABLE, message)
    if not seen.router.is_reachable:
        message = "No router pod is ready, so no request gets to a revision"
        return Saying(_FALSE, DeploymentReason.ROUTER_UNAVAILABLE, message)
    main = seen.revision(seen.traffic.main)
    if main is None or main.ready_replicas == 0:
        message = f"Revision {main.number if main else seen.traffic.main} has no ready pods"
        return Saying(_FALSE, DeploymentReason.REPLICAS_UNAVAILABLE, message)
    # What a pod of the router has taken goes on there, whatever it does not take any more.
    behind = f", but not all of the router follows: {seen.router.trouble}"
    message = f"Revision {main.number} serves{behind if seen.router.trouble else ''}"
    return Saying(_TRUE, DeploymentReason.SERVING, message)


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


def _refused(draft: ServingDraft, seen: ServingObservation) -> str:
    """Give what the cluster refuses; what an operator before said stands until it is tried."""
    said = find(draft.status.conditions, DeploymentCondition.STALLED)
    if seen.refused is None and said and said.reason == DeploymentReason.CHILD_REFUSED:
        return said.message
    return seen.refused or ""


def _stalled(
    goes_on: Saying, objection: SourceObjection | None, standing: Standing, refused: str
) -> Saying:
    if objection is not None:
        return Saying(_TRUE, objection.reason, objection.message)
    if goes_on.reason in (
        DeploymentReason.REVISION_REJECTED,
        DeploymentReason.ROLLBACK_DISABLED,
        DeploymentReason.QUERY_INVALID,
    ):
        return Saying(_TRUE, goes_on.reason, goes_on.message)
    if refused:
        return Saying(_TRUE, DeploymentReason.CHILD_REFUSED, refused)
    if standing.held_by is not None:
        # The first revision of all: there is nothing to go back to, so it is waited for.
        why = standing.held_by.message.rstrip(".")
        return Saying(
            _TRUE,
            DeploymentReason.NO_REVISION,
            f"{why}. Nothing has served before, so it is waited for: mend that, or ask for another"
            " revision",
        )
    return Saying(_FALSE, DeploymentReason.NOT_STALLED, "Nothing stands in the way")


def _tell_stalled(draft: ServingDraft, stalled: Saying) -> None:
    """Make an Event of what has begun to stand in the way; a rollback has Events of its own."""
    before = find(draft.status.conditions, DeploymentCondition.STALLED)
    is_new = before is None or (before.status, before.reason) != (_TRUE, stalled.reason)
    is_told = stalled.reason is DeploymentReason.REVISION_REJECTED
    if stalled.status is _TRUE and is_new and not is_told:
        draft.emit("Warning", stalled.reason, stalled.message)


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


def _phase(draft: ServingDraft, goes_on: Saying, stalled: Saying) -> RolloutPhase:
    if goes_on.reason is DeploymentReason.REVISION_REJECTED:
        return RolloutPhase.ROLLED_BACK
    if stalled.status is _TRUE:
        return RolloutPhase.STALLED
    if draft.status.stable is None and goes_on.reason is not DeploymentReason.PAUSED:
        return RolloutPhase.PENDING
    return _PHASES.get(goes_on.reason, RolloutPhase.PENDING)
