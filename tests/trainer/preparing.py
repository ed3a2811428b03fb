"""Prepares rows in a process of its own and says how much memory that took."""

from __future__ import annotations

import json
import os
import random
import resource
import subprocess
import sys
from pathlib import Path

from tunesmith_api.run import TrainingRun
from tunesmith_trainer.prepare import prepare
from tunesmith_trainer.progress import Progress
from tunesmith_trainer.stopping import StopSignal

WORDS = [f"{letter}{number}" for letter in "abcdefgh" for number in range(300)]


def write_rows(path: Path, rows: int, characters: int) -> int:
    """Write rows of about so many characters, none like another; give the size in bytes."""
    rng = random.Random(7)
    with path.open("w") as file:
        for _ in range(rows):
            text = " ".join(rng.choices(WORDS, k=characters // 4))
            question, answer = text[:100], text[100:characters]
            file.write(json.dumps({"prompt": question, "response": answer}) + "\n")
    return path.stat().st_size


def make_local_run(rows: Path, output: Path) -> TrainingRun:
    return TrainingRun.model_validate(
        {
            "job": {"namespace": "local", "name": "prepared", "uid": "u"},
            "stage": "prepare",
            "attempt": 1,
            "runUri": f"file://{output}/",
            "s3": {},
            "method": {"lora": {}},
            "model": {"uri": "builtin://tiny"},
            "dataset": {"train": {"uri": f"file://{rows}"}, "checks": {"tooLong": "Truncate"}},
            "hyperparameters": {"maxSequenceLength": 512},
            "checkpoint": {},
            "evaluation": {},
            "output": {"uri": f"file://{output}/"},
        }
    )


def peak_of(rows: Path, folder: Path) -> int:
    """Prepare rows and give the peak of resident memory in bytes."""
    command = [sys.executable, "-m", "tests.trainer.preparing", str(rows), str(folder)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        command, env=environment, check=True, capture_output=True, text=True, timeout=120
    )
    return int(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    data, place = Path(sys.argv[1]), Path(sys.argv[2])
    asked = make_local_run(data, place / "out")
    prepare(asked, place / "work", Progress.of(asked), StopSignal())
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
