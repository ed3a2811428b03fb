"""What the operator gives the trainer: one immutable :class:`TrainingRun` an attempt.

It is an annotation of the pod, which the kubelet shows the trainer as the file :data:`RUN_PATH`.
What the trainer says back is in ``result``.
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from tunesmith_api.attempts import StageName
from tunesmith_api.dataset import Dataset
from tunesmith_api.evaluation import Baseline, Evaluation
from tunesmith_api.finetunejob import FineTuneJobSpec
from tunesmith_api.meta import Digest, Spec
from tunesmith_api.objectives import Dpo, Objective
from tunesmith_api.output import ArtifactName, Output
from tunesmith_api.runpolicy import CheckpointPolicy
from tunesmith_api.sharding import Sharding
from tunesmith_api.training import Hyperparameters, Method, ModelSource

RUN_VERSION: Literal["tunesmith.dev/run.v1"] = "tunesmith.dev/run.v1"
RUN_PATH = "/etc/tunesmith/run.json"
CREDENTIALS_PATH = "/var/run/tunesmith/credentials"
PVC_PATH = "/var/run/tunesmith/pvc"
WORK_PATH = "/work"


def judge_folder(place: int) -> str:
    """Give the folder below CREDENTIALS_PATH with the secret of the judge of suite `place`."""
    return f"judge-{place}"


class JobRef(Spec):
    """The FineTuneJob a run belongs to."""

    namespace: str
    name: str
    uid: str


class S3Connection(Spec):
    """S3 as resolved from the job and the chart. Credentials are files, see CREDENTIALS_PATH."""

    endpoint: str = ""
    """Empty: Amazon's."""
    region: str = "us-east-1"
    path_style: bool = False
    model_secret: str = ""
    """Name of the Secret mounted at CREDENTIALS_PATH/model, or empty for the pod's identity."""
    dataset_secret: str = ""
    """Likewise at CREDENTIALS_PATH/dataset."""
    output_secret: str = ""
    """Likewise at CREDENTIALS_PATH/output."""


class World(Spec):
    """The processes that train together. Ranks come from the launcher's environment."""

    nodes: Annotated[int, Field(ge=1)] = 1
    gpus_per_node: Annotated[int, Field(ge=0)] = 0
    sharding: Sharding = Sharding.DDP
    """How the ranks hold the model; never Auto."""

    @property
    def ranks(self) -> int:
        """Number of processes: one a GPU, or one a node on CPU."""
        return self.nodes * max(1, self.gpus_per_node)


class BaselineModel(Spec):
    """An earlier model to measure beside the tuned one."""

    name: Baseline
    """Previous or Deployed; Base is always measured and is never listed."""
    version: str = ""
    """Name of its ModelVersion, for people."""
    form: ArtifactName
    """Merged, or Adapter of the same base model."""
    uri: Annotated[str, Field(max_length=1024, pattern=r"^(s3|file)://.+$")]
    """Folder that holds its manifest; read with the credentials of the output."""
    digest: Digest
    """sha256 of the manifest."""


class PlannedGpus(Spec):
    """The GPUs that the train stage will get, for the prepare stage to look whether it fits."""

    type: str = "GPU"
    """spec.compute.gpuType."""
    memory_bytes: Annotated[int, Field(ge=0)] = 0
    """Memory of the largest GPU of the type; 0 where the chart does not say."""
    ranks: Annotated[int, Field(ge=1)] = 1
    """How many there are, over all nodes."""
    sharding: Sharding = Sharding.AUTO
    """spec.compute.sharding."""


class TrainingRun(Spec):
    """All a trainer needs to know. Written once an attempt, never changed."""

    version: Literal["tunesmith.dev/run.v1"] = RUN_VERSION
    job: JobRef
    stage: StageName
    attempt: Annotated[int, Field(ge=1)]
    """Rises over all attempts of the job, so it fences late writes of an earlier one."""
    run_uri: Annotated[str, Field(max_length=1024, pattern=r"^(s3|file)://.+$")]
    """Everything the run writes is below this prefix: prepared/, checkpoints/, adapter/, merged/,
    gguf/, int8/, ollama/, package/, report.json."""
    trainer_image: str = ""
    """Image as the operator asked for it; goes into the report's lineage."""
    s3: S3Connection = Field(default_factory=S3Connection)
    world: World = Field(default_factory=World)
    planned_gpus: PlannedGpus | None = None
    """Of a prepare stage, where training will be on GPUs."""
    model: ModelSource
    objective: Objective = Objective.SFT
    dpo: Dpo | None = None
    """None: the defaults, where the objective is DPO."""
    method: Method
    dataset: Dataset
    hyperparameters: Hyperparameters
    checkpoint: CheckpointPolicy
    evaluation: Evaluation
    baselines: Annotated[tuple[BaselineModel, ...], Field(max_length=2)] = ()
    """Those of evaluation.baselines that exist, besides Base."""
    output: Output

    def encode(self) -> str:
        """Give the run as its pods get it, in an annotation."""
        return self.model_dump_json(by_alias=True, exclude_none=True)


def sections_of(spec: FineTuneJobSpec) -> dict[str, Any]:
    """Give the sections of a job that its TrainingRun has unchanged, by name.

    Whoever builds a run takes all of them from here, so a new section is never forgotten.
    """
    shared = (TrainingRun.model_fields.keys() & FineTuneJobSpec.model_fields.keys()) - {"s3"}
    return {name: getattr(spec, name) for name in sorted(shared)}
