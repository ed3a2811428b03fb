"""The status of a FineTuneJob: what the operator has seen and decided, and its only memory."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from tunesmith_api.meta import Condition, DecimalText, Digest, Name, ShortText, Status, Text
from tunesmith_api.sharding import Sharding


class StageName(StrEnum):
    """A pod's part of the work."""

    PREPARE = "prepare"
    TRAIN = "train"


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
    estimated_gpu_memory_bytes: Annotated[int, Field(ge=0)] | None = None
    """What each GPU is expected to hold at the peak of a training step."""
    sharding: Sharding | None = None
    """How the GPUs hold the model: DDP or FSDP. The condition DataReady says why."""


class RowCounts(Status):
    """Rows by what became of them."""

    read: Annotated[int, Field(ge=0)] = 0
    """Rows in the source."""
    malformed: Annotated[int, Field(ge=0)] = 0
    """Rows that could not be read."""
    duplicates: Annotated[int, Field(ge=0)] = 0
    """Rows dropped as repeated, or as repeating a held-out row."""
    cleaned: Annotated[int, Field(ge=0)] = 0
    """Rows dropped by other rules of dataset.clean."""
    filtered: Annotated[int, Field(ge=0)] = 0
    """Rows left out because of their feedback, see dataset.feedback."""
    unsupervised: Annotated[int, Field(ge=0)] = 0
    """Rows left out because no token of theirs would have been trained on."""
    too_long: Annotated[int, Field(ge=0)] = 0
    """Rows dropped or cut because of their length."""
    train: Annotated[int, Field(ge=0)] = 0
    """Rows trained on."""
    synthetic: Annotated[int, Field(ge=0)] = 0
    """Rows that dataset.synthetic added to those trained on."""
    validation: Annotated[int, Field(ge=0)] = 0
    """Rows that early stopping looks at."""
    test: Annotated[int, Field(ge=0)] = 0
    """Rows the gates are judged on."""


class TokenCounts(Status):
    """Tokens of the training rows."""

    train: Annotated[int, Field(ge=0)] = 0
    """Tokens of the training rows."""
    supervised: Annotated[int, Field(ge=0)] = 0
    """Those of them that the loss is taken on."""
    longest: Annotated[int, Field(ge=0)] = 0
    """Tokens of the longest row."""


class SourceStatus(Status):
    """What was found in one source of training rows."""

    uri: ShortText
    """Where it is, shortened."""
    format: ShortText = ""
    """Shape of its rows, as found or as asked for."""
    rows: Annotated[int, Field(ge=0)] = 0
    """Rows that stayed after cleaning, before any were held out or dropped as repeated."""
    weight: ShortText = "1"
    """How often they are taken."""


class DroppedRows(Status):
    """Rows that cleaning dropped for one reason."""

    reason: ShortText
    """One CamelCase word; docs/cleaning.md lists them."""
    rows: Annotated[int, Field(ge=0)]
    """How many."""


class MaskedPieces(Status):
    """Pieces of text of one kind that were masked or removed."""

    kind: ShortText
    """Such as EMAIL; docs/cleaning.md lists them."""
    pieces: Annotated[int, Field(ge=0)]
    """How many."""


class DataStatus(Status):
    """What preparation found."""

    format: ShortText = ""
    """Shape of the training rows; several where the sources differ."""
    sources: Annotated[tuple[SourceStatus, ...], Field(max_length=17)] = ()
    """What was found in each source of training rows; a generator's rows have format Synthetic."""
    template: ShortText = ""
    """Chat template that is used; Plain where the model has none of its own."""
    prompt_version: ShortText = ""
    """Version of dataset.prompt; a digest where it has none, empty without a prompt."""
    rows: RowCounts = Field(default_factory=RowCounts)
    """Rows by what became of them."""
    tokens: TokenCounts = Field(default_factory=TokenCounts)
    """Tokens of the training rows."""
    dropped: Annotated[tuple[DroppedRows, ...], Field(max_length=24)] = ()
    """Rows that cleaning dropped, by reason."""
    masked: Annotated[tuple[MaskedPieces, ...], Field(max_length=16)] = ()
    """What was masked or removed, by kind."""


