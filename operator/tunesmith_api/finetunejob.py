"""FineTuneJob: data in, a trained, judged, versioned model out.

The description of each field is what `kubectl explain` prints. Rules that need no look-up are
CEL, so that the API server refuses a wrong object at once.
"""

from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field

from tunesmith_api.dataset import Dataset
from tunesmith_api.evaluation import Evaluation
from tunesmith_api.jobstatus import FineTuneJobStatus
from tunesmith_api.meta import (
    IMMUTABLE,
    Name,
    ObjectMeta,
    OptionalName,
    Quantity,
    Rule,
    Seconds,
    ShortText,
    Spec,
    Status,
    cel,
    section,
)
from tunesmith_api.objectives import Dpo, Objective
from tunesmith_api.output import Output
from tunesmith_api.sharding import SHARDING_RULES, Sharding
from tunesmith_api.training import Hyperparameters, Lora, Method, ModelSource, S3Options


class OnOutOfMemory(StrEnum):
    """What follows when training runs out of memory."""

    HALVE_BATCH = "HalveBatch"
    FAIL = "Fail"


class Toleration(Spec):
    """A toleration of the training pods."""

    key: ShortText = ""
    """Taint key; empty with operator Exists stands for all."""
    operator: Literal["Exists", "Equal"] = "Equal"
    """How key and value are compared."""
    value: ShortText = ""
    """Taint value."""
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = ""
    """Taint effect; empty stands for all."""
    toleration_seconds: Seconds | None = None
    """How long a NoExecute taint is tolerated."""


ResourceList = Annotated[dict[ShortText, Quantity], Field(max_length=16)]
SelectorMap = Annotated[dict[ShortText, Annotated[str, Field(max_length=63)]], Field(max_length=16)]


class Resources(Spec):
    """CPU and memory of a pod. GPUs come from gpusPerNode."""

    requests: ResourceList = Field(default_factory=dict)
    """What is reserved."""
    limits: ResourceList = Field(default_factory=dict)
    """What may be used at most."""


class Compute(Spec):
    """Where training runs."""

    nodes: Annotated[int, Field(ge=1, le=64)] = 1
    """Pods that train together, started with accelerate launch where there are several ranks."""
    gpus_per_node: Annotated[int, Field(ge=0, le=16)] = 1
    """GPUs of a pod, each with a process of its own. 0 trains on the CPU."""
    gpu_type: Annotated[str, Field(max_length=63, pattern=r"^[A-Za-z0-9._-]*$")] = ""
    """Kind of GPU, such as A100 or A100-80GB. The chart's table gpuTypes says which node labels
    stand for it. Empty: any."""
    sharding: Sharding = Sharding.AUTO
    """How several processes hold the model. DDP: each holds all of it. FSDP: each holds a part of
    all weights, gradients and optimizer state, and gathers a layer when it is computed: less
    memory, more traffic. Auto is DDP where that fits the memory that the chart's gpuMemoryGiB has
    for gpuType, else FSDP; status.resolved.sharding has the choice, the condition DataReady the
    reason. FSDP needs two processes, method lora or full, and an optimizer such as AdamW."""
    resources: Resources = Field(default_factory=Resources, json_schema_extra=section())
    """CPU and memory of a training pod."""
    node_selector: SelectorMap = Field(default_factory=dict)
    """Further labels the node must have."""
    tolerations: Annotated[tuple[Toleration, ...], Field(max_length=16)] = Field(
        default=(), json_schema_extra={"x-kubernetes-list-type": "atomic"}
    )
    """Taints the pods may stand. The chart's tolerations for GPU nodes are added."""
    shared_memory: Quantity = "2Gi"
    """Size of /dev/shm."""
    service_account_name: OptionalName = ""
    """Service account of the pods, for workload identity. Empty: default. Its token is not
    mounted. The operator's chart may restrict the names."""
    image: Annotated[str, Field(max_length=512, pattern=r"^\S*$")] = ""
    """Image of the trainer. Empty: the operator's."""
    on_out_of_memory: OnOutOfMemory = OnOutOfMemory.HALVE_BATCH
    """HalveBatch tries once more with half the perDeviceBatchSize and twice the
    gradientAccumulationSteps."""


