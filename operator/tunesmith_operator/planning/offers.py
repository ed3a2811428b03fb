"""Whether a new ModelVersion is offered to the ModelDeployment of deployTo, and what is said of it.

To offer is to give the version the tag of the channel that the deployment follows; the
deployment's spec is never written. A version never changes and holds its offer, so what is said
comes from the version, not from what the deployment follows by then: an operator that dies between
the version and the status says the same as one that lives. Pure; called by ``results``.
"""

from tunesmith_api.attempts import StageName
from tunesmith_api.conditions import ConditionType, Reason
from tunesmith_api.evaluation import Baseline
from tunesmith_api.finetunejob import FineTuneJob
from tunesmith_api.modelversion import Offer
from tunesmith_operator.planning.acceptance import Objection
from tunesmith_operator.planning.conditions import is_true
from tunesmith_operator.planning.draft import JobDraft
from tunesmith_operator.planning.names import model_name
from tunesmith_operator.planning.observed import Observation, SeenTarget, SeenVersion


def target_name(job: FineTuneJob) -> str | None:
    """Give the deployment to look at, or None while there is nothing to ask of it.

    Its stable version is measured beside the tuned model where that is a baseline, so it is looked
    at until training has begun; and again once there is something to offer.
    """
    wanted, status = job.spec.deploy_to, job.status
    if wanted is None or status.completion_time is not None:
        return None
    is_baseline = Baseline.DEPLOYED in job.spec.evaluation.baselines
    is_training = status.active is not None and status.active.stage is StageName.TRAIN
    if is_true(status.conditions, ConditionType.TRAINED) or (is_baseline and not is_training):
        return wanted.name
    return None


def make_offer(seen: Observation) -> Offer | None:
    """Give the offer that the version is made with, or None where nobody would take it."""
    wanted, target = seen.job.spec.deploy_to, seen.target
    if wanted is None or target is None or not target.channel:
        return None
    if target.model != model_name(seen.job) or _lacks(seen.job, target):
        return None
    return Offer(deployment=wanted.name, channel=target.channel)


def _lacks(job: FineTuneJob, target: SeenTarget) -> bool:
    """Whether the version has nothing that the deployment's engine could serve."""
    made = {artifact.name for artifact in job.status.artifacts}
    if _added_tokens(job, target):
        return True
    return bool(target.formats) and not made & set(target.formats)


def _added_tokens(job: FineTuneJob, target: SeenTarget) -> int:
    """Give how many tokens the job's adapter brings, where an adapter is what would be served."""
    served = (a for a in job.status.artifacts if a.name in target.formats)
    return next((a.added_tokens for a in served), 0)


def tags_of(job: FineTuneJob, offer: Offer | None) -> tuple[str, ...]:
    """Give the tags of the version: those asked for, and the channel it is offered through."""
    asked = job.spec.output.model_version.tags
    return asked if offer is None or offer.channel in asked else (*asked, offer.channel)


def say_offer(draft: JobDraft, seen: Observation, version: SeenVersion) -> None:
    """Say whether the version that was made is offered; nothing where nobody asked for it."""
    wanted = seen.job.spec.deploy_to
    if wanted is None or seen.target is None:
        return
    if version.channel:
        message = (
            f"ModelVersion {version.name} has the tag {version.channel}, the channel that"
            f" ModelDeployment {version.deployment} followed when it was made"
        )
        draft.yes(ConditionType.OFFERED, Reason.CHANNEL_TAGGED, message)
        draft.emit("Normal", "Offered", message)
        return
    wrong = _objection(wanted.name, seen.job, seen.target, version)
    draft.no(ConditionType.OFFERED, wrong.reason, wrong.message)
    draft.emit("Warning", wrong.reason, wrong.message)


def _objection(name: str, job: FineTuneJob, target: SeenTarget, version: SeenVersion) -> Objection:
    """Say why nobody took the version, as far as that can still be seen."""
    model = version.model
    serve = f"To serve it, let its source hold nothing but modelVersion {version.name}"
    if not target.exists:
        return Objection(
            Reason.DEPLOYMENT_NOT_FOUND,
            f"There is no ModelDeployment {name} in the namespace, so ModelVersion {version.name}"
            " is offered to nobody. To serve it, create one with source.modelVersion"
            f" {version.name}; with source.model {model} and a channel it is offered the versions"
            " of the next jobs",
        )
    if not target.channel:
        return Objection(
            Reason.NO_CHANNEL_FOLLOWED,
            f"ModelDeployment {name} follows no channel, and its spec is not the operator's to"
            f" change. {serve}; with source.model {model} and source.channel it is offered the"
            " versions of the next jobs",
        )
    if target.model != model:
        return Objection(
            Reason.OTHER_MODEL_FOLLOWED,
            f"ModelDeployment {name} follows model {target.model}, and ModelVersion"
            f" {version.name} is of model {model}. {serve}; for the next jobs set"
            f" output.modelVersion.model {target.model}, or source.model {model} there",
        )
    return _artifact_objection(name, job, target, version) or Objection(
        Reason.OFFER_MISSED,
        f"ModelDeployment {name} follows model {model} now, but did not when ModelVersion"
        f" {version.name} was made. {serve}",
    )


def _artifact_objection(
    name: str, job: FineTuneJob, target: SeenTarget, version: SeenVersion
) -> Objection | None:
    """Object to a version that has nothing which the deployment could serve."""
    if added := _added_tokens(job, target):
        return Objection(
            Reason.ARTIFACT_MISSING,
            f"ModelDeployment {name} has delivery Adapter, and the adapter of ModelVersion"
            f" {version.name} brings {added} tokens (dataset.addTokens, addSpecialTokens) that its"
            " base model lacks, which running pods cannot take on. Give the deployment delivery"
            " Merged, with Merged in output.artifacts of the next jobs, or train without them",
        )
    if _lacks(job, target):
        formats = " or ".join(target.formats)
        return Objection(
            Reason.ARTIFACT_MISSING,
            f"ModelDeployment {name} has engine {target.engine}, which needs an artifact {formats},"
            f" and ModelVersion {version.name} has none. For the next jobs add {formats} to"
            " output.artifacts, or give the deployment an engine that serves what there is",
        )
    return None
