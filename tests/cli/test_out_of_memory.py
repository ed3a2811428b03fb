"""`tunesmith run` where memory was short: once more with fewer rows at once.

The first attempt at training is made to end as one that the system has killed for its memory; all
else is real.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import StageHere, ask, write_job
from tunesmith_api.attempts import StageName
from tunesmith_api.result import ExitCode, TrainerResult
from tunesmith_api.run import TrainingRun
from tunesmith_cli import running
from tunesmith_trainer.outcome import OutOfMemory, failed
from tunesmith_trainer.progress import Progress

pytestmark = pytest.mark.timeout(600)


class Short(StageHere):
    """A machine without the memory for more than `most` rows at once."""

    most = 0

    def __init__(self, run: TrainingRun, folder: Path, lock: int | None = None) -> None:
        super().__init__(run, folder, lock)
        rows = run.hyperparameters.per_device_batch_size
        self._run, self._is_short = run, run.stage is StageName.TRAIN and rows > self.most

    def wait(self, seconds: float) -> bool:
        return self._is_short or super().wait(seconds)

    def finish(self) -> TrainerResult:
        if self._is_short:
            return failed(OutOfMemory("Out of memory."), Progress.of(self._run).snapshot())
        return super().finish()


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> type[Short]:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(running, "StageProcess", Short)
    return Short


def settings(rows: int) -> dict[str, object]:
    steps = {"maxSteps": 2, "learningRate": "5e-3", "maxSequenceLength": 64}
    return steps | {"perDeviceBatchSize": rows}


def test_a_run_that_is_short_of_memory_goes_on_with_fewer_rows_at_once(
    short: type[Short], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(short, "most", 3)
    told = ask("run", write_job(tmp_path, hyperparameters=settings(5)))
    assert "once more with 1 rows at once in the place of 5, and the same rows" in told.stdout
    (folder,) = (tmp_path / "out").iterdir()
    report = json.loads((folder / "report.json").read_text())
    # The prepare stage, the attempt that failed, and this one.
    assert report["attempt"] == 3
    made = report["hyperparameters"]
    assert (made["perDeviceBatchSize"], made["gradientAccumulationSteps"]) == (1, 5)
    assert report["training"]["steps"] == 2


@pytest.mark.parametrize(
    ("rows", "compute"),
    [
        pytest.param(8, {}, id="half is too much as well"),
        pytest.param(1, {}, id="one row has no half"),
        pytest.param(8, {"onOutOfMemory": "Fail"}, id="not asked for"),
    ],
)
def test_what_stays_too_much_ends_the_run(
    short: type[Short], tmp_path: Path, rows: int, compute: dict[str, str]
) -> None:
    given = {"compute": {"gpusPerNode": 0} | compute}
    told = ask("run", write_job(tmp_path, hyperparameters=settings(rows), **given))
    assert told.returncode == ExitCode.OUT_OF_MEMORY
    is_tried_again = rows > 1 and not compute
    assert ("once more with 4 rows" in told.stdout) is is_tried_again
    assert "OutOfMemory: Out of memory." in told.stderr
