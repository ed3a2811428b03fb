"""The status of a FineTuneJob: what the operator has seen and decided, and its only memory."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from tunesmith_api.attempts import ActiveAttempt, Attempt, Counters, StageTimes
from tunesmith_api.datastatus import DataStatus
from tunesmith_api.measurements import EvaluationStatus, Metric
from tunesmith_api.meta import (
    ArtifactFormat,
    ArtifactUri,
    Condition,
    Count,
    DecimalText,
    Digest,
    Name,
    ShortText,
    Status,
    Text,
)
from tunesmith_api.sharding import Sharding


class DisplayStage(StrEnum):
    """One word for where the job is. For display only; conditions are the truth."""

    PENDING = "Pending"
    PREPARE = "Prepare"
    TRAIN = "Train"
    EVALUATE = "Evaluate"
    EXPORT = "Export"
    SUSPENDED = "Suspended"
    COMPLETE = "Complete"
    FAILED = "Failed"


class Resolved(Status):
    """What the run's moving inputs turned out to be."""

    model_revision: ShortText = ""
    """Commit or digest of the base model."""
    dataset_digest: Digest | None = None
    """sha256 over the cleaned, split data."""
    trainer_image: Annotated[str, Field(max_length=512)] = ""
    """Image of the trainer, with its digest once a pod has run."""
    run_uri: Text = ""
    """s3:// prefix that the run writes to."""
    estimated_gpu_memory_bytes: Count | None = None
    """What each GPU is expected to hold at the peak of a training step."""
    sharding: Sharding | None = None
    """How the GPUs hold the model: DDP or FSDP. The condition DataReady says why."""


class ProgressStatus(Status):
    """How far the running attempt is."""

    percent: Annotated[int, Field(ge=0, le=100)] = 0
    """Share of the optimizer steps that is done."""
    step: Count = 0
    """Optimizer steps done."""
    total_steps: Count = 0
    """Optimizer steps in all."""
    epoch: DecimalText = "0"
    """Passes over the data."""
    eta_seconds: Count | None = None
    """Seconds that training still takes."""
    eta: ShortText = ""
    """The same for people, such as 4m10s."""
    phase: ShortText = ""
    """What the trainer is doing, in its own word."""
    phase_start_time: datetime | None = None
    """When that began."""
    last_update_time: datetime | None = None
    """When the trainer last got further."""


class CheckpointStatus(Status):
    """The newest complete checkpoint. Its digests are compared whenever an attempt resumes."""

    step: Count = 0
    """Optimizer step it was taken at."""
    uri: Text = ""
    """Where it is."""
    time: datetime | None = None
    """When it was complete."""
    resumed_from_step: Count | None = None
    """Step that the running attempt began at."""


class ArtifactStatus(Status):
    """A part of the result."""

    name: ArtifactFormat
    """Such as Adapter or Merged."""
    uri: ArtifactUri
    """Where it is."""
    digest: Digest
    """sha256 of its manifest, which holds the sha256 of every file."""
    size_bytes: Count
    """Size of all its files."""
    added_tokens: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """Of the adapter: the tokens that it brings and its base model lacks."""


class Architecture(Status):
    """What kind of model it is."""

    family: ShortText = ""
    """model_type of the configuration."""
    parameters: Count = 0
    """Number of parameters."""
    trainable_parameters: Count = 0
    """Those of them that were trained."""
    layers: Annotated[int, Field(ge=0, le=10_000)] = 0
    """Number of layers."""
    hidden_size: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """Width of the hidden states."""
    vocabulary_size: Annotated[int, Field(ge=0, le=10_000_000)] = 0
    """Number of tokens."""
    context_length: Annotated[int, Field(ge=0, le=100_000_000)] = 0
    """Longest context, in tokens."""


class ReportRef(Status):
    """The run's report.json."""

    uri: Text
    """Where it is."""
    digest: Digest
    """sha256 of the file."""


class Usage(Status):
    """What the job has used."""

    gpu_seconds: DecimalText = "0"
    """GPUs times seconds, over all attempts."""
    gpu_seconds_lost: DecimalText = "0"
    """Those of them whose work had to be done again, or came to nothing: of each attempt that
    did not succeed, the share of its steps that no checkpoint holds; all of one that made no
    step."""


class NamedRef(Status):
    """Name of another object in the namespace."""

    name: Name
    """Its name."""


class FineTuneJobStatus(Status):
    """What the operator has seen and decided."""

    observed_generation: Annotated[int, Field(ge=0)] = 0
    """The metadata.generation this status speaks of."""
    stage: DisplayStage = DisplayStage.PENDING
    """One word for where the job is. For display only."""
    conditions: Annotated[tuple[Condition, ...], Field(max_length=16)] = Field(
        default=(),
        json_schema_extra={
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["type"],
        },
    )
    """Accepted, DataReady, QuotaReserved, Trained, Evaluated, Exported, Offered, Suspended,
    Complete, Failed."""
    start_time: datetime | None = None
    """When the job was accepted."""
    completion_time: datetime | None = None
    """When it ended, well or not."""
    resolved: Resolved = Field(default_factory=Resolved)
    """What moving inputs turned out to be."""
    data: DataStatus | None = None
    """What preparation found."""
    progress: ProgressStatus | None = None
    """How far the running attempt is."""
    metrics: Annotated[tuple[Metric, ...], Field(max_length=32)] = ()
    """Latest values: loss, learning_rate, tokens_per_second and others."""
    checkpoint: CheckpointStatus | None = None
    """The newest complete checkpoint."""
    stages: Annotated[tuple[StageTimes, ...], Field(max_length=4)] = ()
    """When each stage began and ended."""
    active: ActiveAttempt | None = None
    """The attempt that runs, or whose end has not been recorded yet."""
    attempts: Annotated[tuple[Attempt, ...], Field(max_length=10)] = ()
    """The last ten that ended."""
    counters: Counters = Field(default_factory=Counters)
    """Attempts counted against the budgets."""
    evaluation: EvaluationStatus | None = None
    """The judgement."""
    artifacts: Annotated[tuple[ArtifactStatus, ...], Field(max_length=8)] = ()
    """The parts of the result."""
    report: ReportRef | None = None
    """The run's report.json."""
    architecture: Architecture | None = None
    """What kind of model it is."""
    model_version_ref: NamedRef | None = None
    """The ModelVersion that was made."""
    usage: Usage = Field(default_factory=Usage)
    """What the job has used."""
