"""Memory of the prepare stage for little data and for much, each in a process of its own.

``make bench-memory``, some minutes; ``python -m benchmarks.bench_memory --megabytes 10 10000``
takes hours. Counted is anonymous memory, which nothing but the process's end gives back: mapped
files, the other part of resident memory, the system keeps only as long as nobody needs the room.
With ``--gather`` without the tokenizer, which keeps nothing of rows. Prints a table and the
verdict.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from tunesmith_api.run import TrainingRun

os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}

WORDS = [f"{letter}{number}" for letter in "abcdefgh" for number in range(300)]
SECONDS_BETWEEN_LOOKS = 0.02
# What all of the added rows may add. Buffers that fill up only with more rows are some megabytes.
TARGET_MB = 24


class Peak(NamedTuple):
    """The most that a process had, in MB."""

    anonymous: float
    resident: float


def write_rows(path: Path, megabytes: int, characters: int) -> int:
    """Write rows of so many characters, none like another; give their count."""
    rng = random.Random(7)
    half, count = characters // 2, 0
    with path.open("w") as file:
        while file.tell() < megabytes * 1e6:
            text = " ".join(rng.choices(WORDS, k=characters // 4 + 10))
            file.write(
                json.dumps({"prompt": text[:half], "response": text[half:characters]}) + "\n"
            )
            count += 1
    return count


def prepare_rows(path: Path, folder: Path, is_gathered_only: bool) -> None:
    """Prepare the rows in this process."""
    from tunesmith_trainer.prepare import gather, prepare
    from tunesmith_trainer.progress import Progress
    from tunesmith_trainer.stopping import StopSignal
    from tunesmith_trainer.storage import open_store

    checks = {"tooLong": "Truncate", "maxRows": 100_000_000}
    given = {
        **{"stage": "prepare", "attempt": 1, "runUri": f"file://{folder}/out/"},
        "job": {"namespace": "local", "name": "memory", "uid": "u"},
        "dataset": {"train": {"uri": f"file://{path}"}, "checks": checks},
        "hyperparameters": {"maxSequenceLength": 512},
        **{"model": {"uri": "builtin://tiny"}, "output": {"uri": f"file://{folder}/out/"}},
        **{"method": {"lora": {}}, "s3": {}, "checkpoint": {}, "evaluation": {}},
    }
    run, stop = TrainingRun.model_validate(given), StopSignal()
    progress = Progress.of(run)
    if is_gathered_only:
        output = open_store(run.run_uri, run.s3, "output", stop)
        gather(run, output, folder / "work", progress, stop)
    else:
        prepare(run, folder / "work", progress, stop)


def peak_of(command: list[str]) -> Peak:
    """Run a command to its end. Raises CalledProcessError where it fails."""
    anonymous = resident = 0.0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    status = Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        lines = (line.split() for line in status.read_text().splitlines())
        found = {words[0]: float(words[1]) / 1024 for words in lines if words[-1:] == ["kB"]}
        anonymous = max(anonymous, found.get("RssAnon:", 0.0))
        resident = max(resident, found.get("VmHWM:", 0.0))
        time.sleep(SECONDS_BETWEEN_LOOKS)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return Peak(anonymous, resident)


def measure(megabytes: int, characters: int, is_gathered_only: bool) -> Peak:
    """Write rows, prepare them, and print a line of the table."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "rows.jsonl")
        count = write_rows(path, megabytes, characters)
        command = [sys.executable, "-m", "benchmarks.bench_memory", "--here", str(path), directory]
        begin = time.monotonic()
        peak = peak_of([*command, *(["--gather"] if is_gathered_only else [])])
        seconds = time.monotonic() - begin
    print(
        f"{megabytes:>6,} MB, {count:>10,} rows{peak.anonymous:>8.0f} MB{peak.resident:>9.0f} MB"
        f"{seconds:>9.0f} s",
        flush=True,
    )
    return peak


def main() -> int:
    """Run the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--megabytes", type=int, nargs="+", default=[10, 200])
    parser.add_argument("--characters", type=int, default=440, help="of a row")
    parser.add_argument("--gather", action="store_true", help="leave the tokenizer out")
    parser.add_argument("--here", type=Path, nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.here:
        path, folder = given.here
        prepare_rows(path, folder, given.gather)
        return 0
    print(f"{'':29}{'anonymous':>11}{'resident':>11}{'time':>9}")
    peaks = [measure(size, given.characters, given.gather) for size in given.megabytes]
    more = peaks[-1].anonymous - peaks[0].anonymous
    is_met = more <= TARGET_MB
    print(
        f"{'met     ' if is_met else 'MISSED  '}anonymous memory that more data adds: {more:.0f} MB"
    )
    return 0 if is_met else 1


if __name__ == "__main__":
    sys.exit(main())
