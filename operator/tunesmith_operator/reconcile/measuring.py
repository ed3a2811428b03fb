"""Measures canaries beside the passes: golden prompts take longer than a rollback may wait.

A pass that finds a sample due starts it; when it is done the object gets another pass, which takes
the values with it. What a dying process loses is measured again. Called by ``modeldeployment``.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import structlog

from tunesmith_operator.kube.known import Key
from tunesmith_operator.planning.serving import Sampling

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Measuring:
    """At most one measurement of each deployment at a time, by its key."""

    _tasks: dict[Key, asyncio.Task[Sampling]] = field(default_factory=dict)

    def start(
        self,
        key: Key,
        take: Callable[[], Awaitable[Sampling]],
        without: Callable[[str], Sampling],
        done: Callable[[], None],
    ) -> None:
        """Measure, unless that goes on already; ``done`` is called at the end.

        A measurement that fails is a sample too, ``without`` values but with why: only samples
        move a roll-out on, or end it.
        """
        if key in self._tasks:
            return

        async def measure() -> Sampling:
            try:
                return await take()
            except Exception as error:
                log.exception("measuring failed")
                return without(repr(error))

        task = asyncio.create_task(measure(), name=f"measure {key}")
        task.add_done_callback(lambda _: done())
        self._tasks[key] = task

    def result(self, key: Key, digest: str | None) -> Sampling | None:
        """Give the values of a measurement that has ended, once, if they are of that revision."""
        task = self._tasks.get(key)
        if task is None or not task.done():
            return None
        del self._tasks[key]
        sampling = None if task.cancelled() else task.result()
        return sampling if sampling and sampling.digest == digest else None

    def forget(self, key: Key) -> None:
        """End what goes on for a deployment that is gone."""
        task = self._tasks.pop(key, None)
        if task is not None:
            task.cancel()
