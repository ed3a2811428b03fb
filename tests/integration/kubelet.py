"""What a kubelet says of pods in Events."""

from datetime import UTC, datetime, timedelta

from tunesmith_operator.kube.kinds import Object


def event_on(pod: Object, kind: str, reason: str, message: str, *, later: int = 0) -> Object:
    """Give an Event as a kubelet records it."""
    meta = pod["metadata"]
    at = (datetime.now(UTC) + timedelta(seconds=later)).strftime("%Y-%m-%dT%H:%M:%SZ")
    about = {"kind": "Pod", "uid": meta["uid"], "name": meta["name"]}
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"namespace": meta["namespace"], "name": f"{meta['name']}.{reason.lower()}"},
        "involvedObject": about | {"namespace": meta["namespace"]},
        "type": kind,
        "reason": reason,
        "message": message,
        "firstTimestamp": at,
        "lastTimestamp": at,
        "source": {"component": "kubelet"},
    }
