"""From a trained model in memory to artifacts, model cards and the report in S3.

Called by `recipe` on rank 0, which is alone from here on.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from tunesmith_api.evaluation import ArtifactName, Gguf
from tunesmith_api.jobstatus import ArtifactStatus
from tunesmith_api.run import Phase, TrainerResult, TrainingReport, TrainingRun, TrainingSummary
from tunesmith_api.training import Precision
from tunesmith_trainer import VERSION, export
from tunesmith_trainer.attempt import Attempt
from tunesmith_trainer.batches import Batch
from tunesmith_trainer.card import write_card
from tunesmith_trainer.checkpoints import Checkpoints, Search
from tunesmith_trainer.evaluation import Judgement, measurements, sample_answers
from tunesmith_trainer.gguf.file import file_name, write_gguf
from tunesmith_trainer.inputs import Inputs
from tunesmith_trainer.logs import log
from tunesmith_trainer.loop import Training
from tunesmith_trainer.model import architecture, stored_dtype
from tunesmith_trainer.outcome import Interrupted
from tunesmith_trainer.progress import Progress
from tunesmith_trainer.report import peak_memory_bytes, success, write_report
from tunesmith_trainer.storage.manifest import commit_directory


@dataclass(frozen=True)
class Trained:
    """A run that is trained and judged."""

    inputs: Inputs
    precision: Precision
    tokenizer: PreTrainedTokenizerBase
    training: Training
    search: Search
    tuned: Judgement
    base: Judgement


def publish(attempt: Attempt, trained: Trained, checkpoints: Checkpoints) -> TrainerResult:
    """Export, upload and report; give the run's result. Checkpoints are deleted at the end.

    Raises Infrastructure ExportMismatch, Superseded, and Interrupted between its parts; the
    checkpoint of the last step is kept then.
    """
    run, progress, fence = attempt.run, attempt.progress, attempt.fence
    progress.enter(Phase.EXPORTING)
    draft = build_report(run, trained, progress)
    try:
        directories = export_all(attempt, trained)
    except Interrupted:
        checkpoints.wait()
        raise

    progress.enter(Phase.UPLOADING)
    artifacts = []
    for name in run.output.artifacts:
        write_card(draft, name, directories[name])
        uri = f"{run.run_uri}{name.value.lower()}/"
        committed = commit_directory(
            attempt.storage,
            directories[name],
            uri,
            attempt=run.attempt,
            fence=fence,
            on_bytes=progress.touch,
        )
        artifacts.append(
            ArtifactStatus(
                name=name.value,
                uri=committed.uri,
                digest=committed.digest,
                size_bytes=committed.size_bytes,
            )
        )
    report = draft.model_copy(
        update={"artifacts": tuple(artifacts), "timing": progress.phase_seconds()}
    )
    digest = write_report(attempt.storage, fence, run, report)
    checkpoints.delete_all()
    progress.enter(Phase.DONE)
    return success(run, report, digest, trained.search.notes)


def export_all(attempt: Attempt, trained: Trained) -> dict[ArtifactName, Path]:
    """Write what is asked for to the local disk, and check that it says what was judged."""
    run, stop = attempt.run, attempt.stop
    paths = {name: attempt.work / "export" / name.value.lower() for name in ArtifactName}
    inputs, loss = trained.inputs, trained.training.loss
    wants_complete = set(run.output.artifacts) - {ArtifactName.ADAPTER}
    adapter = paths[ArtifactName.ADAPTER]
    if run.method.adapter:
        export.save_adapter(loss.model, trained.tokenizer, run.model.uri, adapter)
    if not wants_complete:
        return paths
    rows = inputs.data.test if len(inputs.data.test) else inputs.data.train
    batch = export.parity_batch(rows, trained.training.pad_id)
    if run.method.qlora:
        expected = export.logits_of_saved_adapter(inputs.base_path, adapter, batch)
    else:
        expected = export.logits_of(loss, batch)
    stop.check()
    model = export.merge(inputs.base_path, adapter) if run.method.adapter else loss.model
    dtype = stored_dtype(inputs.base_path)
    export.save_complete(model, trained.tokenizer, dtype, paths[ArtifactName.MERGED])
    stop.check()
    distance = export.check_parity(paths[ArtifactName.MERGED], expected, batch)
    log.info("parity", relative_distance=distance)
    if ArtifactName.GGUF in run.output.artifacts:
        stop.check()
        export_gguf(attempt, trained, paths, expected, batch)
    return paths


def export_gguf(
    attempt: Attempt,
    trained: Trained,
    paths: dict[ArtifactName, Path],
    expected: torch.Tensor,
    batch: Batch,
) -> None:
    """Make the GGUF file out of the merged model, and check that it says what was judged.

    `expected` is float32[supervised, vocabulary], of `batch`.
    """
    run, progress, merged = attempt.run, attempt.progress, paths[ArtifactName.MERGED]
    quantization = (run.output.gguf or Gguf()).quantization
    target = paths[ArtifactName.GGUF] / file_name(quantization)
    target.parent.mkdir(parents=True)

    def on_tensor() -> None:
        progress.touch()
        attempt.stop.check()

    write_gguf(
        merged, trained.tokenizer, target, quantization, name=run.job.name, on_tensor=on_tensor
    )
    distance = export.check_gguf_parity(target, merged, expected, batch, quantization)
    log.info("parity of GGUF", relative_distance=distance, quantization=quantization.value)


def build_report(run: TrainingRun, trained: Trained, progress: Progress) -> TrainingReport:
    """Put together all that is known before the upload."""
    inputs, search = trained.inputs, trained.search
    suites, training = run.evaluation.suites, trained.training
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
        objective=run.objective,
        dpo=run.dpo,
        method=run.method,
        hyperparameters=run.hyperparameters,
        training=summarize(trained, progress),
        model=architecture(training.loss.model),
        curve=training.curve.shortened(),
        measurements=measurements(suites, trained.tuned, trained.base),
        samples=sample_answers(suites, trained.tuned, trained.base),
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
    )
