"""The end of a roll-out that every step has passed: the canary becomes stable.

Pure; called by ``stepping``. The other end is in ``rollback``.
"""

from datetime import timedelta

from tunesmith_api.deploymentstatus import Outcome, PreviousStatus, RolloutStatus
from tunesmith_operator.planning.revisions import remember
from tunesmith_operator.planning.serving_draft import ServingDraft


def promote(draft: ServingDraft, rollout: RolloutStatus, *, has_room: bool) -> None:
    """Make the canary stable; where there is room, the former stable stays warm for a while."""
    status, spec = draft.status, draft.spec.rollout
    canary = status.canary
    assert canary is not None  # noqa: S101 - it has just been seen with all of the traffic
    previous = None
    keep = timedelta(seconds=spec.rollback.keep_stable_warm_seconds)
    if status.stable is not None and keep and has_room:
        previous = PreviousStatus(**status.stable.model_dump(), until=draft.now + keep)
    history = remember(
        status,
        canary,
        Outcome.PROMOTED,
        start=rollout.start_time,
        now=draft.now,
        limit=draft.spec.revision_history_limit,
    )
    draft.update(
        stable=canary,
        canary=None,
        previous=previous,
        rollout=None,
        history=history,
        # It has proved itself: an old rejection under another plan counts no more.
        rejected=tuple(r for r in status.rejected if r.digest != canary.digest),
    )
    draft.emit("Normal", "Promoted", f"Revision {canary.revision} takes all requests")
    draft.look_again_in(timedelta())
