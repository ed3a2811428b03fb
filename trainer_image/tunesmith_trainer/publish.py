"""From a trained model in memory to artifacts, model cards and the report in S3.

Called by `recipe` on rank 0, which is alone from here on.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tunesmith_api.jobstatus import ArtifactStatus
from tunesmith_api.output import ArtifactName
from tunesmith_api.report import TrainingReport
from tunesmith_api.result import Phase, TrainerResult, TrainingSummary
from tunesmith_api.run import TrainingRun
from tunesmith_api.sharding import Sharding
from tunesmith_api.training import Precision
from tunesmith_trainer import VERSION
from tunesmith_trainer.artifacts import make_artifacts
from tunesmith_trainer.attempt import Attempt
from tunesmith_trainer.card import write_card
from tunesmith_trainer.checkpoints import Checkpoints, Search
from tunesmith_trainer.comparing import measurements, notes, sample_answers
from tunesmith_trainer.curve import METRICS, Curve
from tunesmith_trainer.evaluation import Exam
from tunesmith_trainer.examination import Examined
from tunesmith_trainer.inputs import Inputs
from tunesmith_trainer.loop import Training
from tunesmith_trainer.model import architecture
from tunesmith_trainer.outcome import Interrupted
from tunesmith_trainer.page import write_pages
from tunesmith_trainer.progress import Progress
from tunesmith_trainer.report import peak_memory_bytes, success, write_report
from tunesmith_trainer.schedule import unreached
from tunesmith_trainer.storage.manifest import commit_directory


@dataclass(frozen=True)
class Trained:
    """A run that is trained and judged."""

    inputs: Inputs
    precision: Precision
    exam: Exam
    training: Training
    search: Search
    examined: Examined


def publish(attempt: Attempt, trained: Trained, checkpoints: Checkpoints) -> TrainerResult:
    """Export, upload and report; give the run's result. Checkpoints are deleted at the end.

    Raises Infrastructure ExportMismatch, Superseded, and Interrupted between its parts; the
    checkpoint of the last step is kept then.
    """
    run, progress, fence = attempt.run, attempt.progress, attempt.fence
    progress.enter(Phase.EXPORTING)
    draft = build_report(run, trained, progress)
    try:
        directories = make_artifacts(
            attempt, trained.inputs, trained.training, trained.exam.tokenizer
        )
    except Interrupted:
        checkpoints.wait()
        raise

    progress.enter(Phase.UPLOADING)
    artifacts = [upload(attempt, draft, n, directories[n]) for n in run.output.artifacts]
    # Before the report: an attempt that fails here is repeated, as nothing says it has finished.
    pushed = push_to_hub(run, directories)
    report = draft.model_copy(
        update={
            "artifacts": tuple(artifacts),
            "hugging_face": pushed,
            "timing": progress.phase_seconds(),
        }
    )
    tracking = trained.training.tracking
    tracking.judge(report.measurements, report.training.steps)
    tracking.upload(attempt.storage, fence, run.run_uri)
    publish_curve(attempt, trained.training.curve)
    write_pages(attempt.storage, fence, run, report, attempt.work / "report")
    digest = write_report(attempt.storage, fence, run, report)
    checkpoints.delete_all()
    progress.enter(Phase.DONE)
    pushed_to = (f"Pushed to {pushed}.",) if pushed else ()
    return success(run, report, digest, pushed_to)


def upload(
    attempt: Attempt, draft: TrainingReport, name: ArtifactName, directory: Path
) -> ArtifactStatus:
    """Commit an artifact with its model card. Raises Superseded."""
    run = attempt.run
    write_card(run, draft, name, directory)
    committed = commit_directory(
        attempt.storage,
        directory,
        f"{run.run_uri}{name.value.lower()}/",
        attempt=run.attempt,
        fence=attempt.fence,
        on_bytes=attempt.progress.touch,
    )
    return ArtifactStatus(
        name=name.value,
        uri=committed.uri,
        digest=committed.digest,
        size_bytes=committed.size_bytes,
        # Complete models have rows for them; an adapter's have to be put into its base model.
        added_tokens=len(draft.new_tokens) if name is ArtifactName.ADAPTER else 0,
    )


def publish_curve(attempt: Attempt, curve: Curve) -> None:
    """Write all steps beside the report, which has them shortened. Raises Superseded."""
    attempt.fence.check()
    attempt.storage.put_bytes(f"{attempt.run.run_uri}{METRICS}", curve.to_bytes())


def push_to_hub(run: TrainingRun, directories: dict[ArtifactName, Path]) -> str:
    """Push what output.huggingFace asks for; give the commit's address, or nothing."""
    target = run.output.hugging_face
    if target is None:
        return ""
    # Imported here: the Hub's client takes a second to load and most runs do not need it.
    from tunesmith_trainer.pushing import push

    message = f"FineTuneJob {run.job.namespace}/{run.job.name} ({run.job.uid})"
    return push(target, directories[target.artifact], message)


def build_report(run: TrainingRun, trained: Trained, progress: Progress) -> TrainingReport:
    """Put together all that is known before the upload."""
    inputs, search = trained.inputs, trained.search
    training, examined = trained.training, trained.examined
    warmup = unreached(training.total_steps, run.hyperparameters)
    return TrainingReport(
        job=run.job,
        attempt=run.attempt,
        created=datetime.now(UTC),
        trainer_version=VERSION,
        trainer_image=run.trainer_image,
        base_model=run.model,
        model_revision=inputs.revision,
        dataset_digest=inputs.data.meta.dataset_digest,
        inputs_digest=inputs.digest,
        data=inputs.data.meta.data,
        prompt=run.dataset.prompt,
        new_tokens=inputs.tokens.listed(inputs.data.train.tokens),
        objective=run.objective,
        dpo=run.dpo,
        dropped=inputs.data.meta.dropped,
        method=run.method,
        hyperparameters=run.hyperparameters,
        training=summarize(trained, progress),
        model=architecture(training.loss.model),
        curve=training.curve.shortened(),
        measurements=measurements(run, examined),
        evaluation=run.evaluation,
        task_files=trained.exam.task_files,
        baselines=run.baselines,
        samples=sample_answers(run, trained.exam.asked, examined),
        notes=(*search.notes, *filter(None, [warmup]), *notes(examined)),
        resumed_from_step=search.found.ref.step if search.found else None,
    )


def summarize(trained: Trained, progress: Progress) -> TrainingSummary:
    """Say how training went; time and tokens are this attempt's."""
    training, found = trained.training, trained.search.found
    state = training.state
    first, last = training.curve.first_and_last()
    seconds = float(progress.phase_seconds().get(Phase.TRAINING.value, "0"))
    tokens = state.tokens - (found.state.tokens if found else 0)
    return TrainingSummary(
        steps=state.step,
        epochs=f"{state.step / training.plan.steps_per_epoch:.3f}",
        first_loss=first,
        last_loss=last,
        train_seconds=f"{seconds:.3f}",
        tokens=tokens,
        tokens_per_second=f"{tokens / seconds:.1f}" if seconds else "0",
        packing_efficiency=f"{tokens / training.computed:.4f}" if training.computed else "",
        stopped_early=state.stopped_early,
        peak_memory_bytes=peak_memory_bytes(),
        precision=trained.precision.value,
        ranks=training.ranks.size,
        sharding=Sharding.FSDP if training.ranks.is_sharded else Sharding.DDP,
        kernels=training.kernels,
    )
