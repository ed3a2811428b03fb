"""What comes next for a ModelDeployment: the whole of a roll-out's life on one page.

    a rejected roll-out is open       finish it: traffic back, then close
    the promoted stable crash-loops   back to the former stable while that is warm
    the source cannot be resolved     no weight rises; what serves goes on
    wanted is stable                  at once; a roll-out of anything else is dropped
    wanted was rejected               held until the spec changes
    wanted is new, or the plan is     begin at the first step
    a roll-out is open                steps, samples, promotion or rejection (stepping.py)

A pure function of what was seen and the time; the status is its only memory, and the shell
writes it before it acts. Whatever the rows decide, traffic and pods follow from the status
alone (placement.py), so every pass repeats what a dead operator left undone.
"""

from datetime import datetime, timedelta

from tunesmith_api.conditions import DeploymentReason
from tunesmith_api.deploymentstatus import Outcome, RolloutStatus
from tunesmith_api.modeldeployment import Delivery
from tunesmith_api.revision import RevisionTemplate
from tunesmith_operator.planning.hosting import host_of, stable_crash_loops
from tunesmith_operator.planning.placement import place
from tunesmith_operator.planning.revisions import (
    is_fast_track,
    is_rejected,
    next_revision,
    plan_digest,
    remember,
    revision_digest,
)
from tunesmith_operator.planning.rollback import fall_back, finish_rollback
from tunesmith_operator.planning.serving import ServingObservation
from tunesmith_operator.planning.serving_actions import ServingDecision
from tunesmith_operator.planning.serving_draft import ServingDraft
from tunesmith_operator.planning.serving_report import report
from tunesmith_operator.planning.sources import SourceObjection, resolve
from tunesmith_operator.planning.stepping import Standing, progress
from tunesmith_operator.planning.waking import ask_to_be_woken


def decide_rollout(seen: ServingObservation, now: datetime) -> ServingDecision:
    """Choose what comes next. Pure: the same input gives the same decision."""
    # Milliseconds are kept, because a rollback is measured in them.
    now = now.replace(microsecond=now.microsecond // 1000 * 1000)
    deployment = seen.deployment
    source = resolve(deployment.spec, seen.versions, seen.unreadable)
    if seen.unservable and isinstance(source, RevisionTemplate):
        source = SourceObjection(DeploymentReason.UNSERVABLE, seen.unservable)
    template = source if isinstance(source, RevisionTemplate) else None
    draft = ServingDraft(
        status=deployment.status,
        spec=deployment.spec,
        generation=deployment.metadata.generation,
        now=now,
        wanted=revision_digest(template) if template else None,
        wanted_host=host_of(deployment.metadata.name, template) if template else "",
        plan=plan_digest(deployment.spec.rollout),
    )
    if deployment.metadata.deletion_timestamp is not None:
        return draft.decision()  # the garbage collector takes the children
    standing = _steer(draft, seen, template)
    _let_go(draft, seen)
    place(draft, seen, template)
    objection = source if isinstance(source, SourceObjection) else None
    report(draft, seen, objection, standing)
    ask_to_be_woken(draft, seen)
    return draft.decision()


def _steer(
    draft: ServingDraft, seen: ServingObservation, template: RevisionTemplate | None
) -> Standing:
    """Walk down the table above."""
    rollout = draft.status.rollout
    if rollout is not None and rollout.abort is not None:
        finish_rollback(draft, seen)
        return Standing()
    if rollout is None and fall_back(draft, seen):
        return Standing()
    if template is not None and draft.wanted is not None:
        _follow(draft, seen, template, draft.wanted)
    rollout = draft.status.rollout
    if rollout is None:
        return Standing()
    is_wanted = (rollout.digest, rollout.plan) == (draft.wanted, draft.plan)
    return progress(draft, seen, may_rise=is_wanted and not draft.spec.paused)


def _follow(
    draft: ServingDraft, seen: ServingObservation, template: RevisionTemplate, wanted: str
) -> None:
    """Begin, begin again or drop a roll-out, as the spec asks for."""
    status, plan = draft.status, draft.plan
    is_stable = status.stable is not None and status.stable.digest == wanted
    is_held = status.stable is not None and is_rejected(status, wanted, plan)
    if is_stable or is_held:
        if status.rollout is not None:
            _drop(draft)
        return
    is_running = status.rollout is not None and status.rollout.digest == wanted
    if is_running and status.rollout is not None and status.rollout.plan == plan:
        return
    if draft.spec.paused:
        return
    if not is_running and status.rollout is not None:
        _drop(draft)
    _begin(draft, seen, template, wanted)


def _drop(draft: ServingDraft) -> None:
    """Leave a roll-out that nobody wants any more; stable gets all of the traffic at once."""
    status = draft.status
    if status.rollout is None or status.canary is None:
        return
    history = remember(
        status,
        status.canary,
        Outcome.SUPERSEDED,
        start=status.rollout.start_time,
        now=draft.now,
        limit=draft.spec.revision_history_limit,
    )
    draft.emit("Normal", "Superseded", f"Revision {status.canary.revision} is no longer wanted")
    draft.update(canary=None, rollout=None, history=history)


def _begin(
    draft: ServingDraft,
    seen: ServingObservation,
    template: RevisionTemplate,
    wanted: str,
) -> None:
    """Begin at the first step, with the plan as it is now."""
    status = draft.status
    canary = next_revision(seen, status, wanted, template)
    fast = is_fast_track(status, wanted, draft.spec.rollout.rollback.fast_track_revisions)
    rollout = RolloutStatus(
        digest=wanted,
        plan=draft.plan,
        start_time=draft.now,
        skips_analysis=fast or status.stable is None,
        unready_time=draft.now,
    )
    # The former stable may be what is asked for again: its pods are still there.
    is_previous = status.previous is not None and status.previous.name == canary.name
    draft.update(
        canary=canary,
        rollout=rollout,
        previous=None if is_previous else status.previous,
        last_revision=max(status.last_revision, canary.revision),
    )
    how = "at the first step"
    if rollout.skips_analysis:
        how = "without steps: " + ("it served before" if fast else "nothing serves yet")
    draft.emit("Normal", "RolloutStarted", f"Revision {canary.revision} is rolled out {how}")
    if stable_crash_loops(draft, seen):
        draft.update_rollout(stable_crash_loops=True)
        draft.emit(
            "Warning",
            "StableCrashLoops",
            "Containers of the pods that it shares with stable ended again and again before: that"
            f" does not speak against revision {canary.revision}",
        )
    _warn_of_base(draft, template)


def _warn_of_base(draft: ServingDraft, template: RevisionTemplate) -> None:
    if template.delivery is Delivery.ADAPTER and not template.is_base_known:
        draft.emit(
            "Warning",
            "BaseModelUnverified",
            f"ModelVersion {template.version} names no commit or digest of its base model"
            f" {template.base_model_uri}, so the pods take whatever is there: name it as"
            " spec.baseModel.revision in a new ModelVersion",
        )


def _let_go(draft: ServingDraft, seen: ServingObservation) -> None:
    """Forget the former stable when its time is over and nothing needs it."""
    previous = draft.status.previous
    if previous is None:
        return
    if draft.now < previous.until:
        draft.look_again_at(previous.until)
    elif not seen.may_serve(previous.name):
        draft.update(previous=None)
    else:
        draft.look_again_in(timedelta(seconds=5))
