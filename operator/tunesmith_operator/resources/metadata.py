"""Names, labels and owners that every child carries."""

from typing import Any

from tunesmith_api import API_VERSION
from tunesmith_api.finetunejob import FineTuneJob
from tunesmith_api.labels import (
    LABEL_ATTEMPT,
    LABEL_DEPLOYMENT,
    LABEL_DEPLOYMENT_UID,
    LABEL_JOB,
    LABEL_JOB_UID,
    LABEL_MANAGED_BY,
    LABEL_STAGE,
    MANAGED_BY,
)
from tunesmith_api.modeldeployment import ModelDeployment

Manifest = dict[str, Any]


def job_labels(job_name: str, job_uid: str) -> dict[str, str]:
    """Labels by which everything of a FineTuneJob is found."""
    return {LABEL_MANAGED_BY: MANAGED_BY, LABEL_JOB: job_name, LABEL_JOB_UID: job_uid}


def attempt_labels(job: FineTuneJob, stage: str, attempt: int) -> dict[str, str]:
    """Labels of an attempt's Job and pods."""
    return {
        **job_labels(job.metadata.name, job.metadata.uid),
        LABEL_STAGE: stage,
        LABEL_ATTEMPT: str(attempt),
    }


def deployment_labels(deployment: ModelDeployment) -> dict[str, str]:
    """Labels by which everything of a ModelDeployment is found."""
    return {
        LABEL_MANAGED_BY: MANAGED_BY,
        LABEL_DEPLOYMENT: deployment.metadata.name,
        LABEL_DEPLOYMENT_UID: deployment.metadata.uid,
    }


def owned_metadata(
    owner: FineTuneJob | ModelDeployment, name: str, labels: dict[str, str]
) -> Manifest:
    """Metadata of a child that the garbage collector takes with its owner."""
    meta = owner.metadata
    return {
        "name": name,
        "namespace": meta.namespace,
        "labels": labels,
        "ownerReferences": [controlled_by(API_VERSION, owner.KIND, meta.name, meta.uid)],
    }


def controlled_by(api_version: str, kind: str, name: str, uid: str) -> Manifest:
    """Give the owner reference of what has one controller."""
    return {
        "apiVersion": api_version,
        "kind": kind,
        "name": name,
        "uid": uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }
