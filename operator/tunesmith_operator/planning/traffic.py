"""Where requests go: what was granted, held against what can really serve.

Pure; called by decide_rollout. Each row says where the traffic ends:

    stable can serve                  stable, and the canary its granted share if it has pods
    it cannot, the former stable can  the same with the former stable, while that is warm
    neither can, what has it all can  the same with that, unless it was rejected
    none of these                     all to the best revision whose pods are all ready
    nothing is sent to anybody        all to stable, as far as it has pods that are ready
    nobody is ready                   as it is: moving it would help nobody
"""

from tunesmith_api.deploymentstatus import ModelDeploymentStatus, RevisionStatus
from tunesmith_api.rollout import CapacityMode
from tunesmith_operator.planning.capacity import Sizing, canary_needs
from tunesmith_operator.planning.revisions import in_use
from tunesmith_operator.planning.serving import SeenRevision, ServingObservation, Traffic


def choose_traffic(
    seen: ServingObservation, status: ModelDeploymentStatus, mirror_percent: int
) -> Traffic | None:
    """Give the split the router should have now; None while there is nobody to send to."""
    canary = _of(seen, status.canary)
    rollout = status.rollout
    is_rejected = rollout is not None and rollout.abort is not None
    granted = 0 if is_rejected else _grant(seen, status)
    taken = granted if canary is not None and canary.ready_replicas else 0
    is_urgent = is_rejected and _has_share(seen, canary)
    for role in (status.stable, status.previous):
        proven = _of(seen, role)
        if proven is None:
            continue
        if _can_serve(proven, seen, 100 - taken, is_urgent=is_urgent):
            return _split(proven, canary, granted, 0 if is_rejected else mirror_percent)
    carrier = _carrier(seen, status)
    if carrier is not None:
        return _split(carrier, canary, granted, 0 if is_rejected else mirror_percent)
    serves = _stand_in(seen, status, is_rejected=is_rejected) or _remnant(seen, status)
    return Traffic(main=serves.name) if serves else seen.traffic


def compared(status: ModelDeploymentStatus, traffic: Traffic | None) -> RevisionStatus | None:
    """Give what answers beside the canary and is compared with it: stable or its predecessor."""
    roles = (status.stable, status.previous)
    main = traffic.main if traffic else ""
    return next((role for role in roles if role and role.name == main), status.stable)


def _grant(seen: ServingObservation, status: ModelDeploymentStatus) -> int:
    """Give the granted weight, or what it has of it while the pods that earned it are away."""
    rollout, canary, traffic = status.rollout, status.canary, seen.traffic
    if rollout is None or canary is None:
        return 0
    spec = seen.deployment.spec
    is_lean = spec.rollout.capacity.mode is CapacityMode.NO_SURGE and not seen.shares_host(
        canary, status.stable
    )
    # While it is paused nobody keeps since when pods are awaited, and nothing rises.
    is_whole = rollout.unready_time is None and not spec.paused
    if is_whole or traffic is None or is_lean:
        return rollout.weight
    return min(rollout.weight, traffic.share(canary.name))


def _of(seen: ServingObservation, role: RevisionStatus | None) -> SeenRevision | None:
    return seen.revision(role.name) if role else None


def _has_share(seen: ServingObservation, revision: SeenRevision | None) -> bool:
    return bool(revision and seen.traffic and seen.traffic.share(revision.name) > 0)


def _split(
    stable: SeenRevision, canary: SeenRevision | None, granted: int, mirror_percent: int
) -> Traffic:
    if canary is None or canary.ready_replicas == 0 or not (granted or mirror_percent):
        return Traffic(main=stable.name)
    if granted == 100:
        return Traffic(main=canary.name)
    return Traffic(stable.name, canary.name, granted, 0 if granted else mirror_percent)


def _can_serve(
    stable: SeenRevision, seen: ServingObservation, share: int, *, is_urgent: bool
) -> bool:
    """Whether stable may have ``share`` percent of the traffic.

    What has traffic keeps it while a pod is ready; the router leaves the others out. To get it
    back all pods that it takes must be ready, also those that a canary had without surge; except
    from a rejected canary: few good pods beat bad answers.
    """
    if is_urgent or _has_share(seen, stable):
        return stable.ready_replicas > 0
    spec = seen.deployment.spec
    needed = canary_needs(Sizing(spec.replicas, spec.rollout.capacity.mode), share)
    return stable.is_fully_ready and stable.ready_replicas >= needed


def _carrier(seen: ServingObservation, status: ModelDeploymentStatus) -> SeenRevision | None:
    """Give what carries the traffic now without a part to play, as long as it has pods.

    Such as a canary that another spec superseded at 100 percent, while stable's pods come back.
    The next canary is too small to take all that at once: it gets its steps, like any other.
    """
    main = seen.revision(seen.traffic.main) if seen.traffic else None
    if main is None or main.ready_replicas == 0 or main.name in in_use(status):
        return None
    return None if main.digest in {r.digest for r in status.rejected} else main


def _stand_in(
    seen: ServingObservation, status: ModelDeploymentStatus, *, is_rejected: bool
) -> SeenRevision | None:
    """Give the best of the others that has all its pods ready."""
    canary = status.canary.name if status.canary else ""
    main = seen.traffic.main if seen.traffic else ""

    def rank(revision: SeenRevision) -> tuple[bool, bool, int]:
        is_good_canary = revision.name == canary and not is_rejected
        return is_good_canary, revision.name == main, revision.number

    # Stable and its predecessor are among them only if they cannot serve. What stands in already
    # goes on while it grows to the size that this asks for.
    able = [r for r in seen.revisions if r.is_fully_ready or (r.name == main and r.ready_replicas)]
    good = _of(seen, status.canary)
    if good is not None and good.ready_replicas >= _ready_beside(good, seen) > 0:
        # What has the traffic of the same pods may never let all of them be ready at once.
        able.append(good)
    return max(able, key=rank, default=None)


def _ready_beside(guest: SeenRevision, seen: ServingObservation) -> int:
    """Give on how many of its pods another one that has traffic can be had."""
    others = (r for r in seen.revisions if r.host == guest.host and r.name != guest.name)
    traffic = seen.traffic
    ready = (r.ready_replicas for r in others if traffic is not None and traffic.share(r.name) > 0)
    return max(ready, default=0) if guest.host else 0


def _remnant(seen: ServingObservation, status: ModelDeploymentStatus) -> SeenRevision | None:
    """Give stable with the pods it has left, where the router sends requests to no revision.

    Such as routers that are new because the node was lost that some of stable's pods were on, too.
    """
    stable, traffic = _of(seen, status.stable), seen.traffic
    is_lost = traffic is None or not any(traffic.share(r.name) for r in seen.revisions)
    return stable if stable is not None and stable.ready_replicas > 0 and is_lost else None
