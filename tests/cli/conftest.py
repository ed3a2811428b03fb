"""One finished run of the tiny model, made by the command line itself, for all tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {
    # Each stage is a process of its own: what it imports is compiled once, not in each of them.
    "PYTHONDONTWRITEBYTECODE": "",
    "PYTHONPYCACHEPREFIX": str(Path(tempfile.gettempdir()) / "tunesmith-tests-pycache"),
    "PYTHONPATH": f"{ROOT / 'operator'}:{ROOT / 'trainer_image'}",
    "OMP_NUM_THREADS": "1",
    "COLUMNS": "200",
}
COMMAND = [sys.executable, "-m", "tunesmith_cli.main"]
Tell = Callable[..., subprocess.CompletedProcess[str]]


def tell(*arguments: str | Path, said: str = "") -> subprocess.CompletedProcess[str]:
    """Run `tunesmith` to its end, from a folder that has nothing to do with the repository."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        cwd="/",
        env=ENVIRONMENT,
        input=said,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


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
