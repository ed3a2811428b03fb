"""One finished run of the tiny model, made by the command line itself, for all tests."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import structlog
from accelerate.state import AcceleratorState

from tunesmith_api.result import TrainerResult
from tunesmith_api.run import TrainingRun
from tunesmith_cli import running
from tunesmith_cli.main import main
from tunesmith_cli.terminal import err, out
from tunesmith_trainer.__main__ import main as do_stage

# As wide as in the environment of the processes below.
out.width = err.width = 200
ROOT = Path(__file__).parents[2]
_OURS = {
    # Each stage is a process of its own: our code is compiled once, not in each of them. Libraries
    # were when they were installed.
    "PYTHONDONTWRITEBYTECODE": "",
    "PYTHONPATH": f"{ROOT / 'operator'}:{ROOT / 'trainer_image'}",
    "OMP_NUM_THREADS": "1",
    "COLUMNS": "200",
}
ENVIRONMENT = os.environ | _OURS
COMMAND = [sys.executable, "-m", "tunesmith_cli.main"]
Tell = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(autouse=True)
def _environment_of_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stages are processes of their own also where the command line is in this one."""
    for name, value in _OURS.items():
        monkeypatch.setenv(name, value)


def tell(
    *arguments: str | Path, said: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run `tunesmith` to its end, from a folder that has nothing to do with the repository."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        cwd="/",
        env=ENVIRONMENT | environment,
        input=said,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )


def ask(*arguments: str | Path, said: str = "") -> subprocess.CompletedProcess[str]:
    """Do the same in this process, where libraries are loaded already."""
    given, configured = [str(argument) for argument in arguments], structlog.get_config()
    streams = sys.argv, sys.stdin
    sys.argv, sys.stdin = ["tunesmith", *given], io.StringIO(said)
    output, errors = io.StringIO(), io.StringIO()
    try:
        with redirect_stdout(output), redirect_stderr(errors), chdir("/"):
            main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
        return subprocess.CompletedProcess(given, code, output.getvalue(), errors.getvalue())
    finally:
        sys.argv, sys.stdin = streams
        structlog.configure(**configured)
    raise AssertionError("main ends with an exit code")


class StageHere:
    """A stage in the place of a :class:`StageProcess`: the same program, but in this process.

    Libraries are loaded here already. For tests whose subject is what a run leaves; how processes
    are started, stopped and listened to is that of `test_run`.
    """

    def __init__(self, run: TrainingRun, folder: Path, _lock: int | None = None) -> None:
        name = f"attempt-{run.attempt}-{run.stage}"
        self._scratch = folder / "scratch" / name
        self.log = folder / "logs" / f"{name}.log"
        for path in (self._scratch, self.log.parent):
            path.mkdir(parents=True, exist_ok=True)
        (self._scratch / "run.json").write_text(run.model_dump_json(by_alias=True))

    def wait(self, _seconds: float) -> bool:
        # It allows one kind of run a process.
        AcceleratorState._reset_state(reset_partial_state=True)
        files = {"run": "run.json", "work": "work", "result": "result.json"}
        given = [text for key, name in files.items() for text in (f"--{key}", self._scratch / name)]
        configured = structlog.get_config()
        try:
            with self.log.open("w") as log, redirect_stdout(log), redirect_stderr(log):
                do_stage([*map(str, given), "--host", "127.0.0.1", "--port", "0"])
        finally:
            structlog.configure(**configured)
            structlog.contextvars.clear_contextvars()
        return True

    def finish(self) -> TrainerResult:
        result = TrainerResult.model_validate_json((self._scratch / "result.json").read_bytes())
        shutil.rmtree(self._scratch.parent)
        return result

    def kill(self) -> None:
        """Do nothing: it has ended."""


def run_here(file: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Do `tunesmith run` with all of its stages in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setattr(running, "StageProcess", StageHere)
        return ask("run", file, *arguments)


def job(**spec: Any) -> dict[str, Any]:
    given = {
        "model": {"uri": "builtin://tiny"},
        "dataset": {"train": {"uri": "rows.jsonl"}},
        "hyperparameters": {"maxSteps": 4, "learningRate": "5e-3", "maxSequenceLength": 64},
        "compute": {"gpusPerNode": 0},
        "output": {"uri": "out/", "artifacts": ["Adapter", "Merged"]},
    }
    return {
        "apiVersion": "tunesmith.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": "tiny"},
        "spec": given | spec,
    }


def write_job(folder: Path, **spec: Any) -> Path:
    """Write a job with its data into a folder."""
    rows = [{"prompt": f"say {word}", "response": word * 3} for word in "abcdefghij"]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = folder / "job.yaml"
    # YAML too, and PyYAML would write the text 5e-3 as a number.
    path.write_text(json.dumps(job(**spec), indent=1))
    return path


class FinishedRun:
    """A job's file and what `tunesmith run` said of it."""

    def __init__(self, file: Path, told: subprocess.CompletedProcess[str]) -> None:
        self.file, self.told = file, told

    @property
    def folder(self) -> Path:
        (found,) = (self.file.parent / "out").iterdir()
        return found


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    file = write_job(tmp_path_factory.mktemp("finished"))
    return FinishedRun(file, tell("run", file))
