"""What the trainer says of a run: while it runs its progress, at its end the result.

The trainer answers ``GET /progress`` with a :class:`TrainerProgress` and ``GET /metrics``. It ends
with a :class:`TrainerResult` in the termination message and, after the train stage, a
:class:`tunesmith_api.report.TrainingReport` in S3. Success is a result with outcome Succeeded and
the report's digest, never an exit code alone: a launcher such as torchrun replaces the exit codes
of its workers.

A trainer's image may be anybody's. So every field is bounded: what could not be stored in the
status, or not be computed with, cannot be read, and counts as nothing said.
"""

from enum import IntEnum, StrEnum
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field

from tunesmith_api.attempts import StageName
from tunesmith_api.datastatus import DataStatus
from tunesmith_api.evaluation import Baseline
from tunesmith_api.jobstatus import Architecture, ArtifactStatus
from tunesmith_api.measurements import Measurement, Metric
from tunesmith_api.meta import Count, DecimalText, Digest, ShortText, Status, Text
from tunesmith_api.run import RUN_VERSION
from tunesmith_api.sharding import Placement, Sharding

TERMINATION_PATH = "/dev/termination-log"
TERMINATION_BYTES = 4096
PROGRESS_PORT = 8080
LONGEST_ETA_SECONDS = 10**10
Number = Annotated[str, Field(max_length=40)]
PREPARED_DATA_LOST = "PreparedDataLost"
"""Reason of a train attempt that found no prepared data: the prepare stage has to run again."""


class ExitCode(IntEnum):
    """Exit codes of the trainer, for people; the operator reads the result."""

    SUCCEEDED = 0
    USER_ERROR = 65
    INFRASTRUCTURE = 70
    CHECKPOINTED = 75
    OUT_OF_MEMORY = 76


class Outcome(StrEnum):
    """How an attempt ended, in the trainer's own view."""

    SUCCEEDED = "Succeeded"
    CHECKPOINTED = "Checkpointed"
    """Stopped by SIGTERM, state saved: another attempt goes on from there."""
    USER_ERROR = "UserError"
    """A repeat ends the same way: the message says what to change."""
    OUT_OF_MEMORY = "OutOfMemory"
    INFRASTRUCTURE = "Infrastructure"
    """S3 away, a rank lost, a bug: a repeat may succeed."""


class UserErrorReason(StrEnum):
    """What is wrong with a job that only its author can mend; see docs/conditions.md."""

    MODEL_NOT_FOUND = "ModelNotFound"
    MODEL_INVALID = "ModelInvalid"
    BUCKET_NOT_FOUND = "BucketNotFound"
    DATASET_NOT_FOUND = "DatasetNotFound"
    DATASET_EMPTY = "DatasetEmpty"
    DATASET_MALFORMED = "DatasetMalformed"
    DATASET_TOO_SMALL = "DatasetTooSmall"
    DATASET_TOO_LARGE = "DatasetTooLarge"
    DATASET_OVERLAPS = "DatasetOverlaps"
    WRONG_COLUMNS = "WrongColumns"
    TEMPLATE_INVALID = "TemplateInvalid"
    NOTHING_TO_TRAIN_ON = "NothingToTrainOn"
    SEQUENCE_TOO_LONG = "SequenceTooLong"
    CREDENTIALS_MISSING = "CredentialsMissing"
    ACCESS_DENIED = "AccessDenied"
    OUTPUT_NOT_WRITABLE = "OutputNotWritable"
    GPU_NOT_FOUND = "GpuNotFound"
    DOES_NOT_FIT = "DoesNotFit"
    PRECISION_UNSUPPORTED = "PrecisionUnsupported"
    CHECKPOINT_MISMATCH = "CheckpointMismatch"
    NON_FINITE_LOSS = "NonFiniteLoss"
    PACKAGE_MISSING = "PackageMissing"
    INVALID_RUN = "InvalidRun"


