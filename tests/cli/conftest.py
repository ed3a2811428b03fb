"""One finished run of the tiny model, made by the command line itself, for all tests."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import structlog

from tunesmith_cli.main import main
from tunesmith_cli.terminal import err, out

# As wide as in the environment of the processes below.
out.width = err.width = 200
ROOT = Path(__file__).parents[2]
_OURS = {
    # Each stage is a process of its own: what it imports is compiled once, not in each of them.
    "PYTHONDONTWRITEBYTECODE": "",
    "PYTHONPYCACHEPREFIX": str(Path(tempfile.gettempdir()) / "tunesmith-tests-pycache"),
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
        timeout=280,
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
