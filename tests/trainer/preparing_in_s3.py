"""The prepare stage on rows in S3, and what it left there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.trainer.conftest import Bucket
from tunesmith_api.result import TrainerResult
from tunesmith_api.run import TrainingRun
from tunesmith_trainer.data.prepared import PreparedData
from tunesmith_trainer.prepare import prepare, prepared_uri
from tunesmith_trainer.progress import Progress
from tunesmith_trainer.stopping import StopSignal
from tunesmith_trainer.storage import Storage
from tunesmith_trainer.storage.manifest import fetch_committed

MakeRun = Callable[..., TrainingRun]


def do(run: TrainingRun, work: Path) -> TrainerResult:
    return prepare(run, work, Progress.of(run), StopSignal())


def fetched(run: TrainingRun, bucket: Bucket, directory: Path) -> PreparedData:
    storage = Storage.open(bucket.connection, "output")
    fetch_committed(storage, prepared_uri(run), directory)
    return PreparedData.load(directory)
