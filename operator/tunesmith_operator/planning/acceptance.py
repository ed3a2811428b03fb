"""Whether a spec that the API server accepted can be run by this operator. Pure."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from tunesmith_api.attempts import StageName
from tunesmith_api.conditions import ConditionType, Reason
from tunesmith_operator.config import Config
from tunesmith_operator.planning.actions import Decision
from tunesmith_operator.planning.conditions import find
from tunesmith_operator.planning.draft import JobDraft
from tunesmith_operator.planning.endings import fail, wind_up
from tunesmith_operator.planning.names import model_name, version_name
from tunesmith_operator.planning.observed import Observation
from tunesmith_operator.planning.runs import build_run

# Kubernetes takes 256 KiB of annotations; the rest is for baselines and what others add to pods.
_RUN_BYTES = 240 * 1024


@dataclass(frozen=True, slots=True)
class Objection:
    """What is wrong and what to change."""

    reason: Reason
    message: str


def objection(seen: Observation, config: Config) -> Objection | None:
    """Give the first thing that is wrong, or None."""
    compute = seen.job.spec.compute
    if why := config.why_no_gpu_type("compute.gpuType", compute.gpu_type):
        return Objection(Reason.UNKNOWN_GPU_TYPE, why)
    if why := config.why_no_account("compute.serviceAccountName", compute.service_account_name):
        return Objection(Reason.SERVICE_ACCOUNT_REFUSED, why)
    return (
        _selector_objection(seen, config)
        or _resources_objection(seen, config)
        or _size_objection(seen, config)
        or version_objection(seen)
    )


def _selector_objection(seen: Observation, config: Config) -> Objection | None:
    """Object to a label that the GPU type excludes: no node could have both."""
    compute = seen.job.spec.compute
    labels = config.gpu.types.get(compute.gpu_type, {})
    for label, value in compute.node_selector.items():
        fitting = labels.get(label, value)
        if value not in ((fitting,) if isinstance(fitting, str) else fitting):
            return Objection(
                Reason.INVALID_SPEC,
                f"compute.nodeSelector wants {label}={value}, which no GPU of type"
                f" {compute.gpu_type} has: create a job without one of them",
            )
    return None


def _resources_objection(seen: Observation, config: Config) -> Objection | None:
    """Object to GPUs that are asked for past gpusPerNode: no rank would be started for them."""
    resources, name = seen.job.spec.compute.resources, config.gpu.resource_name
    if name not in {*resources.requests, *resources.limits}:
        return None
    return Objection(
        Reason.INVALID_SPEC,
        f"compute.resources has {name}: create a job with compute.gpusPerNode in its place, which"
        " is how GPUs are asked for",
    )


def _size_objection(seen: Observation, config: Config) -> Objection | None:
    """Object to a run that no annotation can hold, as which the pods are given it."""
    run = build_run(seen.job, StageName.PREPARE, 1, config)
    size = len(run.encode().encode())
    if size <= _RUN_BYTES:
        return None
    return Objection(
        Reason.INVALID_SPEC,
        f"The spec takes {size} bytes and pods can be given {_RUN_BYTES}: create a job with shorter"
        " texts, or with the questions of evaluation.suites in a file (uri in place of items)",
    )


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


def refused(seen: Observation, decided: Decision, why: str, now: datetime) -> Decision:
    """The cluster does not let the operator act: keep what was found out, say so, and try again."""
    # Results of an attempt are read from its pods, which may be gone when the cluster gives way.
    known = decided.before_start or decided.status
    before = find(seen.job.status.conditions, ConditionType.ACCEPTED)
    others = tuple(c for c in known.conditions if c.type != ConditionType.ACCEPTED)
    draft = JobDraft(
        # The decision had hoped for the best; as it was refused, nothing has changed here.
        status=known.model_copy(update={"conditions": (*others, *([before] if before else []))}),
        generation=seen.job.metadata.generation,
        now=now.replace(microsecond=0),
    )
    message = f"The cluster refused what the job needs: {why}. Tunesmith tries again"
    if before is None or before.reason != Reason.CHILD_REFUSED:
        draft.emit("Warning", Reason.CHILD_REFUSED, message)
    draft.no(ConditionType.ACCEPTED, Reason.CHILD_REFUSED, message)
    return draft.decision()
