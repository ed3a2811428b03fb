"""Kubernetes JSON -> the extracts that roll-outs are decided on. Draws no conclusions.

Called by reconcile/ for the objects of a ModelDeployment, and by the cache for their events.
"""

from collections.abc import Iterable

from pydantic import ValidationError

from tunesmith_api.labels import LABEL_REVISION
from tunesmith_api.revision import RevisionTemplate
from tunesmith_operator.kube.kinds import Object
from tunesmith_operator.kube.parse import controller_uid
from tunesmith_operator.planning.gathering import SeenRecord, SeenWorkload
from tunesmith_operator.planning.serving import ServingPod
from tunesmith_operator.resources.serving.record import DIGEST_ANNOTATION, TEMPLATE_KEY

REFUSED = "ModelRefused: "


def parse_record(body: Object) -> SeenRecord | None:
    """Extract a revision's record; None for a ConfigMap that cannot be one."""
    meta = body["metadata"]
    digest = (meta.get("annotations") or {}).get(DIGEST_ANNOTATION, "")
    try:
        template = RevisionTemplate.model_validate_json((body.get("data") or {})[TEMPLATE_KEY])
    except (KeyError, ValidationError):
        return None
    number = _number(meta)
    if not digest or not number:
        return None
    owner = controller_uid(meta, "ModelDeployment")
    return SeenRecord(meta["name"], meta["uid"], owner, digest, number, template)


def parse_workload(body: Object) -> SeenWorkload:
    """Extract a revision's Deployment."""
    meta, spec = body["metadata"], body.get("spec") or {}
    owner = controller_uid(meta, "ConfigMap")
    return SeenWorkload(meta["name"], meta["uid"], owner, spec.get("replicas", 1))


def parse_serving_pod(body: Object) -> ServingPod:
    """Extract a pod of a revision or of the router."""
    meta, status = body["metadata"], body.get("status") or {}
    conditions = {c["type"]: c for c in status.get("conditions") or ()}
    init = status.get("initContainerStatuses") or ()
    containers = [*init, *(status.get("containerStatuses") or ())]
    return ServingPod(
        name=meta["name"],
        uid=meta["uid"],
        revision=_number(meta),
        address=status.get("podIP", ""),
        is_ready=conditions.get("Ready", {}).get("status") == "True",
        is_terminating=bool(meta.get("deletionTimestamp")),
        restarts=sum(c.get("restartCount", 0) for c in status.get("containerStatuses") or ()),
        waiting=_waiting(conditions.get("PodScheduled", {}), containers),
        refusal=_refusal(init),
    )


def _number(meta: Object) -> int:
    text = (meta.get("labels") or {}).get(LABEL_REVISION, "")
    return int(text) if text.isdecimal() else 0


def _waiting(scheduled: Object, containers: Iterable[Object]) -> str:
    if scheduled.get("status") == "False":
        return str(scheduled.get("message", ""))
    for container in containers:
        waiting = (container.get("state") or {}).get("waiting") or {}
        reason = waiting.get("reason", "")
        if reason and reason not in ("PodInitializing", "ContainerCreating"):
            return f"{reason}: {waiting.get('message') or container.get('name')}"
    return ""


def _refusal(init: Iterable[Object]) -> str:
    for container in init:
        for state in (container.get("state") or {}, container.get("lastState") or {}):
            message = str((state.get("terminated") or {}).get("message") or "").strip()
            if message.startswith(REFUSED):
                return message.removeprefix(REFUSED)
    return ""
