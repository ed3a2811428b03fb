"""Runs named steps side by side, each as soon as what it needs is done.

A step is a function that takes its ``Log``. When one fails, those that need it are skipped and
the others run to their end, so that the next run finds as much as possible done. Knows nothing
of what the steps do; ``display`` shows the ``Progress`` that lives here.
"""

from __future__ import annotations

import re
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from deploy.shell import Log, StepError

TICK_SECONDS = 0.25


class State(Enum):
    """What has become of a step."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Step:
    """One piece of work; ``needs`` names the steps that must be done before."""

    name: str
    work: Callable[[Log], None]
    needs: tuple[str, ...] = ()


@dataclass
class Progress:
    """How far one step is."""

    step: Step
    log: Log
    state: State = State.WAITING
    began: float = 0.0
    ended: float = 0.0
    error: str = ""
    hint: str = ""

    @property
    def seconds(self) -> float:
        """Time the step has taken so far."""
        if not self.began:
            return 0.0
        return (self.ended or time.monotonic()) - self.began


@dataclass
class Outcome:
    """What a run of steps came to."""

    progress: list[Progress]
    seconds: float
    failed: list[Progress] = field(default_factory=list)


def run_steps(
    steps: Sequence[Step], logs: Path, on_tick: Callable[[list[Progress]], None]
) -> Outcome:
    """Run ``steps``; ``on_tick`` is called four times a second and after each change.

    Raises ``ValueError`` for a need that no earlier step has, before anything starts. On Ctrl-C
    the running programs are ended and the interrupt goes on.
    """
    _check(steps)
    began = time.monotonic()
    progress = {s.name: Progress(s, Log(logs / f"{_file_name(s.name)}.log")) for s in steps}
    everything = list(progress.values())
    running: set[Future[None]] = set()
    pool = ThreadPoolExecutor(max_workers=len(steps) or 1)
    try:
        while True:
            running |= {pool.submit(_run, one) for one in _startable(progress)}
            on_tick(everything)
            if not running:
                break
            _, running = wait(running, timeout=TICK_SECONDS, return_when=FIRST_COMPLETED)
    except KeyboardInterrupt:
        for one in everything:
            one.log.stop()
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    failed = [one for one in everything if one.state is State.FAILED]
    return Outcome(everything, time.monotonic() - began, failed)


def _check(steps: Sequence[Step]) -> None:
    known: set[str] = set()
    for step in steps:
        if missing := set(step.needs) - known:
            raise ValueError(f"step {step.name!r} needs {missing}, which no earlier step is")
        known.add(step.name)


def _startable(progress: dict[str, Progress]) -> list[Progress]:
    """Mark and return the steps whose needs are done; skip those whose needs cannot be."""
    ready = []
    for one in progress.values():
        if one.state is not State.WAITING:
            continue
        needs = {progress[name].state for name in one.step.needs}
        if needs & {State.FAILED, State.SKIPPED}:
            one.state = State.SKIPPED
        elif needs <= {State.DONE}:
            one.state, one.began = State.RUNNING, time.monotonic()
            ready.append(one)
    return ready


def _run(one: Progress) -> None:
    """Do the work of a step. Whatever goes wrong becomes its state, never an exception here."""
    try:
        one.step.work(one.log)
    except StepError as error:
        one.error, one.hint = str(error), error.hint
        one.log.say(f"FAILED: {error}")
    except Exception as error:
        # A mistake of ours: the log gets the traceback, the person its last line.
        one.error = f"{type(error).__name__}: {error}"
        one.log.say(traceback.format_exc())
    one.ended = time.monotonic()
    one.state = State.FAILED if one.error else State.DONE


def _file_name(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
