"""Whether a spec that the API server accepted can be run by this operator. Pure."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from tunesmith_api.conditions import ConditionType, Reason
from tunesmith_operator.config import Config
from tunesmith_operator.planning.actions import Decision
from tunesmith_operator.planning.conditions import find
from tunesmith_operator.planning.draft import JobDraft
from tunesmith_operator.planning.endings import fail, wind_up
from tunesmith_operator.planning.names import model_name, version_name
from tunesmith_operator.planning.observed import Observation


@dataclass(frozen=True, slots=True)
class Objection:
    """What is wrong and what to change."""

    reason: Reason
    message: str


def objection(seen: Observation, config: Config) -> Objection | None:
    """Give the first thing that is wrong, or None."""
    compute = seen.job.spec.compute
    if compute.gpu_type and compute.gpu_type not in config.gpu.types:
        known = ", ".join(sorted(config.gpu.types)) or "none"
        return Objection(
            Reason.UNKNOWN_GPU_TYPE,
            f"compute.gpuType {compute.gpu_type} is not known here. Known: {known}. Choose one of"
            " them, leave it empty for any GPU, or add it to the chart's value gpuTypes",
        )
    account, allowed = compute.service_account_name, config.allowed_service_accounts
    if account and allowed and account not in allowed:
        return Objection(
            Reason.SERVICE_ACCOUNT_REFUSED,
            f"compute.serviceAccountName {account} is not allowed here. Allowed:"
            f" {', '.join(allowed)}",
        )
    return version_objection(seen)


def version_objection(seen: Observation) -> Objection | None:
    """Object to an explicit version that somebody else has made already."""
    job = seen.job
    version = job.spec.output.model_version.version
    if not version:
        return None
    name = version_name(model_name(job), version)
    for other in seen.versions:
        if other.name == name and other.job_uid != job.metadata.uid:
            return Objection(
                Reason.VERSION_EXISTS,
                f"ModelVersion {name} exists already and versions never change. Create a job with"
                " another output.modelVersion.version, or leave it empty for the next number",
            )
    return None


def invalid_child(seen: Observation, decided: Decision, why: str, now: datetime) -> Decision:
    """A child breaks a rule of its kind. The inputs never change, so neither would the answer."""
    draft = JobDraft(
        status=decided.status,
        generation=seen.job.metadata.generation,
        now=now.replace(microsecond=0),
    )
    message = (
        f"What the job asks for cannot be made: {why}. Change in a new job what it names, or in the"
        " chart's values where the job does not set it"
    )
    active = decided.status.active
    fail(draft, Reason.INVALID_SPEC, message, active.stage if active else None)
    wind_up(draft, seen)
    draft.look_again_in(timedelta())
    return draft.decision()


def refused(seen: Observation, why: str, now: datetime) -> Decision:
    """The cluster does not let the operator act: say so, change nothing else, and try again."""
    draft = JobDraft(
        status=seen.job.status,
        generation=seen.job.metadata.generation,
        now=now.replace(microsecond=0),
    )
    message = f"A child cannot be created: {why}. Tunesmith tries again"
    before = find(draft.status.conditions, ConditionType.ACCEPTED)
    if before is None or before.reason != Reason.CHILD_REFUSED:
        draft.emit("Warning", Reason.CHILD_REFUSED, message)
    draft.no(ConditionType.ACCEPTED, Reason.CHILD_REFUSED, message)
    return draft.decision()
