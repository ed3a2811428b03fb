"""Kubernetes JSON -> what the cache keeps of a child, and whose it is. Called by the cache."""

from tunesmith_api.labels import LABEL_DEPLOYMENT_UID, LABEL_JOB_UID
from tunesmith_operator.kube.kinds import Object
from tunesmith_operator.kube.parse import parse_job, parse_pod
from tunesmith_operator.kube.parse_serving import parse_serving_pod
from tunesmith_operator.planning.observed import SeenJob, SeenPod
from tunesmith_operator.planning.serving import ServingPod


def parse_child(kind: str, body: Object) -> tuple[SeenJob | SeenPod | ServingPod | None, str]:
    """Extract a Job or a pod, and its owner's uid; None or an empty uid where it is not ours."""
    labels = body["metadata"].get("labels") or {}
    if LABEL_DEPLOYMENT_UID in labels:
        return parse_serving_pod(body), labels[LABEL_DEPLOYMENT_UID]
    seen = parse_job(body) if kind == "Job" else parse_pod(body)
    return seen, labels.get(LABEL_JOB_UID, "")


def parse_source(body: Object) -> tuple[str, str]:
    """Extract the names of the model and of the ModelVersion that a ModelDeployment serves."""
    source = (body.get("spec") or {}).get("source") or {}
    return source.get("model", ""), source.get("modelVersion", "")
