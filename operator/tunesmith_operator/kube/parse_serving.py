"""Kubernetes JSON -> the extracts that roll-outs are decided on. Draws no conclusions.

Called by reconcile/ for the objects of a ModelDeployment, and by the cache for their events.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from tunesmith_api.artifacts import refusal
from tunesmith_api.labels import LABEL_HOST, LABEL_REVISION
from tunesmith_operator.kube.kinds import Object
from tunesmith_operator.kube.parse import controller_uid, parse_count, parse_time
from tunesmith_operator.planning.gathering import SeenRecord, SeenWorkload
from tunesmith_operator.planning.serving import SeenRouter, ServingPod, Traffic
from tunesmith_operator.planning.starting import QUIET_REASONS
from tunesmith_operator.resources.serving.record import RecordError, read_record

_LINE = 300
_TOGETHER = timedelta(minutes=1)
"""So far apart do containers end that a node shuts down: the sidecar finishes its requests."""


def parse_record(body: Object) -> SeenRecord | None:
    """Extract a revision's record; None for a ConfigMap that cannot be one."""
    meta = body["metadata"]
    try:
        said = read_record(meta["name"], body.get("data") or {})
    except RecordError:
        return None
    owner = controller_uid(meta, "ModelDeployment")
    return SeenRecord(said.name, meta["uid"], owner, said.digest, said.number, said.template)


def parse_workload(body: Object) -> SeenWorkload:
    """Extract a revision's Deployment, or a host's."""
    meta, spec = body["metadata"], body.get("spec") or {}
    is_host = LABEL_HOST in (meta.get("labels") or {})
    owner = controller_uid(meta, "ModelDeployment" if is_host else "ConfigMap")
    conditions = (body.get("status") or {}).get("conditions") or ()
    failures = (
        str(c.get("message", ""))
        for c in conditions
        if c["type"] == "ReplicaFailure" and c["status"] == "True"
    )
    return SeenWorkload(
        meta["name"], meta["uid"], owner, spec.get("replicas", 1), next(failures, ""), is_host
    )


def parse_serving_pod(body: Object) -> ServingPod:
    """Extract a pod of a revision, of a host or of the router."""
    meta, status = body["metadata"], body.get("status") or {}
    conditions = {c["type"]: c for c in status.get("conditions") or ()}
    init = status.get("initContainerStatuses") or ()
    main = status.get("containerStatuses") or ()
    containers = [*init, *main]
    restarts = _own_restarts(main)
    return ServingPod(
        name=meta["name"],
        uid=meta["uid"],
        revision=_number(meta),
        host=(meta.get("labels") or {}).get(LABEL_HOST, ""),
        address=status.get("podIP", ""),
        is_ready=conditions.get("Ready", {}).get("status") == "True",
        # One that was evicted stays as Failed until somebody clears up, address and all.
        is_terminating=bool(meta.get("deletionTimestamp"))
        or status.get("phase") in ("Failed", "Succeeded"),
        restarts=restarts,
        last_restart=_last_restart(main) if restarts else None,
        waiting=_waiting(conditions.get("PodScheduled", {}), containers),
        starting=_starting(body, containers),
        refusal=_refusal(init),
    )


def parse_route(body: Object) -> SeenRouter:
    """Extract what an HTTPRoute of ours does; it is settled once every Gateway has accepted it."""
    meta, rules = body["metadata"], (body.get("spec") or {}).get("rules") or [{}]
    rule = rules[0]
    backends = {b["name"]: b.get("weight", 1) for b in rule.get("backendRefs") or ()}
    mirrors = [f["requestMirror"] for f in rule.get("filters") or () if "requestMirror" in f]
    parents = (body.get("status") or {}).get("parents") or ()
    wanted = len((body.get("spec") or {}).get("parentRefs") or ())
    generation = meta.get("generation", 0)
    accepted = sum(_is_accepted(parent, generation) for parent in parents)
    refusals = (_refused(parent, generation) for parent in parents)
    nobody = "" if parents else "no Gateway of routing.gateway.parentRefs has taken notice of it"
    return SeenRouter(
        traffic=_split(backends, mirrors) if backends else None,
        is_settled=len(rules) == 1 and 0 < wanted <= accepted,
        refusal=next((refusal for refusal in refusals if refusal), nobody),
    )


def _split(backends: dict[str, int], mirrors: list[Object]) -> Traffic:
    main, *others = backends
    canary = others[0] if others else ""
    weight = backends.get(canary, 0)
    if len(others) > 1 or backends[main] + weight != 100:
        # Not a split that we ever write: somebody edited it, and it has to be written again.
        return Traffic(main="")
    percent = int(mirrors[0].get("percent", 100)) if mirrors else 0
    return Traffic(main, canary, weight, percent)


