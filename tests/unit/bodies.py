"""Kubernetes JSON as the API server sends it, for tests of the edge."""

from typing import Any

from tunesmith_operator.kube.kinds import Object


def own(
    name: str = "a", uid: str = "u-a", version: int = 1, kind: str = "FineTuneJob", **more: Any
) -> Object:
    meta = {"namespace": "default", "name": name, "uid": uid, "resourceVersion": str(version)}
    return {"kind": kind, "metadata": meta | more.pop("meta", {}), "spec": {}, **more}


def job(
    name: str = "a-train-1", uid: str = "j-1", version: int = 2, owner: str = "u-a", **more: Any
) -> Object:
    labels = {
        "tunesmith.dev/job-uid": owner,
        "tunesmith.dev/stage": "train",
        "tunesmith.dev/attempt": "1",
    }
    return {
        "kind": "Job",
        "metadata": {
            "namespace": "default",
            "name": name,
            "uid": uid,
            "resourceVersion": str(version),
            "creationTimestamp": "2026-01-02T03:04:05Z",
            "labels": labels,
            "ownerReferences": [
                {"kind": "FineTuneJob", "name": "a", "uid": owner, "controller": True}
            ],
        }
        | more.pop("meta", {}),
        "spec": {"template": {"spec": {"containers": [{"image": "trainer:1"}]}}}
        | more.pop("spec", {}),
        "status": more.pop("status", {}),
    }


def pod(
    name: str = "a-train-1-0-x",
    uid: str = "p-1",
    version: int = 3,
    job_uid: str = "j-1",
    owner: str = "u-a",
    **more: Any,
) -> Object:
    return {
        "kind": "Pod",
        "metadata": {
            "namespace": "default",
            "name": name,
            "uid": uid,
            "resourceVersion": str(version),
            "creationTimestamp": "2026-01-02T03:04:06Z",
            "labels": {"tunesmith.dev/job-uid": owner},
            "annotations": {"batch.kubernetes.io/job-completion-index": "0"},
            "ownerReferences": [{"kind": "Job", "name": "j", "uid": job_uid, "controller": True}],
        }
        | more.pop("meta", {}),
        "spec": {"nodeName": "n1"},
        "status": more.pop("status", {"phase": "Running", "podIP": "10.0.0.1"}),
    }
