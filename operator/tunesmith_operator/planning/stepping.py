"""One roll-out from its first step to its promotion or rejection.

Pure; called by decide_rollout. A step is: pods ready, weight granted, router seen with it, hold
and samples, then Pass lets it go on. The weight is written into the status before the router is
told, and it never rises without a Pass, but for the first exposure of a canary that is ready.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from tunesmith_api.analysis import Verdict
from tunesmith_api.deploymentstatus import MetricStatus, RolloutStatus
from tunesmith_api.rollout import Approval, CapacityMode
from tunesmith_operator.planning.analysis import (
    begin_step,
    has_data,
    is_sample_due,
    overall,
    take,
)
from tunesmith_operator.planning.capacity import carried_weight
from tunesmith_operator.planning.early import is_look_due, take_early, was_early
from tunesmith_operator.planning.hosting import shares_pods
from tunesmith_operator.planning.needs import needed_pods, ready_pods, sizing
from tunesmith_operator.planning.promotion import promote
from tunesmith_operator.planning.rejection import Rejection, awaits, hold_end, reason_to_reject
from tunesmith_operator.planning.rollback import reject
from tunesmith_operator.planning.serving import SeenRevision, ServingObservation
from tunesmith_operator.planning.serving_draft import ServingDraft
from tunesmith_operator.planning.traffic import choose_traffic, compared

NO_ABSENCE = timedelta(seconds=10)
"""A burst of objects makes a pass so late; that is no absence."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What speaks against a canary that was not rejected for it."""

    held_by: Rejection | None = None
    """Why it would be rejected if rollback.automatic were true, or if there were a stable."""


def target_weight(draft: ServingDraft, rollout: RolloutStatus) -> int:
    """Give the weight of the roll-out's step; 100 after the last."""
    steps = draft.spec.rollout.steps
    if rollout.skips_analysis or rollout.step >= len(steps):
        return 100
    return steps[rollout.step].weight


def mirror_percent(draft: ServingDraft, rollout: RolloutStatus | None) -> int:
    """Give the share of copies that the roll-out's step asks for."""
    steps = draft.spec.rollout.steps
    if rollout is None or rollout.skips_analysis or rollout.step >= len(steps):
        return 0
    # A canary that still waits for the pods of a dark launch gets nothing, not even copies.
    is_dark = rollout.unready_time is not None or rollout.exposed_time is None
    return 0 if is_dark else steps[rollout.step].mirror_percent


def progress(draft: ServingDraft, seen: ServingObservation, *, may_rise: bool) -> Standing:
    """Take the roll-out as far as it can go now."""
    _interrupt(draft, seen)
    _sample(draft, seen)
    _come_back(draft, seen)
    _note_readiness(draft, seen)
    rollout = _rollout(draft)
    why = reason_to_reject(seen, rollout, _canary(draft, seen), draft.now)
    if why is not None and draft.status.stable is not None:
        if not draft.spec.rollout.rollback.automatic:
            return Standing(held_by=why)
        reject(draft, rollout, why)
        return Standing()
    if may_rise:
        _advance(draft, seen)
        _grant(draft, seen)
    # With nothing to go back to, what speaks against the first revision is only said.
    return Standing(held_by=why if draft.status.stable is None else None)


def _rollout(draft: ServingDraft) -> RolloutStatus:
    assert draft.status.rollout is not None  # noqa: S101 - progress is for a roll-out in progress
    return draft.status.rollout


def _canary(draft: ServingDraft, seen: ServingObservation) -> SeenRevision | None:
    return seen.revision(draft.status.canary.name) if draft.status.canary else None


def _interrupt(draft: ServingDraft, seen: ServingObservation) -> None:
    """Begin again when the last ready pod of a canary with traffic is lost.

    An eviction says nothing of the model, so it is not rejected for it; but what was learned of
    the pods that are gone is not carried over to others.
    """
    rollout, canary = _rollout(draft), _canary(draft, seen)
    had_traffic = rollout.weight > 0 or rollout.step_start_time is not None
    if not had_traffic or (canary is not None and canary.ready_replicas > 0):
        return
    if rollout.stable_crash_loops and not ready_pods(seen, draft.status.stable):
        return  # the same pods will come back, and stable may take them down again at any time
    draft.update_rollout(
        step=0,
        weight=0,
        step_start_time=None,
        unready_time=draft.now,
        interruptions=rollout.interruptions + 1,
        metrics=begin_step(rollout.metrics),
        verdict=Verdict.NO_DATA,
        data_time=None,
    )
    draft.emit("Warning", "CanaryInterrupted", "The canary lost all its ready pods: begins again")


