"""What a stage that succeeded means: data ready, gates judged, version made. Pure."""

import re
from datetime import timedelta

from tunesmith_api.conditions import ConditionType, Reason
from tunesmith_api.finetunejob import FineTuneJob
from tunesmith_api.gates import judge, parse_number
from tunesmith_api.jobstatus import Architecture, NamedRef, ReportRef
from tunesmith_api.measurements import Metric, Verdict
from tunesmith_api.modelversion import (
    METRIC_PATTERN,
    Artifact,
    BaseModelRef,
    Lineage,
    ModelArchitecture,
    ModelVersionSpec,
    VersionMetric,
)
from tunesmith_api.result import TrainerResult
from tunesmith_operator.planning.acceptance import version_objection
from tunesmith_operator.planning.actions import MakeVersion
from tunesmith_operator.planning.draft import JobDraft
from tunesmith_operator.planning.endings import complete, fail
from tunesmith_operator.planning.names import model_name, version_name
from tunesmith_operator.planning.observed import Observation, SeenVersion
from tunesmith_operator.planning.offers import make_offer, say_offer, tags_of

_LARGE = 1_000_000
_NUMBER = re.compile(METRIC_PATTERN)


def prepared(draft: JobDraft, result: TrainerResult) -> None:
    """Take over what preparation found."""
    draft.yes(ConditionType.DATA_READY, Reason.PREPARED, result.message)
    placement = result.placement
    resolved = draft.status.resolved.model_copy(
        update={
            "dataset_digest": result.dataset_digest,
            "model_revision": result.model_revision,
            "estimated_gpu_memory_bytes": placement and placement.memory_bytes,
            "sharding": placement and placement.sharding,
        }
    )
    draft.update(data=result.data, resolved=resolved)
    draft.emit("Normal", "DataReady", result.message)


def trained(draft: JobDraft, job: FineTuneJob, result: TrainerResult) -> None:
    """Take over the results of training and judge them."""
    draft.yes(ConditionType.TRAINED, Reason.TRAINED, result.message)
    draft.yes(
        ConditionType.EXPORTED, Reason.UPLOADED, f"{len(result.artifacts)} artifact(s) are in S3"
    )
    progress = draft.status.progress
    draft.update(
        artifacts=result.artifacts,
        report=_report(result),
        architecture=result.architecture,
        metrics=_final_metrics(result) or draft.status.metrics,
        progress=progress.model_copy(
            update={
                "percent": 100,
                "step": result.step,
                # A short run may have ended before it was asked how long it would be.
                "total_steps": progress.total_steps or result.step,
                "epoch": result.training.epochs if result.training else progress.epoch,
                "eta_seconds": 0,
                "eta": "",
                "phase": "Done",
            }
        )
        if progress
        else None,
        evaluation=judge(job.spec.evaluation.gates, result.measurements, result.baselines),
    )
    if result.model_revision:
        resolved = draft.status.resolved
        draft.update(resolved=resolved.model_copy(update={"model_revision": result.model_revision}))
    _say_verdict(draft, job)


def _report(result: TrainerResult) -> ReportRef | None:
    if result.report_digest is None:
        return None
    return ReportRef(uri=result.report_uri, digest=result.report_digest)


def _final_metrics(result: TrainerResult) -> tuple[Metric, ...]:
    summary = result.training
    if summary is None:
        return ()
    return (
        Metric(name="loss", value=_rounded(summary.last_loss)),
        Metric(name="tokens_per_second", value=summary.tokens_per_second),
    )


def _rounded(number: str) -> str:
    """Round for a column; the report keeps every digit."""
    parsed = parse_number(number)
    if parsed is None:
        return number
    return f"{parsed:.4f}" if abs(parsed) < _LARGE else f"{parsed:.6g}"


def _say_verdict(draft: JobDraft, job: FineTuneJob) -> None:
    evaluation = draft.status.evaluation
    assert evaluation is not None  # noqa: S101 - set by the only caller
    if not job.spec.evaluation.gates:
        draft.yes(ConditionType.EVALUATED, Reason.UNGATED, "No gate was asked for (allowUngated)")
        return
    told = "; ".join(r.message for r in evaluation.results if r.verdict is evaluation.verdict)
    match evaluation.verdict:
        case Verdict.PASSED:
            draft.yes(ConditionType.EVALUATED, Reason.GATES_PASSED, told)
            return
        case Verdict.FAILED:
            reason, hint = Reason.GATES_FAILED, "No version is made; the artifacts stay in S3"
        case Verdict.INCONCLUSIVE:
            reason, hint = Reason.GATES_INCONCLUSIVE, "Without a measurement no version is made"
    draft.no(ConditionType.EVALUATED, reason, told)
    fail(draft, reason, f"{told}. {hint}", None)


