"""report.json: what the train stage leaves in S3 about itself.

Written by the trainer at the end of a run, before the result that names its digest; read by people,
dashboards, and by a later attempt of the same run.
"""

from datetime import datetime
from typing import Literal

from pydantic import Field

from tunesmith_api.datastatus import DataStatus
from tunesmith_api.evaluation import Evaluation
from tunesmith_api.jobstatus import Architecture, ArtifactStatus
from tunesmith_api.measurements import Measurement
from tunesmith_api.meta import Digest, Status
from tunesmith_api.objectives import Dpo, Objective
from tunesmith_api.result import TrainingSummary
from tunesmith_api.run import BaselineModel, JobRef
from tunesmith_api.templating import Prompt
from tunesmith_api.training import Hyperparameters, Method, ModelSource


class SampleAnswer(Status):
    """The same question to all models, answered greedily."""

    suite: str = ""
    prompt: str
    expected: str = ""
    base: str
    tuned: str
    others: dict[str, str] = Field(default_factory=dict)
    """Answers of other baselines, by their names."""


class DroppedSample(Status):
    """A row that was left out."""

    reason: str
    """As in the status's data.dropped; or Malformed, TooLong, Unsupervised or Feedback."""
    file: str
    line: int
    text: str
    """Its beginning, below what is wrong where it is malformed; what comes before the rule that
    dropped it is done: masked text is masked."""


class Rewards(Status):
    """Of a global batch of pairs: means of what DPO takes for an answer's reward, beta times the
    logarithm of how much likelier than the base model's it is; with losses that know none, beta
    times that of its probability. Each is the repr of a float."""

    chosen: str
    rejected: str
    accuracy: str
    """Share of pairs whose better answer has the higher reward."""
    margin: str
    """Mean distance of the better from the worse answer."""


class NewToken(Status):
    """A token that dataset.addTokens or addSpecialTokens added."""

    text: str
    id: int
    special: bool
    """Whether answers are shown without it."""
    uses: int
    """How often it occurs in the training rows. With 0 its embedding stayed as it began."""


class LossPoint(Status):
    """A point of the learning curve. The loss is exact: repr of the float."""

    step: int
    loss: str
    learning_rate: str
    gradient_norm: str
    tokens: int
    validation_loss: str = ""
    """Loss on the validation rows after this step, where it was measured."""
    rewards: Rewards | None = None
    """With objective DPO."""


class TrainingReport(Status):
    """report.json: everything about the run, for people, dashboards and the ModelVersion.

    report.html shows the same to people. A field is only ever added; what changes its meaning gets
    a new version.
    """

    version: Literal["tunesmith.dev/report.v1"] = "tunesmith.dev/report.v1"
    job: JobRef
    attempt: int
    created: datetime
    trainer_version: str
    trainer_image: str = ""
    base_model: ModelSource
    model_revision: str = ""
    dataset_digest: Digest
    inputs_digest: Digest
    """sha256 over all that decides the training steps: two runs with the same one do the same."""
    data: DataStatus
    prompt: Prompt | None = None
    """As given in dataset.prompt, for whoever asks the model. None: in reports that are older."""
    new_tokens: tuple[NewToken, ...] = ()
    """Tokens that were added to the base model's, in the order of their ids."""
    objective: Objective = Objective.SFT
    dpo: Dpo | None = None
    """As given in spec.dpo; None: the defaults, where the objective is DPO."""
    method: Method
    hyperparameters: Hyperparameters
    training: TrainingSummary
    model: Architecture
    curve: tuple[LossPoint, ...] = ()
    measurements: tuple[Measurement, ...] = ()
    """All of them; the status holds as many as fit."""
    evaluation: Evaluation = Field(default_factory=Evaluation)
    """What was asked for: suites, baselines, gates."""
    task_files: dict[str, Digest] = Field(default_factory=dict)
    """sha256 over the files of lmEval.taskFiles, by the name of the suite."""
    baselines: tuple[BaselineModel, ...] = ()
    """Earlier models that were measured beside it."""
    samples: tuple[SampleAnswer, ...] = ()
    """Answers of the suites samples, prompts, intent and judge; at most 50 of each suite."""
    dropped: tuple[DroppedSample, ...] = ()
    """A few rows for each reason that rows were left out for."""
    notes: tuple[str, ...] = ()
    """What could not be measured, and why."""
    artifacts: tuple[ArtifactStatus, ...] = ()
    hugging_face: str = ""
    """Address of the commit on the Hugging Face Hub, where output.huggingFace asks for one."""
    timing: dict[str, str] = Field(default_factory=dict)
    """Seconds by phase."""
    resumed_from_step: int | None = None
    """Step this attempt began at, if it went on from a checkpoint."""