def _sample(draft: ServingDraft, seen: ServingObservation) -> None:
    """Judge fresh values, each set of them once."""
    rollout, sampling = _rollout(draft), seen.sampling
    analysis = draft.spec.rollout.analysis
    if sampling is None or sampling.digest != rollout.digest:
        return
    is_due = is_look_due if sampling.is_early else is_sample_due
    if not is_due(rollout, analysis, sampling.taken, _canary(draft, seen)):
        return
    has_stable = _has_yardstick(draft, seen)
    metrics: tuple[MetricStatus, ...] | None
    if sampling.is_early:
        rollout = draft.update_rollout(look_time=sampling.taken)
        metrics = take_early(analysis, rollout, sampling, has_stable=has_stable)
    else:
        metrics = take(analysis, rollout.metrics, sampling, has_stable=has_stable)
    if metrics is None:
        return
    draft.update_rollout(
        metrics=metrics,
        verdict=overall(analysis, metrics),
        sample_time=sampling.taken,
        data_time=sampling.taken if has_data(analysis, metrics) else rollout.data_time,
    )


def _come_back(draft: ServingDraft, seen: ServingObservation) -> None:
    """Await pods and data anew after a time in which nobody looked.

    It says nothing of the canary: pods may never have been made, and nothing was measured. A Pass
    from before it lets no weight rise either. Failures still count.
    """
    rollout = _rollout(draft)
    if not seen.was_away:
        return
    draft.update_rollout(
        unready_time=_begun_anew(rollout.unready_time, draft.now),
        data_time=_begun_anew(rollout.data_time, draft.now),
        metrics=begin_step(rollout.metrics),
        verdict=Verdict.NO_DATA,
    )


def _begun_anew(since: datetime | None, now: datetime) -> datetime | None:
    """Give ``now`` for a clock that ran while nobody looked.

    One that began a moment ago stays: a pass that is repeated because the answer to its write was
    lost must want the same, or it would write, and lose, another status each time.
    """
    return now if since is not None and now - since > NO_ABSENCE else since


def _note_readiness(draft: ServingDraft, seen: ServingObservation) -> None:
    """Keep since when pods, and data, are awaited.

    A pause stops both clocks, and only that of data stops while a person is waited for: people
    sleep when traffic does, and what they decide in the morning is not overtaken by the night.
    It stops, too, while one of the two gets no requests: whatever is missing then, the canary does
    not owe it.
    """
    rollout = _rollout(draft)
    if draft.spec.paused:
        draft.update_rollout(unready_time=None, data_time=None)
        return
    if awaits(draft.spec.rollout, rollout, draft.now) or not _is_tried(draft, seen):
        rollout = draft.update_rollout(data_time=None)
    elif rollout.step_start_time is not None and rollout.data_time is None:
        rollout = draft.update_rollout(data_time=draft.now)
    if _is_ready_for(draft, seen, target_weight(draft, rollout)):
        draft.update_rollout(unready_time=None)
    elif rollout.unready_time is None:
        draft.update_rollout(unready_time=draft.now)


def _is_tried(draft: ServingDraft, seen: ServingObservation) -> bool:
    """Whether the router, as far as it says, sends requests to the canary and what it is held to.

    It does not while the canary stands in for stable, or after somebody has edited the split.
    """
    canary, beside, traffic = (
        draft.status.canary,
        compared(draft.status, seen.traffic),
        seen.traffic,
    )
    if canary is None or beside is None or traffic is None or _rollout(draft).weight == 100:
        return True
    return traffic.touches(canary.name) and traffic.share(beside.name) > 0


