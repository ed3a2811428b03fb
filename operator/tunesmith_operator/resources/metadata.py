"""Names, labels and owners that every child carries."""

from typing import Any

from tunesmith_api import API_VERSION
from tunesmith_api.finetunejob import FineTuneJob
from tunesmith_api.labels import (
    LABEL_ATTEMPT,
    LABEL_JOB,
    LABEL_JOB_UID,
    LABEL_MANAGED_BY,
    LABEL_STAGE,
    MANAGED_BY,
)

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


def owned_metadata(job: FineTuneJob, name: str, labels: dict[str, str]) -> Manifest:
    """Metadata of a child that the garbage collector takes with its FineTuneJob."""
    return {
        "name": name,
        "namespace": job.metadata.namespace,
        "labels": labels,
        "ownerReferences": [
            {
                "apiVersion": API_VERSION,
                "kind": FineTuneJob.KIND,
                "name": job.metadata.name,
                "uid": job.metadata.uid,
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ],
    }
