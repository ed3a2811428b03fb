"""Kubernetes JSON -> the frozen extracts that decisions are made on. The only place that digs.

Called by the cache for each watch event and each listed object. Draws no conclusions. An object
that lacks what we put there ourselves (a label, a stage) is not ours and becomes None.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from tunesmith_api.attempts import StageName
from tunesmith_api.engine import EngineType, engine_type
from tunesmith_api.labels import LABEL_ATTEMPT, LABEL_JOB_UID, LABEL_STAGE
from tunesmith_api.modeldeployment import Delivery
from tunesmith_operator.kube.kinds import Object
from tunesmith_operator.planning.observed import (
    SeenArtifact,
    SeenJob,
    SeenPod,
    SeenTarget,
    SeenVersion,
)
from tunesmith_operator.planning.sources import servable_formats

_MADE_BY = "batch.kubernetes.io/controller-uid"
INDEX_ANNOTATION = "batch.kubernetes.io/job-completion-index"
_COUNT_DIGITS = 10
_EPOCH = datetime.fromtimestamp(0, UTC)


def parse_time(text: str | None) -> datetime | None:
    """Parse a Kubernetes timestamp."""
    return datetime.fromisoformat(text) if text else None


def parse_count(text: str) -> int | None:
    """Parse what we or Kubernetes have written as a count; None for what anybody else has."""
    # Python refuses to parse thousands of digits, which fit into an annotation.
    return int(text) if text.isdecimal() and len(text) < _COUNT_DIGITS else None


def controller_uid(meta: Object, kind: str) -> str:
    """Return the uid of the controlling owner of that kind, or an empty string."""
    for owner in meta.get("ownerReferences") or ():
        if owner.get("controller") and owner.get("kind") == kind:
            return str(owner["uid"])
    return ""


def parse_job(body: Object) -> SeenJob | None:
    """Extract an attempt's Job, without its pods; None for a Job that is not an attempt."""
    meta, spec, status = body["metadata"], body.get("spec") or {}, body.get("status") or {}
    labels = meta.get("labels") or {}
    stage, attempt = labels.get(LABEL_STAGE, ""), labels.get(LABEL_ATTEMPT, "")
    if stage not in set(StageName) or (number := parse_count(attempt)) is None:
        return None
    conditions = _true_conditions(status)
    failed, complete = conditions.get("Failed"), conditions.get("Complete")
    ended = failed or complete or {}
    containers = spec.get("template", {}).get("spec", {}).get("containers") or [{}]
    return SeenJob(
        name=meta["name"],
        uid=meta["uid"],
        owner_uid=controller_uid(meta, "FineTuneJob"),
        stage=StageName(stage),
        attempt=number,
        created=parse_time(meta.get("creationTimestamp")) or _EPOCH,
        started=parse_time(status.get("startTime")),
        parallelism=spec.get("parallelism", 1),
        is_deleting=bool(meta.get("deletionTimestamp")),
        is_suspended=bool(spec.get("suspend")),
        is_complete=complete is not None,
        is_failed=failed is not None,
        failure_reason=(failed or {}).get("reason", ""),
        finished=parse_time(ended.get("lastTransitionTime")),
        image=containers[0].get("image", ""),
    )


def parse_pod(body: Object) -> SeenPod:
    """Extract a pod of an attempt."""
    meta, spec, status = body["metadata"], body.get("spec") or {}, body.get("status") or {}
    notes = meta.get("annotations") or {}
    conditions = status.get("conditions") or ()
    init = _container_facts(status.get("initContainerStatuses") or ())
    main = _container_facts(status.get("containerStatuses") or ())
    # An init container that cannot start or fails is why the main one never runs.
    facts = init if not main.get("started") and _is_stuck(init) else main
    return SeenPod(
        name=meta["name"],
        uid=meta["uid"],
        # Its own Job's label stays on a pod that `kubectl delete --cascade=orphan` has left alone.
        job_uid=controller_uid(meta, "Job") or (meta.get("labels") or {}).get(_MADE_BY, ""),
        phase=status.get("phase", "Pending"),
        index=parse_count(notes.get(INDEX_ANNOTATION, "")) or 0,
        ip=status.get("podIP", ""),
        node=spec.get("nodeName", ""),
        created=parse_time(meta.get("creationTimestamp")),
        is_terminating=bool(meta.get("deletionTimestamp")),
        unschedulable=_condition(conditions, "PodScheduled", "False", "message", "Unschedulable"),
        status_reason=status.get("reason", ""),
        disruption=_condition(conditions, "DisruptionTarget", "True", "reason"),
        **facts,
    )


def parse_version(body: Object) -> SeenVersion:
    """Extract what the next version's name depends on, and where it was offered."""
    meta, spec = body["metadata"], body.get("spec") or {}
    offered = spec.get("offeredTo") or {}
    return SeenVersion(
        name=meta["name"],
        model=spec.get("model", ""),
        version=spec.get("version", ""),
        job_uid=(meta.get("labels") or {}).get(LABEL_JOB_UID, ""),
        deployment=offered.get("deployment", ""),
        channel=offered.get("channel", ""),
        created=parse_time(meta.get("creationTimestamp")),
        base_uri=(spec.get("baseModel") or {}).get("uri", ""),
        artifacts=tuple(
            SeenArtifact(one["format"], one["uri"], one["digest"])
            for one in spec.get("artifacts") or ()
        ),
    )


def parse_target(body: Object | None) -> SeenTarget:
    """Extract what a ModelDeployment follows; None is one that does not exist."""
    if body is None or body["metadata"].get("deletionTimestamp"):
        return SeenTarget(exists=False)
    spec = body.get("spec") or {}
    source, engine = spec.get("source") or {}, engine_type(spec.get("engine") or {})
    stable = (body.get("status") or {}).get("stable") or {}
    try:
        formats = servable_formats(Delivery(spec.get("delivery", "")), EngineType(engine))
    except ValueError:
        formats = ()
    return SeenTarget(
        exists=True,
        model=source.get("model", ""),
        channel=source.get("channel", ""),
        engine=engine,
        formats=formats,
        stable=stable.get("version", ""),
    )


def newest_message(events: Iterable[Object]) -> str:
    """Return what the last of some Events says; empty where there is none."""
    newest = max(events, key=_event_time, default={})
    return str(newest.get("message") or "")


def newest_warning(events: Iterable[Object]) -> str:
    """Return what the last of some Events warns of; empty where that is no warning."""
    newest = max(events, key=_event_time, default={})
    return str(newest.get("message") or "") if newest.get("type") == "Warning" else ""


def _event_time(event: Object) -> datetime:
    # Recorders of the older and of the newer kind of Event set different fields.
    said = event.get("lastTimestamp") or event.get("eventTime")
    return parse_time(said or event["metadata"].get("creationTimestamp")) or _EPOCH


def _true_conditions(status: Object) -> dict[str, Object]:
    return {c["type"]: c for c in status.get("conditions") or () if c.get("status") == "True"}


def _condition(
    conditions: Iterable[Object], type_: str, status: str, field: str, reason: str = ""
) -> str:
    for condition in conditions:
        if condition.get("type") == type_ and condition.get("status") == status:
            if reason and condition.get("reason") != reason:
                continue
            return str(condition.get(field) or "")
    return ""


def _is_stuck(facts: dict[str, Any]) -> bool:
    return bool(facts.get("waiting_reason")) or facts.get("exit_code") not in (None, 0)


def _container_facts(statuses: Iterable[Object]) -> dict[str, Any]:
    """Return the facts of the container that tells most: one that failed, else the first."""
    chosen: dict[str, Any] = {}
    for status in statuses:
        facts = _one_container(status)
        if not chosen or (_is_stuck(facts) and not _is_stuck(chosen)):
            chosen = facts
    return chosen


def _one_container(status: Object) -> dict[str, Any]:
    state = status.get("state") or {}
    running, waiting = state.get("running") or {}, state.get("waiting") or {}
    ended = state.get("terminated") or {}
    return {
        "started": parse_time(running.get("startedAt") or ended.get("startedAt")),
        "finished": parse_time(ended.get("finishedAt")),
        "waiting_reason": waiting.get("reason", ""),
        "waiting_message": waiting.get("message", ""),
        "exit_code": ended.get("exitCode"),
        "exit_reason": ended.get("reason", ""),
        "termination_message": ended.get("message", ""),
        "image_id": status.get("imageID", ""),
    }
