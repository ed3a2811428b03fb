"""The manifest of a ModelVersion."""

from tunesmith_api import API_VERSION
from tunesmith_api.finetunejob import FineTuneJob
from tunesmith_api.labels import LABEL_MODEL
from tunesmith_api.modelversion import ModelVersion, ModelVersionSpec
from tunesmith_operator.resources.metadata import Manifest, job_labels


def build_version(job: FineTuneJob, name: str, spec: ModelVersionSpec) -> Manifest:
    """Give the ModelVersion. It has no owner: a version outlives the job that made it."""
    labels = job_labels(job.metadata.name, job.metadata.uid) | {LABEL_MODEL: spec.model}
    return {
        "apiVersion": API_VERSION,
        "kind": ModelVersion.KIND,
        "metadata": {"name": name, "namespace": job.metadata.namespace, "labels": labels},
        "spec": spec.model_dump(mode="json", by_alias=True, exclude_none=True),
    }
