"""Prepares rows in a process of its own and says how much memory that took."""

from __future__ import annotations

import json
import os
import random
import re
import resource
import subprocess
import sys
import time
from pathlib import Path

from tunesmith_api.run import TrainingRun
from tunesmith_trainer.prepare import gather, prepare
from tunesmith_trainer.progress import Progress
from tunesmith_trainer.stopping import StopSignal
from tunesmith_trainer.storage import open_store

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
        command, env=environment, check=True, capture_output=True, text=True, timeout=250
    )
    return int(done.stdout.splitlines()[-1])


def anonymous_peak_of(rows: Path, folder: Path) -> int:
    """Gather rows and give the peak in bytes of memory that is no mapped file's."""
    command = [sys.executable, "-m", "tests.trainer.preparing", str(rows), str(folder), "gather"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    peak, deadline = 0, time.monotonic() + 250
    try:
        while process.poll() is None and time.monotonic() < deadline:
            status = Path(f"/proc/{process.pid}/status").read_text()
            # Gone for an instant at its end.
            if found := re.search(r"RssAnon:\s+(\d+) kB", status):
                peak = max(peak, int(found[1]) * 1024)
            time.sleep(0.02)
    finally:
        process.kill()
    assert process.wait() == 0
    return peak


if __name__ == "__main__":
    data, place = Path(sys.argv[1]), Path(sys.argv[2])
    asked = make_local_run(data, place / "out")
    if sys.argv[3:] == ["gather"]:
        store = open_store(asked.run_uri, asked.s3, "output", StopSignal())
        gather(asked, store, place / "work", Progress.of(asked), StopSignal())
    else:
        prepare(asked, place / "work", Progress.of(asked), StopSignal())
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
