"""What a toy world of training is made of: its job, faults, deployments, attempts."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from tunesmith_api.datastatus import DataStatus, RowCounts
from tunesmith_api.jobstatus import ArtifactStatus
from tunesmith_api.run import TrainingRun
from tunesmith_api.sharding import Placement, Sharding
from tunesmith_operator.config import Config
from tunesmith_operator.planning.observed import (
    SeenJob,
    SeenPod,
    SeenTarget,
)

START = datetime(2026, 1, 1, tzinfo=UTC)
STEPS = 60
DIGEST = "sha256:" + "0" * 64
DATA = DataStatus(template_date="2024-07-26", prompt_version="v2", rows=RowCounts(synthetic=7))
PLACEMENT = Placement(sharding=Sharding.FSDP, memory_bytes=1 << 30, reason="Parts fit.")
MERGED = ArtifactStatus(name="Merged", uri="s3://bucket/m/", digest=DIGEST, size_bytes=1)
CONFIG = Config(trainer_image="trainer:1")
IMAGE_DIGEST = "sha256:" + "7" * 64
"""What the tag is when pods pull it."""

SPEC: dict[str, Any] = {
    "model": {"uri": "builtin://tiny"},
    "dataset": {"train": {"uri": "s3://bucket/data.jsonl"}},
    "output": {"uri": "s3://bucket/models/"},
    "compute": {"gpusPerNode": 0},
    "checkpoint": {"everySteps": 10},
    "runPolicy": {"stallTimeoutSeconds": 60},
}


@dataclass(frozen=True)
class Faults:
    """How likely each thing is to go wrong, per turn."""

    evict: float = 0.0
    crash: float = 0.0
    out_of_memory: float = 0.0
    user_error: float = 0.0
    hang: float = 0.0
    job_deleted: float = 0.0
    operator_dies: float = 0.0
    answer_lost: float = 0.0
    toggle_suspend: float = 0.0
    image_missing: float = 0.0
    worse_than_base: float = 0.0
    prepared_lost: float = 0.0
    deployment_edited: float = 0.0
    pod_refused: float = 0.0
    child_refused: float = 0.0
    child_invalid: float = 0.0
    version_refused: float = 0.0


DEPLOYMENTS = (
    SeenTarget(exists=False),
    SeenTarget(exists=True),
    SeenTarget(True, "another", "stable"),
    SeenTarget(True, "demo", "stable"),
    SeenTarget(True, "demo", "next"),
)


@dataclass
class Attempt:
    """A Job with its one pod, once that is made."""

    job: SeenJob
    run: TrainingRun
    step: int = 0
    resumed_from: int = 0
    terminating_for: int = -1
    hangs: bool = False
    idle_since: datetime = START

    @property
    def pod(self) -> SeenPod:
        return self.job.pods[0]

    def set_pod(self, **changes: Any) -> None:
        self.job = replace(self.job, pods=(replace(self.pod, **changes),))

    @property
    def is_alive(self) -> bool:
        if not self.job.pods:
            return False
        return self.pod.phase in ("Pending", "Running") and not self.pod.is_gone