class CheckpointPolicy(Spec):
    """When the state of training is saved, so that an interruption costs little."""

    every_steps: Annotated[int, Field(ge=1, le=1_000_000)] = 100
    """Optimizer steps between two checkpoints. One more is saved on SIGTERM."""
    keep_last: Annotated[int, Field(ge=2, le=20)] = 2
    """How many checkpoints are kept. All are deleted after success."""
    grace_period_seconds: Annotated[int, Field(ge=5, le=3600)] = 120
    """Time for the checkpoint on SIGTERM before the pod is killed."""
    resume: Literal["Auto", "Never"] = "Auto"
    """Auto goes on from the newest complete checkpoint, or the one before if that is damaged."""


class StageTimeouts(Spec):
    """Longest time of each part of an attempt, from its start."""

    prepare: Seconds = 3600
    """Seconds for the prepare pod."""
    train: Seconds = 0
    """Seconds for training; 0 is no limit."""
    evaluate: Seconds = 7200
    """Seconds for evaluation."""
    export: Seconds = 7200
    """Seconds for export and upload."""


class RunPolicy(Spec):
    """How often, how long, and what stays."""

    backoff_limit: Annotated[int, Field(ge=0, le=100)] = 3
    """Failed attempts that are followed by another one. Errors that a repeat cannot mend end the
    job at once."""
    disruption_limit: Annotated[int, Field(ge=0, le=1000)] = 20
    """Evictions, preemptions and lost nodes that are followed by another attempt."""
    active_deadline_seconds: Seconds = 0
    """Seconds from the job's first start to its failure; time suspended counts. 0 is no limit."""
    stall_timeout_seconds: Annotated[int, Field(ge=10, le=86_400)] = 900
    """Seconds without any progress of the trainer after which the attempt is replaced."""
    stage_timeout_seconds: StageTimeouts = Field(
        default_factory=StageTimeouts, json_schema_extra=section()
    )
    """Longest time of each part of an attempt."""
    ttl_seconds_after_finished: Seconds | None = None
    """Seconds from the end of the job to its deletion. The ModelVersion stays. Absent: never."""
    priority_class_name: OptionalName = ""
    """Priority class of the pods; a change counts from the next attempt."""


class DeploymentRef(Spec):
    """A ModelDeployment in the namespace of the job."""

    name: Name
    """Name of the ModelDeployment."""


_SOURCES = "(has(self.dataset.train.sources) ? self.dataset.train.sources : [])"