class ProgressStatus(Status):
    """How far the running attempt is."""

    percent: Annotated[int, Field(ge=0, le=100)] = 0
    """Share of the optimizer steps that is done."""
    step: Annotated[int, Field(ge=0)] = 0
    """Optimizer steps done."""
    total_steps: Annotated[int, Field(ge=0)] = 0
    """Optimizer steps in all."""
    epoch: DecimalText = "0"
    """Passes over the data."""
    eta_seconds: Annotated[int, Field(ge=0)] | None = None
    """Seconds that training still takes."""
    eta: ShortText = ""
    """The same for people, such as 4m10s."""
    phase: ShortText = ""
    """What the trainer is doing, in its own word."""
    phase_start_time: datetime | None = None
    """When that began."""
    last_update_time: datetime | None = None
    """When the trainer last got further."""


class Metric(Status):
    """A measured value."""

    name: Annotated[str, Field(max_length=128)]
    """Name of the metric."""
    value: Annotated[str, Field(max_length=40)]
    """Value as a decimal number."""


class CheckpointStatus(Status):
    """The newest complete checkpoint."""

    step: Annotated[int, Field(ge=0)] = 0
    """Optimizer step it was taken at."""
    uri: Text = ""
    """Where it is."""
    time: datetime | None = None
    """When it was complete."""
    resumed_from_step: Annotated[int, Field(ge=0)] | None = None
    """Step that the running attempt began at."""


class StageTimes(Status):
    """When a stage began and ended, over all attempts."""

    name: StageName
    """prepare or train."""
    start_time: datetime
    """Creation of its first attempt."""
    completion_time: datetime | None = None
    """End of its last attempt."""


class AttemptReason(StrEnum):
    """Why an attempt ended."""

    SUCCEEDED = "Succeeded"
    EVICTED = "Evicted"
    OUT_OF_MEMORY = "OutOfMemory"
    IMAGE_PULL = "ImagePull"
    USER_ERROR = "UserError"
    INFRASTRUCTURE = "Infrastructure"
    STALLED = "Stalled"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    SUSPENDED = "Suspended"


class Attempt(Status):
    """One try at a stage."""

    number: Annotated[int, Field(ge=1)]
    """Counts the attempts of the job, over all stages."""
    stage: StageName
    """prepare or train."""
    reason: AttemptReason
    """Why it ended."""
    message: Text = ""
    """The same as a sentence."""
    start_time: datetime | None = None
    """Creation of its Job."""
    completion_time: datetime | None = None
    """When its end was seen."""
    start_step: Annotated[int, Field(ge=0)] = 0
    """Optimizer step it began at."""
    end_step: Annotated[int, Field(ge=0)] = 0
    """Last optimizer step it was seen at."""
    lost_steps: Annotated[int, Field(ge=0)] = 0
    """Steps since the last checkpoint, which the next attempt does again."""
    exit_code: int | None = None
    """Exit code of the container that decided."""


class ActiveAttempt(Status):
    """The attempt that runs, or whose end has not been recorded yet."""

    number: Annotated[int, Field(ge=1)]
    """Counts the attempts of the job, over all stages."""
    stage: StageName
    """prepare or train."""
    job_name: Annotated[str, Field(max_length=63)]
    """Name of its Job."""
    start_time: datetime
    """When it was asked for."""
    stop_reason: AttemptReason | None = None
    """Why the operator stops it, once it does."""
    stop_message: Text = ""
    """The same as a sentence."""


