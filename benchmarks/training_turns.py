"""How a worker of ``bench_training`` is told to take a step, and what it measures of it.

A line on standard input is a turn; the answers are lines of JSON on standard output.
"""

import json
import sys
import time
from typing import Any, NamedTuple

from benchmarks.training_task import wait_for_device

Answer = dict[str, Any]


def say(**answer: Any) -> None:
    """Answer the parent."""
    print(json.dumps(answer), flush=True)


def be_told() -> None:
    """Wait for one's turn."""
    if not sys.stdin.readline():
        raise SystemExit


class Stopwatch(NamedTuple):
    """When a step began: by the clock, and in seconds of this process's CPU time."""

    clock: float
    cpu: float

    @classmethod
    def start(cls) -> "Stopwatch":
        """Begin now."""
        return cls(time.perf_counter(), time.process_time())

    def taken(self) -> Answer:
        """Give what has passed since, once the device has done it."""
        wait_for_device()
        return {
            "seconds": time.perf_counter() - self.clock,
            "cpu": time.process_time() - self.cpu,
        }


def forget_the_past() -> None:
    """Let the peak of a GPU's memory be that of what follows."""
    import torch

    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_memory() -> int:
    """Give the most bytes held: by torch on a GPU, else by the process, all it imports included."""
    from tunesmith_trainer.report import peak_memory_bytes

    return peak_memory_bytes()
