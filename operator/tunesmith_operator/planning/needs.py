"""How many of its pods a canary must have ready before its weight rises, on pods of any kind.

Pure; called by ``stepping`` and by what says what is waited for.
"""

from tunesmith_api.deploymentstatus import RevisionStatus
from tunesmith_operator.planning.capacity import Sizing, canary_needs
from tunesmith_operator.planning.hosting import shares_pods
from tunesmith_operator.planning.serving import SeenRevision, ServingObservation
from tunesmith_operator.planning.serving_draft import ServingDraft


def sizing(draft: ServingDraft, seen: ServingObservation) -> Sizing:
    """Give what the pods are counted by."""
    mode = draft.spec.rollout.capacity.mode
    return Sizing(draft.spec.replicas, mode, shares_pods(draft, seen))


def needed_pods(draft: ServingDraft, seen: ServingObservation, weight: int) -> int:
    """Give the pods that the canary must have ready before it gets ``weight`` percent."""
    has_stable = draft.status.stable is not None
    needed = canary_needs(sizing(draft, seen), weight, has_stable=has_stable)
    rollout = draft.status.rollout
    canary, stable = _of(seen, draft.status.canary), draft.status.stable
    if canary is None or not canary.host:
        return needed
    # They may never be ready all at once. Where stable is, or what has its traffic, it has to be.
    if rollout is not None and rollout.stable_crash_loops and shares_pods(draft, seen):
        return min(needed, max(1, ready_pods(seen, stable)))
    served = {stable.name if stable else ""}
    if seen.traffic is not None:
        served |= {r.name for r in seen.revisions if seen.traffic.share(r.name) > 0}
    stuck = [
        other.ready_replicas
        for other in seen.revisions
        if other.host == canary.host and other.name in served - {canary.name}
        # Their pods wait for what they cannot load.
        if other.is_unloadable
    ]
    return min(needed, max(stuck, default=0) or needed)


def ready_pods(seen: ServingObservation, role: RevisionStatus | None) -> int:
    """Give the pods of a role that are ready."""
    there = _of(seen, role)
    return there.ready_replicas if there else 0


def _of(seen: ServingObservation, role: RevisionStatus | None) -> SeenRevision | None:
    return seen.revision(role.name) if role else None
