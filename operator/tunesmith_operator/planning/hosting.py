"""Adapters on shared pods: which revisions have the same pods, and what those pods should hold.

A host is a Deployment of pods with a base model and no adapter of their own. All revisions that
differ in nothing but their adapter are on one host, because its name follows from the rest of
their template. Pure; called by decide_rollout's parts and, for its rules, by gathering.
"""

from collections.abc import Iterable, Sequence
from datetime import timedelta

from tunesmith_api.adapters import WantedAdapter, WantedAdapters, adapter_port
from tunesmith_api.deploymentstatus import (
    ModelDeploymentStatus,
    RevisionStatus,
    RollbackReason,
)
from tunesmith_api.modeldeployment import Delivery
from tunesmith_api.revision import RevisionTemplate
from tunesmith_operator.planning.revisions import base_digest, in_use
from tunesmith_operator.planning.serving import SeenRevision, ServingObservation, Traffic
from tunesmith_operator.planning.serving_actions import DeleteHost, HoldAdapters, ScaleHost
from tunesmith_operator.planning.serving_draft import ServingDraft

# Nothing that watches show changes when an adapter has been loaded.
_LOADS = timedelta(seconds=1)
_LOOP = 2
"""Ends of one pod's containers that are more than an accident."""
_LATELY = timedelta(minutes=10)
"""The kubelet, too, forgets the ends of a container that has run for so long."""
AFTERMATH = timedelta(seconds=10)
"""Ends so soon after a canary has gone may still be due to it."""


def host_of(deployment: str, template: RevisionTemplate) -> str:
    """Name of the Deployment whose pods serve it beside others; empty for pods of its own."""
    if template.delivery is not Delivery.ADAPTER:
        return ""
    return f"{deployment}-base-{base_digest(template).removeprefix('sha256:')[:10]}"


def required(status: ModelDeploymentStatus) -> frozenset[str]:
    """Names of the revisions without which a pod of theirs must not be ready.

    They have traffic or may get it back at any time. A canary that nobody was sent to yet is none
    of them: its adapter may be bad, and stable's new pods must not wait for it.
    """
    rollout, canary = status.rollout, status.canary
    is_granted = rollout is not None and rollout.weight > 0 and rollout.abort is None
    roles = (status.stable, status.previous, canary if is_granted else None)
    return frozenset(role.name for role in roles if role is not None)


def assumed(status: ModelDeploymentStatus, traffic: Traffic | None) -> frozenset[str]:
    """Names of the revisions that a ready pod holds, as far as is known, if it does not answer.

    All that are required, and what has traffic without a part to play any more; but not what
    others stand in for: pods may be ready without that.
    """
    rollout, canary = status.rollout, status.canary
    needed = required(status)
    moves_on_purpose = rollout is not None and (rollout.abort is not None or rollout.weight == 100)
    if traffic is None or moves_on_purpose:
        return needed
    granted = needed & {canary.name if canary else ""}
    return granted | {n for n in (traffic.main, traffic.canary) if traffic.share(n) > 0}


def shares_pods(draft: ServingDraft, seen: ServingObservation) -> bool:
    """Whether the canary is served by stable's pods."""
    host = _host(draft, seen, draft.status.canary)
    return bool(host) and host == _host(draft, seen, draft.status.stable)


def _host(draft: ServingDraft, seen: ServingObservation, role: RevisionStatus | None) -> str:
    if role is None:
        return ""
    there = seen.revision(role.name)
    if there is not None:
        return there.host
    return draft.wanted_host if role.digest == draft.wanted else ""


def stable_crash_loops(draft: ServingDraft, seen: ServingObservation) -> bool:
    """Whether the engine of the pods it shares ended again and again before the canary came.

    What stands between the cause and what mends it would stay there for ever, so a canary on these
    pods is not held to what stable cannot do.
    """
    host = seen.host(_host(draft, seen, draft.status.stable))
    if host is None or not shares_pods(draft, seen):
        return False
    if host.last_restart is None or host.most_restarts < _LOOP:
        return False
    rejected = draft.status.last_rollback
    since = draft.now - _LATELY
    if rejected is not None and not rejected.stable_crash_loops:
        since = max(since, rejected.time + AFTERMATH)
    return host.last_restart > since


def still_crash_loops(draft: ServingDraft, seen: ServingObservation) -> bool:
    """Whether the engine of stable's pods went on ending after the canary that shared them had
    been rejected for it: then it was not that canary's doing."""
    rollback, role = draft.status.last_rollback, draft.status.stable
    rejected = next((r for r in seen.revisions if rollback and r.digest == rollback.digest), None)
    stable = seen.revision(role.name) if role else None
    if rollback is None or rejected is None or stable is None or rejected.host != stable.host:
        return False
    host = seen.host(stable.host)
    if rollback.reason is not RollbackReason.CRASH_LOOPING or host is None:
        return False
    is_again = host.last_restart is not None and host.last_restart > rollback.time + AFTERMATH
    return is_again and host.most_restarts >= _LOOP


