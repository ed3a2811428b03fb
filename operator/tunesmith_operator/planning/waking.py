"""When a roll-out must be looked at again although nothing shows a change.

Pure; called last by decide_rollout. Clocks, counters and the operator's own writes wake nobody:
a decision that leaves work for later must ask for it here.
"""

from datetime import timedelta

from tunesmith_api.analysis import Verdict
from tunesmith_api.engine import RouterType
from tunesmith_operator.planning.analysis import next_sample_time
from tunesmith_operator.planning.early import next_look_time
from tunesmith_operator.planning.rejection import hold_end, ready_deadline
from tunesmith_operator.planning.serving import ServingObservation
from tunesmith_operator.planning.serving_draft import ServingDraft

# How long a burst of errors may go unseen; failFast is judged at every look.
_FAST_LOOK = timedelta(seconds=1)
# Nobody watches Events of pods: why one does not start is asked for again and again.
_EVENT_LOOK = timedelta(seconds=10)
# Nobody watches routes: whoever edits one, or refuses it later, is noticed at the next look.
_ROUTE_LOOK = timedelta(seconds=15)


def ask_to_be_woken(draft: ServingDraft, seen: ServingObservation) -> None:
    """Ask for a look at the earliest time at which the decision may be another one."""
    rollout, spec = draft.status.rollout, draft.spec.rollout
    if draft.spec.routing.router is RouterType.GATEWAY_API:
        draft.look_again_in(_ROUTE_LOOK)
    if rollout is None:
        return
    if rollout.abort is not None or (rollout.exposed_time and spec.fail_fast.consecutive_errors):
        draft.look_again_in(_FAST_LOOK)
    canary = seen.revision(draft.status.canary.name) if draft.status.canary else None
    if canary is not None and canary.is_starting:
        draft.look_again_in(_EVENT_LOOK)
    times = [next_sample_time(rollout, spec.analysis), next_look_time(rollout, spec.analysis)]
    if not draft.spec.paused:
        # A lack of data is found by a sample, never by the clock alone.
        times += [
            ready_deadline(rollout, spec) if rollout.unready_time else None,
            hold_end(rollout, spec) if rollout.verdict is Verdict.PASS else None,
        ]
    # What is over was acted on just now, or waits for something that wakes by itself.
    for time in times:
        if time is not None and time > draft.now:
            draft.look_again_at(time)
