"""What must be done so that pods and router match the status: a pure difference.

Called by decide_rollout after it has decided, in every pass; asks again for whatever a dead
operator left undone. Nothing that may have traffic is ever made smaller than its traffic needs,
scaled away or deleted: what has to go is first seen without traffic.
"""

from datetime import timedelta

from tunesmith_api.deploymentstatus import RevisionStatus
from tunesmith_api.engine import RouterType
from tunesmith_api.revision import RevisionTemplate
from tunesmith_operator.planning.capacity import Sizing, canary_asks, canary_needs, stable_keeps
from tunesmith_operator.planning.hosting import host_of, place_adapters
from tunesmith_operator.planning.needs import sizing
from tunesmith_operator.planning.revisions import forgotten, in_use, revision_digest
from tunesmith_operator.planning.serving import ServingObservation, Traffic
from tunesmith_operator.planning.serving_actions import (
    DeleteRevision,
    EnsureRevision,
    RetireRevision,
    ScaleRevision,
    SetTraffic,
)
from tunesmith_operator.planning.serving_draft import ServingDraft
from tunesmith_operator.planning.stepping import mirror_percent, target_weight
from tunesmith_operator.planning.traffic import choose_traffic

_RECORDED = timedelta(milliseconds=100)
_ROUTER_ANSWERS = timedelta(milliseconds=100)
_ROUTER_SETTLES = timedelta(milliseconds=500)
_ROUTER_SILENT = timedelta(seconds=2)


def place(draft: ServingDraft, seen: ServingObservation, wanted: RevisionTemplate | None) -> None:
    """Ask for all that is missing, in the order in which it is safe."""
    chosen = choose_traffic(seen, draft.status, mirror_percent(draft, draft.status.rollout))
    pods = _wanted_pods(draft, seen, chosen)
    for role, replicas in pods:
        _ensure(draft, seen, role, replicas, wanted)
    place_adapters(draft, seen, chosen, pods)
    _route(draft, seen, chosen)
    _retire(draft, seen, chosen)


def _wanted_pods(
    draft: ServingDraft, seen: ServingObservation, chosen: Traffic | None
) -> list[tuple[RevisionStatus, int]]:
    """Give the pods of each role; what shrinks comes first where pods change hands."""
    status, size = draft.status, sizing(draft, seen)
    pods: list[tuple[RevisionStatus, int]] = []
    canary_pods = _canary_pods(draft, seen, size, chosen)
    if status.stable is not None:
        pods.append((status.stable, _stable_pods(seen, status.stable, size, canary_pods)))
    if status.canary is not None and canary_pods:
        pods.append((status.canary, canary_pods))
    if status.previous is not None:
        pods.append((status.previous, size.replicas))
    return pods


def _stable_pods(
    seen: ServingObservation, role: RevisionStatus, size: Sizing, canary_pods: int
) -> int:
    stable = seen.revision(role.name)
    return stable_keeps(
        size,
        canary_pods,
        replicas=stable.replicas if stable and stable.has_workload else 0,
        share=seen.traffic.share(role.name) if seen.traffic else 0,
    )


def _canary_pods(
    draft: ServingDraft, seen: ServingObservation, size: Sizing, chosen: Traffic | None
) -> int:
    rollout, role = draft.status.rollout, draft.status.canary
    if rollout is None or role is None:
        return 0
    canary = seen.revision(role.name)
    replicas = canary.replicas if canary and canary.has_workload else 0
    if rollout.abort is not None:
        # A rejected canary keeps its pods only as long as it may have requests.
        return replicas if seen.may_serve(role.name) else 0
    has_stable = draft.status.stable is not None
    asks = canary_asks(
        size,
        target_weight(draft, rollout),
        replicas=replicas,
        ready=canary.ready_replicas if canary else 0,
        # A silent router has not been seen to take anything off stable.
        share=seen.traffic.share(role.name) if seen.traffic else 0,
        has_stable=has_stable,
    )
    # What is about to have traffic loses no pod; it grows once it was seen with it.
    gets = chosen.share(role.name) if chosen else 0
    keeps = canary_needs(size, max(gets, rollout.weight), has_stable=has_stable)
    return max(asks, min(replicas, keeps))


def _ensure(
    draft: ServingDraft,
    seen: ServingObservation,
    role: RevisionStatus,
    replicas: int,
    wanted: RevisionTemplate | None,
) -> None:
    there = seen.revision(role.name)
    if there is not None and there.has_workload:
        if there.host:
            return  # its pods are sized together with those who share them
        # While the router is silent nobody knows what a pod serves, so none is taken away.
        if replicas > there.replicas or (replicas < there.replicas and seen.router is not None):
            draft.act(ScaleRevision(there.name, there.uid, replicas))
        return
    template = there.template if there else None
    if template is None and wanted is not None and revision_digest(wanted) == role.digest:
        template = wanted
    if template is not None:
        host = host_of(seen.deployment.metadata.name, template)
        draft.act(EnsureRevision(role.name, role.revision, role.digest, template, replicas, host))
        if (host or there is not None) and not seen.refused:
            # Its pods may be there already, so nothing that is watched changes.
            draft.look_again_in(_RECORDED)


def _route(draft: ServingDraft, seen: ServingObservation, chosen: Traffic | None) -> None:
    if seen.router is None:
        # It goes on with what it has; what it should have is told when it is back.
        draft.look_again_in(_ROUTER_SILENT)
        return
    # What could not be done is tried again after a while, not ten times a second.
    is_stuck = seen.router.refusal or seen.router.trouble or _is_route_refused(draft, seen)
    if chosen is not None and chosen != seen.router.traffic:
        draft.act(SetTraffic(chosen))
        # The router's own change wakes nobody.
        draft.look_again_in(_ROUTER_SILENT if is_stuck else _ROUTER_ANSWERS)
    elif not seen.router.is_settled:
        draft.look_again_in(_ROUTER_SILENT if is_stuck else _ROUTER_SETTLES)


def _is_route_refused(draft: ServingDraft, seen: ServingObservation) -> bool:
    """Whether it may be the HTTPRoute that the cluster refuses."""
    return draft.spec.routing.router is RouterType.GATEWAY_API and bool(seen.refused)


def _retire(draft: ServingDraft, seen: ServingObservation, chosen: Traffic | None) -> None:
    """Take the pods of whatever has no part to play, once nothing is sent to it."""
    if seen.router is None:
        return
    used = in_use(draft.status)
    rollout, canary = draft.status.rollout, draft.status.canary
    if rollout is not None and rollout.abort is not None and canary is not None:
        used -= {canary.name}
    for revision in seen.revisions:
        is_spare = revision.name not in used and revision.replicas > 0 and not revision.host
        if is_spare and _is_idle(seen, chosen, revision.name):
            draft.act(RetireRevision(revision.name, revision.uid))
    for name in forgotten(seen, draft.status):
        gone = seen.revision(name)
        if gone is not None:
            draft.act(DeleteRevision(gone.name, gone.uid))


def _is_idle(seen: ServingObservation, chosen: Traffic | None, name: str) -> bool:
    """Whether the router neither sends it anything nor is about to."""
    return not seen.may_serve(name) and not (chosen and chosen.touches(name))