def finish(draft: JobDraft, seen: Observation, job: FineTuneJob) -> None:
    """The gates have passed: make the version, or end the job where it exists."""
    if job.spec.deploy_to is not None and seen.target is None:
        # It is looked at once the status says that there is something to offer.
        draft.look_again_in(timedelta())
        return
    mine = next((v for v in seen.versions if v.job_uid == job.metadata.uid), None)
    if mine is not None:
        say_offer(draft, seen, mine)
        draft.update(model_version_ref=NamedRef(name=mine.name))
        complete(draft, f"ModelVersion {mine.name} was made")
        return
    taken = version_objection(seen)
    if taken is not None:
        fail(draft, taken.reason, taken.message, None)
        return
    model = model_name(job)
    version = job.spec.output.model_version.version or _next_number(seen.versions, model)
    spec = _version_spec(draft, seen, model, version)
    draft.act(MakeVersion(version_name(model, version), spec, job.metadata.uid))
    draft.look_again_in(timedelta())


def _next_number(versions: tuple[SeenVersion, ...], model: str) -> str:
    """Give the whole number after the highest one; versions of other forms do not count."""
    numbers = [int(v.version) for v in versions if v.model == model and v.version.isdecimal()]
    return str(max(numbers, default=0) + 1)


def _or_none(number: str) -> str | None:
    """Give a number as a version holds it, or None."""
    is_number = parse_number(number) is not None and _NUMBER.fullmatch(number)
    return number if is_number else None


def _parent(seen: Observation) -> str:
    """Name the version whose artifact the job began with, if it was one of the same model."""
    begun = seen.job.spec.model.uri.rstrip("/")
    found = (v.name for v in seen.versions for a in v.artifacts if a.uri.rstrip("/") == begun)
    return next(found, "")


def _lineage(draft: JobDraft, seen: Observation) -> Lineage:
    """Say what the version was made of, so that it could be made again."""
    status, meta = draft.status, seen.job.metadata
    data, report = status.data, status.report
    return Lineage(
        job=f"{meta.namespace}/{meta.name}",
        job_uid=meta.uid,
        dataset_digest=status.resolved.dataset_digest,
        prompt_version=data.prompt_version if data else "",
        template_date=data.template_date if data else "",
        synthetic_rows=data.rows.synthetic if data else 0,
        trainer_image=status.resolved.trainer_image,
        report_uri=report.uri if report else "",
        report_digest=report.digest if report else None,
        parent=_parent(seen),
    )


def _version_spec(draft: JobDraft, seen: Observation, model: str, version: str) -> ModelVersionSpec:
    job, offer = seen.job, make_offer(seen)
    status, meta = draft.status, job.metadata
    measurements = status.evaluation.measurements if status.evaluation else ()
    kind = status.architecture or Architecture()
    return ModelVersionSpec(
        model=model,
        version=version,
        artifacts=tuple(
            Artifact(
                format=a.name,
                uri=a.uri,
                digest=a.digest,
                size_bytes=a.size_bytes,
                added_tokens=a.added_tokens,
            )
            for a in status.artifacts
        ),
        base_model=BaseModelRef(uri=job.spec.model.uri, revision=status.resolved.model_revision),
        lineage=_lineage(draft, seen),
        metrics=tuple(
            VersionMetric(name=m.metric, value=value, base_value=_or_none(m.base_value))
            for m in measurements
            if (value := _or_none(m.value)) is not None
        ),
        parameters=kind.parameters,
        context_length=kind.context_length,
        architecture=ModelArchitecture(
            family=kind.family,
            layers=kind.layers,
            hidden_size=kind.hidden_size,
            vocabulary_size=kind.vocabulary_size,
        ),
        description=f"Fine-tuned by FineTuneJob {meta.namespace}/{meta.name}",
        tags=tags_of(job, offer),
        offered_to=offer,
    )
