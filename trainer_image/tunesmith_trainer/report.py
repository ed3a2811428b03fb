"""report.json, and the short result that speaks of it.

Called by `recipe` on rank 0. Success of a run is this report in S3 and its digest.
"""

import hashlib
import resource

import torch
from pydantic import ValidationError

from tunesmith_api.measurements import Measurement
from tunesmith_api.meta import Digest
from tunesmith_api.output import ArtifactName
from tunesmith_api.report import TrainingReport
from tunesmith_api.result import Outcome, TrainerResult
from tunesmith_api.run import TrainingRun
from tunesmith_trainer.logs import log
from tunesmith_trainer.storage import NotFound, Store
from tunesmith_trainer.storage.fence import Fence


def report_uri(run: TrainingRun) -> str:
    """Give where the run's report belongs."""
    return f"{run.run_uri}report.json"


def write_report(storage: Store, fence: Fence, run: TrainingRun, report: TrainingReport) -> Digest:
    """Write report.json and give its sha256. Raises Superseded."""
    data = report.model_dump_json(by_alias=True, indent=1).encode()
    fence.check()
    storage.put_bytes(report_uri(run), data)
    return _digest(data)


def find_finished(storage: Store, run: TrainingRun, inputs: Digest) -> TrainerResult | None:
    """Give the result of an attempt that finished the same run, if there was one.

    Its pod may have been lost before anybody read its answer; training again would only give the
    same model under other names.
    """
    try:
        data = storage.get_bytes(report_uri(run))
        report = TrainingReport.model_validate_json(data)
    except NotFound:
        return None
    except ValidationError as error:
        log.warning("report unreadable, doing the work again", error=str(error)[:300])
        return None
    made = {ArtifactName(artifact.name) for artifact in report.artifacts}
    if report.inputs_digest != inputs or not made.issuperset(run.output.artifacts):
        return None
    return success(run, report, _digest(data), ("An earlier attempt had finished all of it.",))


def success(
    run: TrainingRun, report: TrainingReport, digest: Digest, notes: tuple[str, ...] = ()
) -> TrainerResult:
    """Give the termination message of a run whose report is in S3."""
    done = report.training
    early = " (stopped early)" if done.stopped_early else ""
    sentences = [
        f"Trained {done.steps} steps{early}, loss {_short(done.first_loss)} to "
        f"{_short(done.last_loss)}.",
        *_held_out(report.measurements),
        *report.notes,
        *notes,
    ]
    return TrainerResult(
        stage=run.stage,
        attempt=run.attempt,
        outcome=Outcome.SUCCEEDED,
        reason="Succeeded",
        message=" ".join(sentences),
        step=done.steps,
        resumed_from_step=report.resumed_from_step,
        dataset_digest=report.dataset_digest,
        model_revision=report.model_revision,
        training=done,
        measurements=report.measurements,
        baselines=tuple(model.name for model in report.baselines),
        artifacts=report.artifacts,
        architecture=report.model,
        report_uri=report_uri(run),
        report_digest=digest,
    )


def peak_memory_bytes() -> int:
    """Give the most memory this process has held: of its GPU, or resident where there is none."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return int(torch.cuda.max_memory_reserved())
    # Linux counts in KiB.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _held_out(measurements: tuple[Measurement, ...]) -> list[str]:
    losses = [m for m in measurements if m.metric.endswith("/loss")]
    return [
        f"Held-out loss {_short(m.value)}, of the base model {_short(m.base_value)}."
        for m in losses[:1]
    ]


def _short(number: str) -> str:
    return f"{float(number):.4f}" if number else "unknown"


def _digest(data: bytes) -> Digest:
    return "sha256:" + hashlib.sha256(data).hexdigest()
