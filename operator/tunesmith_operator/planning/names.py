"""Names of everything the operator creates, derived so that a repeat finds the first one."""

from tunesmith_api.attempts import StageName
from tunesmith_api.finetunejob import FineTuneJob


def attempt_name(job: FineTuneJob, stage: StageName, number: int) -> str:
    """Name of an attempt's Job."""
    return f"{job.metadata.name}-{stage}-{number}"


def model_name(job: FineTuneJob) -> str:
    """Model that the job makes a version of."""
    return job.spec.output.model_version.model or job.metadata.name


def version_name(model: str, version: str) -> str:
    """Name of a ModelVersion."""
    return f"{model}-v{version}"


def run_uri(job: FineTuneJob) -> str:
    """S3 prefix of everything the run writes.

    It holds the uid: a new object of the same name must not go on from the old one's checkpoints.
    """
    prefix = job.spec.output.uri.rstrip("/")
    return f"{prefix}/{job.metadata.name}-{job.metadata.uid[:8]}/"
