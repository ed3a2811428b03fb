"""Which earlier versions a train attempt measures beside its own model. Pure; called by `training`.

What does not exist yet is left out, and gates that name it fall back on Base. What exists but is
not measured in the end makes them inconclusive; the trainer says in its result what it was given.
"""

from datetime import UTC, datetime

from tunesmith_api.evaluation import Baseline
from tunesmith_api.finetunejob import FineTuneJob
from tunesmith_api.output import ArtifactName
from tunesmith_api.run import BaselineModel
from tunesmith_operator.planning.observed import Observation, SeenVersion

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def choose_baselines(seen: Observation) -> tuple[BaselineModel, ...]:
    """Give the earlier versions that spec.evaluation.baselines names and that are there."""
    job = seen.job
    asked = job.spec.evaluation.baselines
    found = {Baseline.PREVIOUS: _newest(seen), Baseline.DEPLOYED: _deployed(seen)}
    models = [_model(job, name, version) for name, version in found.items() if name in asked]
    return tuple(model for model in models if model is not None)


def _newest(seen: Observation) -> SeenVersion | None:
    others = [v for v in seen.versions if v.job_uid != seen.job.metadata.uid]
    return max(others, key=lambda v: (v.created or _EPOCH, v.name), default=None)


def _deployed(seen: Observation) -> SeenVersion | None:
    stable = seen.target.stable if seen.target else ""
    return next((v for v in seen.versions if v.name == stable), None)


def _model(job: FineTuneJob, name: Baseline, version: SeenVersion | None) -> BaselineModel | None:
    """Prefer the complete model; an adapter is of use only on the base model of this job."""
    if version is None:
        return None
    forms = {artifact.format: artifact for artifact in version.artifacts}
    form = ArtifactName.MERGED
    if form not in forms and version.base_uri == job.spec.model.uri:
        form = ArtifactName.ADAPTER
    artifact = forms.get(form)
    if artifact is None:
        return None
    return BaselineModel(
        name=name,
        version=version.name,
        form=form,
        uri=artifact.uri,
        digest=artifact.digest,
    )
