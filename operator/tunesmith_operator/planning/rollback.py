"""The way back: rejecting a revision, and closing the roll-out once its traffic is gone.

Pure; called by decide_rollout. The rejection is written before the router is told, so whoever
comes next goes on with it. The spec is never changed: the rejected digest is held until it is.
"""

from datetime import timedelta

from tunesmith_api.deploymentstatus import (
    AbortStatus,
    Outcome,
    RejectedStatus,
    RevisionStatus,
    RollbackReason,
    RollbackStatus,
    RolloutStatus,
)
from tunesmith_operator.planning.rejection import Rejection
from tunesmith_operator.planning.revisions import remember
from tunesmith_operator.planning.serving import ServingObservation
from tunesmith_operator.planning.serving_actions import Notify
from tunesmith_operator.planning.serving_draft import ServingDraft
from tunesmith_operator.planning.traffic import choose_traffic

_REJECTED_KEPT = 10


def reject(draft: ServingDraft, rollout: RolloutStatus, why: Rejection) -> None:
    """Write down that the canary is rejected; its traffic is taken away after that."""
    abort = AbortStatus(
        reason=why.reason, metric=why.metric, message=why.message[:1024], time=draft.now
    )
    draft.update_rollout(abort=abort, weight=0)
    _hold(draft, rollout.digest, rollout.plan, why.reason)
    number = draft.status.canary.revision if draft.status.canary else 0
    draft.emit("Warning", why.reason, f"Revision {number} is rejected: {why.message}")


def _hold(draft: ServingDraft, digest: str, plan: str, reason: RollbackReason) -> None:
    others = [r for r in draft.status.rejected if (r.digest, r.plan) != (digest, plan)]
    new = RejectedStatus(digest=digest, plan=plan, reason=reason, time=draft.now)
    draft.update(rejected=(*others, new)[-_REJECTED_KEPT:])


def finish_rollback(draft: ServingDraft, seen: ServingObservation) -> None:
    """Close a rejected roll-out once the router was seen without its canary.

    Where nothing else can serve, the rejected canary goes on meanwhile; then only another spec
    closes it, so that a broken stable never stands in the way of what mends it.
    """
    rollout, canary = draft.status.rollout, draft.status.canary
    if rollout is None or rollout.abort is None or canary is None:
        return
    is_gone = not seen.may_serve(canary.name)
    stand = choose_traffic(seen, draft.status, 0)
    is_needed = stand is not None and stand.touches(canary.name)
    asked = (draft.wanted, draft.plan)
    is_superseded = is_needed and draft.wanted and asked != (rollout.digest, rollout.plan)
    if not is_gone and not is_superseded:
        return
    abort = rollout.abort
    since = rollout.exposed_time or rollout.start_time
    restored = (seen.router.since if seen.router else None) or draft.now
    _record(
        draft,
        seen,
        canary,
        RollbackStatus(
            from_revision=canary.revision,
            to_revision=draft.status.stable.revision if draft.status.stable else 0,
            digest=canary.digest,
            reason=abort.reason,
            metric=abort.metric,
            message=abort.message,
            time=abort.time,
            detected_after_seconds=max(0, int((abort.time - since).total_seconds())),
            restored_after_milliseconds=_milliseconds(restored - abort.time) if is_gone else None,
            stable_crash_loops=rollout.stable_crash_loops,
        ),
        rollout,
    )
    draft.update(canary=None, rollout=None)
    draft.look_again_in(timedelta())


def fall_back(draft: ServingDraft, seen: ServingObservation) -> bool:
    """Go back to the former stable if the new one crash-loops while the former is still warm.

    Returns whether it does. The traffic itself has gone there when the last pod was lost.
    """
    status = draft.status
    stable, previous = status.stable, status.previous
    if stable is None or previous is None:
        return False
    old, new = seen.revision(previous.name), seen.revision(stable.name)
    limit = draft.spec.rollout.fail_fast.restarts
    is_broken = new is not None and new.ready_replicas == 0 and limit and new.restarts >= limit
    if not is_broken or old is None or not old.is_fully_ready:
        return False
    reason = RollbackReason.PROMOTED_UNHEALTHY
    message = f"Revision {stable.revision} has no ready pods after its promotion"
    _hold(draft, stable.digest, draft.plan, reason)
    _record(
        draft,
        seen,
        stable,
        RollbackStatus(
            from_revision=stable.revision,
            to_revision=previous.revision,
            digest=stable.digest,
            reason=reason,
            message=message,
            time=draft.now,
            restored_after_milliseconds=0 if not seen.may_serve(stable.name) else None,
        ),
        None,
    )
    draft.emit("Warning", reason, message)
    kept = RevisionStatus.model_validate(previous.model_dump(exclude={"until"}))
    draft.update(stable=kept, previous=None)
    return True


def _record(
    draft: ServingDraft,
    seen: ServingObservation,
    rejected: RevisionStatus,
    rollback: RollbackStatus,
    rollout: RolloutStatus | None,
) -> None:
    served = seen.router.counted(rejected.name).requests if seen.router else 0
    rollback = rollback.model_copy(update={"requests_served_by_rejected": served})
    start = rollout.start_time if rollout else rollback.time
    history = remember(
        draft.status,
        rejected,
        Outcome.ROLLED_BACK,
        start=start,
        now=draft.now,
        limit=draft.spec.revision_history_limit,
    )
    draft.update(last_rollback=rollback, history=history)
    served_by = f"revision {rollback.to_revision}" if rollback.to_revision else "no revision"
    draft.emit("Warning", "RolledBack", f"{served_by} serves again: {rollback.message}")
    target = draft.spec.rollout.rollback.notify
    if target is not None:
        draft.act(Notify(target.url, rollback))


def _milliseconds(span: timedelta) -> int:
    return max(0, round(span / timedelta(milliseconds=1)))