class Counters(Status):
    """Attempts counted against the budgets; the list above forgets, these do not."""

    attempts: Annotated[int, Field(ge=0)] = 0
    """Attempts that have ended, over all stages."""
    failures: Annotated[int, Field(ge=0)] = 0
    """Counted against runPolicy.backoffLimit."""
    disruptions: Annotated[int, Field(ge=0)] = 0
    """Counted against runPolicy.disruptionLimit."""
    batch_halvings: Annotated[int, Field(ge=0)] = 0
    """Times the batch was halved after running out of memory."""


class Verdict(StrEnum):
    """The judgement over all gates. A missing or broken measurement is never Passed."""

    PASSED = "Passed"
    FAILED = "Failed"
    INCONCLUSIVE = "Inconclusive"


class GateResult(Status):
    """What a gate asked and what was measured."""

    metric: Annotated[str, Field(max_length=128)]
    """SUITE/METRIC."""
    verdict: Verdict
    """The judgement."""
    value: Annotated[str, Field(max_length=40)] = ""
    """Value of the tuned model."""
    baseline: ShortText = ""
    """What it was compared with: Base, Previous, Deployed, or empty for a fixed limit."""
    baseline_value: Annotated[str, Field(max_length=40)] = ""
    """Value of that."""
    message: Text = ""
    """The judgement as a sentence."""


class BaselineValue(Status):
    """A metric of a model other than the base model, on the same rows."""

    name: ShortText
    """Previous or Deployed."""
    value: Annotated[str, Field(max_length=40)]
    """Value of that model."""
    difference_low: Annotated[str, Field(max_length=40)] = ""
    """Lower end of the 95 % interval of the tuned model's value minus this one."""
    difference_high: Annotated[str, Field(max_length=40)] = ""
    """Upper end."""


class Measurement(Status):
    """A metric of the tuned and of the base model."""

    metric: Annotated[str, Field(max_length=128)]
    """SUITE/METRIC."""
    value: Annotated[str, Field(max_length=40)]
    """Value of the tuned model."""
    low: Annotated[str, Field(max_length=40)] = ""
    """Lower end of its 95 % interval; empty where there is none."""
    high: Annotated[str, Field(max_length=40)] = ""
    """Upper end."""
    base_value: Annotated[str, Field(max_length=40)] = ""
    """Value of the base model."""
    difference_low: Annotated[str, Field(max_length=40)] = ""
    """Lower end of the 95 % interval of value minus baseValue."""
    difference_high: Annotated[str, Field(max_length=40)] = ""
    """Upper end."""
    others: Annotated[tuple[BaselineValue, ...], Field(max_length=2)] = ()
    """The same of other baselines."""


class EvaluationStatus(Status):
    """The judgement."""

    verdict: Verdict
    """Over all gates."""
    results: Annotated[tuple[GateResult, ...], Field(max_length=16)] = ()
    """One a gate."""
    measurements: Annotated[tuple[Measurement, ...], Field(max_length=32)] = ()
    """All that was measured."""


class ArtifactStatus(Status):
    """A part of the result."""

    name: ShortText
    """Adapter or Merged."""
    uri: Text
    """Where it is."""
    digest: Digest
    """sha256 of its manifest, which holds the sha256 of every file."""
    size_bytes: Annotated[int, Field(ge=0)]
    """Size of all its files."""


class Architecture(Status):
    """What kind of model it is."""

    family: ShortText = ""
    """model_type of the configuration."""
    parameters: Annotated[int, Field(ge=0)] = 0
    """Number of parameters."""
    trainable_parameters: Annotated[int, Field(ge=0)] = 0
    """Those of them that were trained."""
    layers: Annotated[int, Field(ge=0)] = 0
    """Number of layers."""
    hidden_size: Annotated[int, Field(ge=0)] = 0
    """Width of the hidden states."""
    vocabulary_size: Annotated[int, Field(ge=0)] = 0
    """Number of tokens."""
    context_length: Annotated[int, Field(ge=0)] = 0
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
