"""The objects of an attempt: its Job, and the Service that its pods find each other by."""

from tunesmith_api.finetunejob import FineTuneJob
from tunesmith_api.labels import LABEL_JOB_UID, LABEL_STAGE
from tunesmith_api.run import TrainingRun
from tunesmith_operator.config import Config
from tunesmith_operator.resources.launch import RENDEZVOUS_PORT
from tunesmith_operator.resources.metadata import (
    Manifest,
    attempt_labels,
    job_labels,
    owned_metadata,
)
from tunesmith_operator.resources.pod import build_pod_template, service_name

QUEUE_LABEL = "kueue.x-k8s.io/queue-name"


def build_job(job: FineTuneJob, name: str, run: TrainingRun, config: Config) -> Manifest:
    """Give the Job of an attempt: every pod runs once, and none is replaced."""
    labels = attempt_labels(job, run.stage, run.attempt)
    queue = _queue(job, run, config)
    metadata = owned_metadata(job, name, labels | ({QUEUE_LABEL: queue} if queue else {}))
    spec: Manifest = {
        "completionMode": "Indexed",
        "completions": run.world.nodes,
        "parallelism": run.world.nodes,
        # Retries are the operator's: it knows why an attempt ended and what that counts as.
        "backoffLimit": 0,
        # Two pods of one rank would write the same checkpoint.
        "podReplacementPolicy": "Failed",
        "template": build_pod_template(job, name, run, labels, config),
    }
    if queue:
        spec["suspend"] = True  # Kueue lifts it when there is quota
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}


def _queue(job: FineTuneJob, run: TrainingRun, config: Config) -> str:
    """Give the Kueue queue; only training goes through one, preparation takes no GPU."""
    if not config.kueue.enabled or run.stage != "train":
        return ""
    return job.metadata.labels.get(QUEUE_LABEL, config.kueue.default_queue)


def build_service(job: FineTuneJob) -> Manifest:
    """Give the headless Service of a job with several nodes."""
    labels = job_labels(job.metadata.name, job.metadata.uid)
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": owned_metadata(job, service_name(job), labels),
        "spec": {
            "clusterIP": "None",
            # Ranks must find each other before any of them is ready.
            "publishNotReadyAddresses": True,
            "selector": {LABEL_JOB_UID: job.metadata.uid, LABEL_STAGE: "train"},
            "ports": [{"name": "rendezvous", "port": RENDEZVOUS_PORT}],
        },
    }