class Phase(StrEnum):
    """What the trainer is doing."""

    STARTING = "Starting"
    READING = "Reading"
    CLEANING = "Cleaning"
    TOKENIZING = "Tokenizing"
    LOADING_MODEL = "LoadingModel"
    TRAINING = "Training"
    EVALUATING = "Evaluating"
    EXPORTING = "Exporting"
    UPLOADING = "Uploading"
    DONE = "Done"


class CheckpointRef(Status):
    """A complete checkpoint."""

    step: Count
    uri: Text
    time: AwareDatetime


class TrainerProgress(Status):
    """Body of ``GET /progress``, served by rank 0."""

    stage: StageName
    attempt: int
    phase: Phase
    phase_start_time: AwareDatetime
    step: Count = 0
    total_steps: Count = 0
    epoch: DecimalText = "0"
    eta_seconds: Annotated[int, Field(ge=0, le=LONGEST_ETA_SECONDS)] | None = None
    seconds_since_progress: Annotated[float, Field(ge=0, le=1e9)] = 0.0
    """Seconds since step, phase or byte count last moved."""
    metrics: tuple[Metric, ...] = ()
    """Latest: loss, learning_rate, gradient_norm, tokens_per_second, packing_efficiency,
    peak_memory_bytes, eval_loss; with objective DPO reward_chosen, reward_rejected,
    reward_accuracy, reward_margin."""
    checkpoint: CheckpointRef | None = None
    resumed_from_step: Count | None = None
    notes: tuple[str, ...] = ()
    """Why checkpoints that are there were not used, such as damage."""


class TrainingSummary(Status):
    """How training went. Decimals are strings."""

    steps: int = 0
    epochs: DecimalText = "0"
    first_loss: Number = ""
    last_loss: Number = ""
    """Of the last ten steps together: the last one alone is a few rows."""
    train_seconds: str = "0"
    """Wall time inside the training loop, over this attempt."""
    tokens: int = 0
    """Non-padding tokens this attempt trained on."""
    tokens_per_second: Number = "0"
    packing_efficiency: str = ""
    """Tokens of the rows over tokens that went through the layers, in this attempt. Padding lowers
    it; above 1 where rows share a beginning, which is computed once, or end in what is not learned.
    Padding inside attention, which there is without FlashAttention, is not counted. Empty if no
    step was done."""
    stopped_early: bool = False
    peak_memory_bytes: int = 0
    """Of the GPU, or resident memory on CPU."""
    precision: str = ""
    ranks: int = 1
    sharding: Sharding = Sharding.DDP
    kernels: tuple[str, ...] = ()
    """Attention (SDPA or FlashAttention), and Liger where it was used."""


class TrainerResult(Status):
    """The termination message: at most TERMINATION_BYTES bytes of JSON, written by rank 0."""

    version: Literal["tunesmith.dev/run.v1"] = RUN_VERSION
    stage: StageName
    attempt: int
    outcome: Outcome
    reason: Annotated[str, Field(max_length=64, pattern=r"^[A-Z][A-Za-z0-9]*$")]
    """CamelCase; a UserErrorReason where outcome is UserError."""
    message: str
    """A sentence; says what to change where something is to be changed."""
    step: Count = 0
    """Last optimizer step done."""
    resumed_from_step: Count | None = None
    checkpoint: CheckpointRef | None = None
    """Newest complete checkpoint."""
    data: DataStatus | None = None
    """Of the prepare stage."""
    dataset_digest: Digest | None = None
    model_revision: ShortText = ""
    placement: Placement | None = None
    """Of the prepare stage, where training will be on GPUs."""
    training: TrainingSummary | None = None
    """Of a train stage that succeeded, like all below."""
    measurements: tuple[Measurement, ...] = ()
    baselines: tuple[Baseline, ...] = ()
    """Earlier models that the run was given to measure, whether or not it could."""
    artifacts: Annotated[tuple[ArtifactStatus, ...], Field(max_length=8)] = ()
    architecture: Architecture | None = None
    report_uri: Text = ""
    report_digest: Digest | None = None
    """sha256 of report.json. Without it a train stage has not succeeded."""