def place_adapters(
    draft: ServingDraft,
    seen: ServingObservation,
    chosen: Traffic | None,
    pods: Iterable[tuple[RevisionStatus, int]],
) -> None:
    """Ask for the pods of every host and for what they should hold; let go of idle hosts."""
    wanted = {role.name: (_host(draft, seen, role), replicas) for role, replicas in pods}
    for host in seen.hosts:
        kept = _kept(draft, seen, chosen, host.name)
        sizes = [replicas for name, replicas in wanted.values() if name == host.name]
        if not kept and not sizes and _is_idle(seen, chosen, host.name):
            draft.act(DeleteHost(host.name, host.uid))
            continue
        is_awaited = any(r.name not in wanted or _arrives(seen, chosen, r.name) for r in kept)
        if is_awaited or not sizes:
            # What has no part to play any more may still have the traffic of all these pods; and
            # of one that is about to have some, nobody but us knows which pods hold it.
            sizes.append(host.replicas)
        size = max(sizes)
        # While the router is silent nobody knows what a pod serves, so none is taken away.
        if size > host.replicas or (size < host.replicas and seen.router is not None):
            draft.act(ScaleHost(host.name, host.uid, size))
        told = [orders for orders in host.told if orders is not None]
        orders = _orders(draft, seen, chosen, kept, told)
        if any(old != orders for old in host.told):
            draft.act(HoldAdapters(host.name, orders))
        if any(r.ready_replicas < size for r in kept):
            draft.look_again_in(_LOADS)


def _kept(
    draft: ServingDraft, seen: ServingObservation, chosen: Traffic | None, host: str
) -> list[SeenRevision]:
    """Give the revisions that the pods of a host should hold: in use, or not seen idle yet."""
    used = in_use(draft.status)
    rollout, canary = draft.status.rollout, draft.status.canary
    if rollout is not None and rollout.abort is not None and canary is not None:
        used -= {canary.name}
    return [
        revision
        for revision in seen.revisions
        if revision.host == host
        # Of those of old that the pods have nothing of, nothing has to be kept.
        and (revision.name in used or (revision.replicas and _may_serve(seen, chosen, revision)))
    ]


def _may_serve(seen: ServingObservation, chosen: Traffic | None, revision: SeenRevision) -> bool:
    return seen.may_serve(revision.name) or bool(chosen and chosen.touches(revision.name))


def _is_idle(seen: ServingObservation, chosen: Traffic | None, host: str) -> bool:
    """Whether nothing is sent to any revision of a host, as far as the router says."""
    guests = (r for r in seen.revisions if r.host == host)
    return not any(_may_serve(seen, chosen, guest) for guest in guests)


def _orders(
    draft: ServingDraft,
    seen: ServingObservation,
    chosen: Traffic | None,
    kept: Sequence[SeenRevision],
    told: Sequence[WantedAdapters],
) -> WantedAdapters:
    """Give what all pods of a host should hold; ``told`` is what those that answer were told."""
    needed = required(draft.status)

    def is_required(revision: SeenRevision) -> bool:
        if _has_share(seen, chosen, revision.name):
            others = (r for r in kept if r.name != revision.name)
            return not _blocks(revision, others, len(told))
        return revision.name in needed and not _is_missed_by_nobody(revision, told)

    return WantedAdapters(
        adapters=tuple(
            WantedAdapter(
                revision=revision.name,
                uri=revision.template.model.uri,
                digest=revision.template.model.digest,
                port=adapter_port(revision.number),
                is_required=is_required(revision),
            )
            for revision in kept
        )
    )


def _blocks(revision: SeenRevision, others: Iterable[SeenRevision], pods: int) -> bool:
    """Whether pods wait for a revision with traffic that none can load, and all hold another.

    Such as after its files were deleted: else what mends it could never serve.
    """
    is_lost = revision.is_unloadable and revision.loaded_replicas == 0
    return is_lost and any(r.loaded_replicas >= pods > 0 for r in others)


def _is_missed_by_nobody(revision: SeenRevision, told: Sequence[WantedAdapters]) -> bool:
    """Whether pods can do without a revision that has no traffic and that some cannot load.

    Once they do, until all hold it: nothing that serves waits for its files to be there again.
    """
    was_optional = any(
        adapter.revision == revision.name and not adapter.is_required
        for orders in told
        for adapter in orders.adapters
    )
    return revision.is_unloadable or (was_optional and revision.loaded_replicas < len(told))


def _arrives(seen: ServingObservation, chosen: Traffic | None, name: str) -> bool:
    """Whether a revision is about to have traffic and has none yet."""
    has_some = seen.traffic is not None and seen.traffic.share(name) > 0
    return not has_some and chosen is not None and chosen.share(name) > 0


def _has_share(seen: ServingObservation, chosen: Traffic | None, name: str) -> bool:
    return any(t is not None and t.share(name) > 0 for t in (seen.traffic, chosen))
