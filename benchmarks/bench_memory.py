"""Memory of the prepare stage: the peak for 20 MB of rows and for 200 MB, each in its own process.

Run as ``make bench-memory``, some minutes; prints a table and the verdict.
"""

import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tunesmith_api.run import TrainingRun

os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}

SIZES = (20, 200)
WORDS = [f"{letter}{number}" for letter in "abcdefgh" for number in range(300)]
# What ten times the data may add, as a share of the data that is added.
TARGET = 0.5


def write_rows(path: Path, megabytes: int) -> int:
    """Write rows of 440 characters, none like another; give their count."""
    rng = random.Random(7)
    count = 0
    with path.open("w") as file:
        while file.tell() < megabytes * 1e6:
            text = " ".join(rng.choices(WORDS, k=120))
            file.write(json.dumps({"prompt": text[:220], "response": text[220:440]}) + "\n")
            count += 1
    return count


def prepare_rows(path: Path, folder: Path) -> None:
    """Prepare the rows in this process, and print its peak of resident memory in bytes."""
    from tunesmith_trainer.prepare import prepare
    from tunesmith_trainer.progress import Progress
    from tunesmith_trainer.stopping import StopSignal

    given = {
        **{"stage": "prepare", "attempt": 1, "runUri": f"file://{folder}/out/"},
        "job": {"namespace": "local", "name": "memory", "uid": "u"},
        "dataset": {"train": {"uri": f"file://{path}"}, "checks": {"tooLong": "Truncate"}},
        "hyperparameters": {"maxSequenceLength": 512},
        **{"model": {"uri": "builtin://tiny"}, "output": {"uri": f"file://{folder}/out/"}},
        **{"method": {"lora": {}}, "s3": {}, "checkpoint": {}, "evaluation": {}},
    }
    run = TrainingRun.model_validate(given)
    prepare(run, folder / "work", Progress.of(run), StopSignal())
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def main() -> int:
    """Run the benchmark; returns the exit code."""
    if len(sys.argv) > 1:
        prepare_rows(Path(sys.argv[1]), Path(sys.argv[2]))
        return 0
    rows, peaks = [], []
    for size in SIZES:
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory, "rows.jsonl")
            rows.append(write_rows(path, size))
            command = [sys.executable, "-m", "benchmarks.bench_memory", str(path), directory]
            begin = time.monotonic()
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            peaks.append(int(done.stdout.splitlines()[-1]))
            seconds = time.monotonic() - begin
            print(f"{size:>5} MB, {rows[-1]:>8,} rows {peaks[-1] / 1e6:>8.0f} MB at the peak")
            print(f"      {seconds:.0f} s", flush=True)
    more = peaks[1] - peaks[0]
    share = more / (SIZES[1] - SIZES[0]) / 1e6
    print(f"{more / (rows[1] - rows[0]):.0f} bytes a row")
    is_met = share < TARGET
    print(f"{'met     ' if is_met else 'MISSED  '}memory that a byte more takes: {share:.2f}")
    return 0 if is_met else 1


if __name__ == "__main__":
    sys.exit(main())
