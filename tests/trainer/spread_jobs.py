"""Jobs for workers, in a module that they load quickly."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any, Self

from tunesmith_trainer.data.spreading import Spread


def do(job: float) -> tuple[float, int]:
    """Wait for so many seconds; say where. What is below zero goes wrong, in ways of its own."""
    if job == -1:
        raise LookupError("no such thing")
    if job == -2:
        os.kill(os.getpid(), signal.SIGKILL)
    if job == -3:
        os._exit(3)
    time.sleep(job)
    return job, os.getpid()


def make() -> Callable[[float], tuple[float, int]]:
    return do


def make_after_the_test() -> Callable[[float], tuple[float, int]]:
    """Take longer to be up than anybody waits; whoever asked ends this process."""
    time.sleep(600)
    return do


class Started(Spread[Any, Any]):
    """One that begins when its workers are up, so that they have their part of few jobs too."""

    def __enter__(self) -> Self:
        for worker in self._workers:
            worker._made.result(timeout=200)
        return self
