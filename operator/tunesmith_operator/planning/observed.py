"""What the operator has seen, frozen: the only input of every decision.

Built by kube/ from live reads and watch events; read by planning. Holds facts in the words of
Kubernetes and draws no conclusions.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from tunesmith_api.attempts import StageName
from tunesmith_api.finetunejob import FineTuneJob
from tunesmith_api.result import TrainerProgress


@dataclass(frozen=True, slots=True)
class SeenPod:
    """A pod of an attempt.

    A pod that was deleted stays known, with ``is_gone``, for as long as its Job is: its last
    words may be all that says why an attempt ended.
    """

    name: str
    uid: str
    job_uid: str
    """uid of the batch Job that owns or has made it; empty if there is none."""
    phase: str = "Pending"
    """Pending, Running, Succeeded, Failed or Unknown."""
    index: int = 0
    """Completion index within the Job."""
    ip: str = ""
    node: str = ""
    created: datetime | None = None
    started: datetime | None = None
    """When the container began to run."""
    finished: datetime | None = None
    is_terminating: bool = False
    is_gone: bool = False
    unschedulable: str = ""
    """The scheduler's message while it finds no node."""
    waiting_reason: str = ""
    """Why the container does not start: ErrImagePull, CreateContainerConfigError, ..."""
    waiting_message: str = ""
    exit_code: int | None = None
    exit_reason: str = ""
    """OOMKilled, Error, Completed, ContainerCannotRun, ..."""
    termination_message: str = ""
    status_reason: str = ""
    """The pod's status.reason: Evicted, NodeLost, ..."""
    disruption: str = ""
    """Reason of the condition DisruptionTarget while it is True."""
    image_id: str = ""


@dataclass(frozen=True, slots=True)
class SeenJob:
    """The batch Job of one attempt."""

    name: str
    uid: str
    owner_uid: str
    """uid of the controlling owner, the FineTuneJob; empty if there is none."""
    stage: StageName
    attempt: int
    created: datetime
    started: datetime | None = None
    """When the Job controller began to make pods, since the last suspension."""
    parallelism: int = 1
    """How many pods it makes."""
    is_deleting: bool = False
    is_suspended: bool = False
    """spec.suspend: Kueue has not admitted it yet."""
    is_complete: bool = False
    is_failed: bool = False
    failure_reason: str = ""
    """Reason of the condition Failed."""
    finished: datetime | None = None
    image: str = ""
    pods: tuple[SeenPod, ...] = ()

    @property
    def is_finished(self) -> bool:
        """Whether the Job controller has said its last word."""
        return self.is_complete or self.is_failed


@dataclass(frozen=True, slots=True)
class SeenArtifact:
    """A form in which a ModelVersion is stored."""

    format: str
    """Merged, Adapter, GGUF, ..."""
    uri: str
    digest: str


@dataclass(frozen=True, slots=True)
class SeenVersion:
    """A ModelVersion of the model that the job makes."""

    name: str
    model: str
    version: str
    job_uid: str
    """Label tunesmith.dev/job-uid; empty where it was made by hand."""
    deployment: str = ""
    """spec.offeredTo.deployment; empty where it was offered to nobody."""
    channel: str = ""
    """spec.offeredTo.channel; likewise."""
    created: datetime | None = None
    base_uri: str = ""
    """spec.baseModel.uri."""
    artifacts: tuple[SeenArtifact, ...] = ()


@dataclass(frozen=True, slots=True)
class SeenTarget:
    """The ModelDeployment that spec.deployTo names, by its source."""

    exists: bool
    """Whether it is there and stays: one that is being deleted takes nothing any more."""
    model: str = ""
    """source.model; empty where fixed files are named."""
    channel: str = ""
    """source.channel; likewise."""
    engine: str = ""
    """engine.type."""
    formats: tuple[str, ...] = ()
    """Artifacts of which that engine needs one; empty where this operator does not know it."""
    stable: str = ""
    """Name of the ModelVersion that it holds as stable; empty where there is none."""


@dataclass(frozen=True, slots=True)
class Observation:
    """A FineTuneJob and all that belongs to it."""

    job: FineTuneJob
    attempts: tuple[SeenJob, ...] = ()
    """Jobs whose controller is this FineTuneJob, by uid."""
    stray_pods: tuple[SeenPod, ...] = ()
    """Pods of this FineTuneJob, not gone, whose Job is gone or is not its own any more."""
    versions: tuple[SeenVersion, ...] = ()
    """All versions of the model this job makes a version of."""
    target: SeenTarget | None = None
    """None: spec.deployTo is not set, or there was nothing to offer yet."""
    progress: TrainerProgress | None = field(default=None)
    """What the trainer of the live attempt last answered, if it did just now."""
    pods_refused: str = ""
    """Why pods of the live attempt cannot be made, in the API server's words; empty where all are
    there, or nothing is known."""
    pod_hindered: str = ""
    """What the kubelet warned of last about the pod of the live attempt that is slow to start."""
    unanswered: timedelta = timedelta()
    """How long this operator process has asked a running trainer that used to answer, in vain."""