_JOB_RULES = (
    Rule("self.model == oldSelf.model", f"spec.model {IMMUTABLE.message}"),
    *(
        Rule(
            f"has(self.{name}) == has(oldSelf.{name})"
            f" && (!has(self.{name}) || self.{name} == oldSelf.{name})",
            f"spec.{name} {IMMUTABLE.message}",
        )
        for name in ("s3", "dpo", "deployTo")
    ),
    *(
        Rule(f"self.{name} == oldSelf.{name}", f"spec.{name} {IMMUTABLE.message}")
        for name in (
            "objective",
            "method",
            "dataset",
            "hyperparameters",
            "compute",
            "checkpoint",
            "evaluation",
            "output",
        )
    ),
    Rule(
        "!(has(self.method.full) && self.output.artifacts.exists(a, a == 'Adapter'))",
        "output.artifacts: Adapter needs method lora or qlora; with full ask for Merged or GGUF",
    ),
    Rule(
        "!has(self.hyperparameters.earlyStopping) || has(self.dataset.validation.uri)"
        " || double(self.dataset.validation.percent) > 0.0",
        "hyperparameters.earlyStopping needs dataset.validation: set its percent or uri",
    ),
    Rule(
        "size(self.evaluation.gates) == 0 || has(self.dataset.test.uri)"
        " || double(self.dataset.test.percent) > 0.0",
        "evaluation.gates need dataset.test: set its percent or uri",
    ),
    Rule(
        "size(self.evaluation.gates) > 0 || self.evaluation.allowUngated",
        "evaluation.gates is empty: add a gate or set evaluation.allowUngated to true",
    ),
    Rule(
        "!('Deployed' in self.evaluation.baselines) || has(self.deployTo)",
        "evaluation.baselines: Deployed needs deployTo, whose stable version it is",
    ),
    Rule(
        "self.model.uri != 'builtin://tiny' || !has(self.method.qlora)",
        "method.qlora has no use for builtin://tiny: choose lora or full",
    ),
    Rule(
        "self.hyperparameters.optimizer != 'AdamW8bit' || self.compute.gpusPerNode > 0",
        "hyperparameters.optimizer AdamW8bit needs a GPU: choose AdamW or Adafactor, or set "
        "compute.gpusPerNode",
    ),
    *SHARDING_RULES,
    Rule("!has(self.dpo) || self.objective == 'DPO'", "spec.dpo needs spec.objective DPO"),
    Rule(
        "self.objective != 'DPO' || (self.dataset.format in ['Auto', 'Preference']"
        f" && {_SOURCES}.all(s, !has(s.format) || s.format in ['Auto', 'Preference']))",
        "objective DPO learns from preferences: set dataset.format, and that of each source, to "
        "Preference or Auto",
    ),
    Rule(
        "self.objective == 'DPO' || (self.dataset.format != 'Preference'"
        f" && {_SOURCES}.all(s, !has(s.format) || s.format != 'Preference'))",
        "format Preference needs objective DPO",
    ),
    Rule(
        "self.objective != 'DPO' || double(self.hyperparameters.labelSmoothing) == 0.0",
        "hyperparameters.labelSmoothing is for objectives SFT and Pretrain: with DPO set "
        "dpo.labelSmoothing",
    ),
)


class FineTuneJobSpec(Spec):
    """What to train, on what, with what, and what is asked of the result."""

    model_config = ConfigDict(json_schema_extra=cel(*_JOB_RULES))

    suspend: bool = False
    """Stops the run after a checkpoint; false goes on from there."""
    model: ModelSource
    """The base model."""
    s3: S3Options | None = None
    """How to reach S3, for all of the job. Default: the operator's chart."""
    objective: Objective = Objective.SFT
    """What is learned from a row. SFT: the answers of a conversation, and plain text where it is
    mixed in. DPO: to prefer the better of two answers, from rows of format Preference. Pretrain:
    every token; conversations become text by the chat template. docs/objectives.md has more."""
    dpo: Dpo | None = None
    """How objective DPO is trained. Absent: its defaults."""
    method: Method = Field(
        default_factory=lambda: Method(lora=Lora()), json_schema_extra={"default": {"lora": {}}}
    )
    """How the weights are changed."""
    dataset: Dataset
    """What to learn from."""
    hyperparameters: Hyperparameters = Field(
        default_factory=Hyperparameters, json_schema_extra=section()
    )
    """How it is trained."""
    compute: Compute = Field(default_factory=Compute, json_schema_extra=section())
    """Where it runs."""
    checkpoint: CheckpointPolicy = Field(
        default_factory=CheckpointPolicy, json_schema_extra=section()
    )
    """When its state is saved."""
    evaluation: Evaluation = Field(default_factory=Evaluation, json_schema_extra=section())
    """How the result is judged."""
    output: Output
    """Where the result goes."""
    deploy_to: DeploymentRef | None = None
    """The ModelDeployment that the version is offered to once the gates have passed. It must follow
    output.modelVersion.model through a channel (source.model and source.channel): the version gets
    that tag, and the deployment rolls it out by itself. Where it does not, the version is made all
    the same and the condition Offered says what to change. Absent: offered to nobody."""
    run_policy: RunPolicy = Field(default_factory=RunPolicy, json_schema_extra=section())
    """How often, how long, and what stays. May be changed at any time."""


class FineTuneJob(Status):
    """A fine-tuning run: prepare the data, train, judge, export, version."""

    PLURAL: ClassVar[str] = "finetunejobs"
    KIND: ClassVar[str] = "FineTuneJob"

    metadata: ObjectMeta
    spec: FineTuneJobSpec
    """What is wanted."""
    status: FineTuneJobStatus = Field(default_factory=FineTuneJobStatus)
    """What is."""
