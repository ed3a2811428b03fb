"""FineTuneJob: data in, a trained, judged, versioned model out.

The description of each field is what `kubectl explain` prints. Rules that need no look-up are
CEL, so that the API server refuses a wrong object at once.
"""

from typing import ClassVar

from pydantic import ConfigDict, Field

from tunesmith_api.compute import Compute
from tunesmith_api.dataset import Dataset
from tunesmith_api.evaluation import Evaluation
from tunesmith_api.jobstatus import FineTuneJobStatus
from tunesmith_api.meta import IMMUTABLE, Name, ObjectMeta, Rule, Spec, Status, cel, section
from tunesmith_api.objectives import Dpo, Objective
from tunesmith_api.output import Output
from tunesmith_api.runpolicy import CheckpointPolicy, RunPolicy
from tunesmith_api.sharding import SHARDING_RULES
from tunesmith_api.training import Hyperparameters, Lora, Method, ModelSource, S3Options


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