def _is_accepted(parent: Object, generation: int) -> bool:
    said = _said(parent, generation)
    return said.get("Accepted", {}).get("status") == "True" and not _refused(parent, generation)


def _refused(parent: Object, generation: int) -> str:
    """Give why a Gateway does not do it; one that cannot find a Service answers 500 instead."""
    for condition in _said(parent, generation).values():
        if condition.get("type") in ("Accepted", "ResolvedRefs") and condition["status"] == "False":
            return f"{condition.get('reason', '')}: {condition.get('message', '')}"
    return ""


def _said(parent: Object, generation: int) -> dict[str, Object]:
    """Give what is said of this generation, by type."""
    conditions = parent.get("conditions") or ()
    return {c["type"]: c for c in conditions if c.get("observedGeneration", 0) >= generation}


def _number(meta: Object) -> int:
    text = (meta.get("labels") or {}).get(LABEL_REVISION, "")
    return parse_count(text) or 0


def _own_restarts(containers: Sequence[Object]) -> int:
    """Count restarts, but for those that all containers of the pod went through together.

    After a reboot of the node the kubelet counts one for each, with whatever exit code and reason
    the shutdown left behind: that is not the model's doing. An engine that ends leaves the sidecar.
    """
    together = min(map(_ends, containers)) if len(containers) > 1 else 0
    return sum(max(0, c.get("restartCount", 0) - together) for c in containers)


def _ends(container: Object) -> int:
    """Count how often a container ended: once more than it was started again while it is down."""
    state = container.get("state") or {}
    is_back_off = (state.get("waiting") or {}).get("reason") == "CrashLoopBackOff"
    is_down = is_back_off or "terminated" in state
    return int(container.get("restartCount", 0)) + is_down


def _last_restart(containers: Sequence[Object]) -> datetime | None:
    """Give when a container ended last that was started again; None where all ended together."""
    last = [_end(c.get("lastState")) for c in containers]
    ends = [_end(c.get("state")) or end for c, end in zip(containers, last, strict=True)]
    known = [end for end in ends if end is not None]
    is_pods = len(containers) > 1 and len(known) == len(containers)
    if is_pods and max(known) - min(known) <= _TOGETHER:
        return None
    return max((end for end in last if end is not None), default=None)


def _end(state: Object | None) -> datetime | None:
    text = ((state or {}).get("terminated") or {}).get("finishedAt")
    return datetime.fromisoformat(text) if text else None


def _waiting(scheduled: Object, containers: Iterable[Object]) -> str:
    if scheduled.get("status") == "False":
        return str(scheduled.get("message", ""))
    for container in containers:
        state = container.get("state") or {}
        waiting = state.get("waiting") or {}
        reason = waiting.get("reason", "")
        if reason and reason in QUIET_REASONS:
            continue
        # Why it failed tells more than how long the kubelet will wait.
        if words := _last_words(container):
            return f"container {container.get('name')} failed: {words}"
        if reason:
            return f"{reason}: {waiting.get('message') or container.get('name')}"
    return ""


def _starting(body: Object, containers: Sequence[Object]) -> datetime | None:
    """Give when a pod was made that is on a node which has begun none of its containers."""
    is_placed = bool((body.get("spec") or {}).get("nodeName"))
    is_pending = (body.get("status") or {}).get("phase", "Pending") == "Pending"
    if not is_placed or not is_pending or any(map(_has_begun, containers)):
        return None
    return parse_time(body["metadata"].get("creationTimestamp"))


def _has_begun(container: Object) -> bool:
    """Whether a container has run, or its status says why it has not."""
    state = container.get("state") or {}
    reason = (state.get("waiting") or {}).get("reason", "")
    has_run = "running" in state or "terminated" in state or container.get("lastState")
    return bool(has_run) or reason not in QUIET_REASONS


def _last_words(container: Object) -> str:
    """Give the last line of a container that failed and does not run."""
    state, last = container.get("state") or {}, container.get("lastState") or {}
    # One that waits for something else, such as its image, has not failed just now.
    is_back = (state.get("waiting") or {}).get("reason") == "CrashLoopBackOff"
    ended = state.get("terminated") or (last.get("terminated") if is_back else None) or {}
    lines = str(ended.get("message") or "").split("\n") if ended.get("exitCode") else []
    return next((line.strip()[:_LINE] for line in reversed(lines) if line.strip()), "")


def _refusal(init: Iterable[Object]) -> str:
    for container in init:
        for state in (container.get("state") or {}, container.get("lastState") or {}):
            why = refusal(str((state.get("terminated") or {}).get("message") or ""))
            if why:
                return why
    return ""