def _has_yardstick(draft: ServingDraft, seen: ServingObservation) -> bool:
    """Whether there are answers to compare with; pods may be too few to take their traffic back."""
    beside, traffic = compared(draft.status, seen.traffic), seen.traffic
    has_share = beside is not None and (traffic is None or traffic.share(beside.name) > 0)
    return has_share and ready_pods(seen, beside) > 0


def _is_ready_for(draft: ServingDraft, seen: ServingObservation, weight: int) -> bool:
    canary = _canary(draft, seen)
    needed = needed_pods(draft, seen, weight)
    return canary is not None and canary.has_workload and canary.ready_replicas >= needed


def _advance(draft: ServingDraft, seen: ServingObservation) -> None:
    """Begin the step's time once the router has it, and go on when it has passed."""
    rollout = _rollout(draft)
    if _has_arrived(draft, seen, rollout):
        if target_weight(draft, rollout) == 100:
            promote(draft, rollout, has_room=_has_room(draft, seen))
            return
        if rollout.step_start_time is None:
            rollout = draft.update_rollout(
                step_start_time=draft.now,
                data_time=draft.now,
                metrics=begin_step(rollout.metrics),
                verdict=Verdict.NO_DATA,
            )
    if _has_passed(draft, rollout) and _is_approved(draft, rollout):
        draft.update_rollout(
            step=rollout.step + 1, step_start_time=None, metrics=begin_step(rollout.metrics)
        )
        _note_readiness(draft, seen)


def _has_arrived(draft: ServingDraft, seen: ServingObservation, rollout: RolloutStatus) -> bool:
    """Whether every router pod does what the step asks for."""
    if seen.router is None or not seen.router.is_settled or rollout.unready_time is not None:
        return False
    if rollout.weight != target_weight(draft, rollout):
        return False
    wanted = choose_traffic(seen, draft.status, mirror_percent(draft, rollout))
    if target_weight(draft, rollout) == 100:
        # Only what is promoted on purpose: a stand-in for a broken stable is not.
        return wanted == seen.traffic and _carries_all(draft, seen)
    return wanted == seen.traffic


def _has_room(draft: ServingDraft, seen: ServingObservation) -> bool:
    """Whether the former stable may stay warm; on shared pods it costs none."""
    is_surge = draft.spec.rollout.capacity.mode is CapacityMode.SURGE
    return is_surge or shares_pods(draft, seen)


def _carries_all(draft: ServingDraft, seen: ServingObservation) -> bool:
    canary, traffic = draft.status.canary, seen.traffic
    return canary is not None and traffic is not None and traffic.share(canary.name) == 100


def _has_passed(draft: ServingDraft, rollout: RolloutStatus) -> bool:
    end = hold_end(rollout, draft.spec.rollout)
    is_held = end is None or draft.now < end
    has_passed = rollout.verdict is Verdict.PASS and not was_early(rollout)
    return not rollout.skips_analysis and not is_held and has_passed


def _is_approved(draft: ServingDraft, rollout: RolloutStatus) -> bool:
    spec = draft.spec.rollout
    if rollout.step < len(spec.steps) - 1 or spec.approval is Approval.AUTOMATIC:
        return True
    return spec.approved_digest == rollout.digest


def _grant(draft: ServingDraft, seen: ServingObservation) -> None:
    """Let the weight rise to that of the step as far as there are pods for it."""
    if draft.status.rollout is None:
        return
    rollout, canary = draft.status.rollout, _canary(draft, seen)
    target = target_weight(draft, rollout)
    weight = rollout.weight
    if _is_ready_for(draft, seen, target):
        weight = max(weight, target)
    elif canary is not None and draft.status.stable is not None:
        carried = carried_weight(sizing(draft, seen), canary.ready_replicas, target)
        weight = max(weight, carried)
    steps = draft.spec.rollout.steps
    mirrors = rollout.step < len(steps) and steps[rollout.step].mirror_percent > 0
    is_exposed = weight > 0 or (mirrors and rollout.unready_time is None)
    draft.update_rollout(
        weight=weight,
        exposed_time=rollout.exposed_time or (draft.now if is_exposed else None),
    )
