"""One deduplicating work queue: who is next, one pass at a time for each object, never giving up.

A key that is added while it waits is there once; one that is added while its pass runs gets
another pass afterwards. A pass says when it wants to look again. An error is tried again after a
delay that doubles up to a minute. In a burst, starting comes before reporting: a pass that only
wants to write a status lets the others begin first. Fed by handlers/ and the resync; calls
``process``. Its time is the event loop's, so tests can move it.
"""

import asyncio
import random
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Protocol

import structlog

from tunesmith_operator import telemetry
from tunesmith_operator.kube.errors import (
    Conflict,
    Gone,
    LostLeadershipError,
    Unavailable,
    WebhookRefused,
)
from tunesmith_operator.kube.known import Key

log = structlog.get_logger(__name__)

BASE_SECONDS = 0.5
CAP_SECONDS = 60.0
PASS_SECONDS = 120.0
QUIET_SECONDS = 0.25
PATIENCE_SECONDS = 6.0
MOST_PATIENT = 1000
PATIENT_WRITES = 8

Process = Callable[[Key], Awaitable[timedelta | None]]


class Gate(Protocol):
    """Says whether passes may start: only the leader's may."""

    @property
    def is_leader(self) -> bool:
        """Whether a pass may start now."""

    async def wait_until_leader(self) -> None:
        """Return when one may."""


class WorkQueue:
    """The queue. Lives in one event loop; ``run`` opens it, ``drain`` closes it."""

    def __init__(
        self,
        process: Process,
        gate: Gate,
        *,
        workers: int = 32,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """At most ``workers`` passes run at a time; ``jitter`` gives numbers from 0 to 1."""
        self._process = process
        self._gate = gate
        self._workers = workers
        self._jitter = jitter
        self._loop = asyncio.get_running_loop()
        self._waiting: OrderedDict[Key, float] = OrderedDict()
        self._again: dict[Key, float] = {}
        self._running: dict[Key, tuple[asyncio.Task[None], float]] = {}
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._failures: dict[Key, int] = {}
        self._is_open = False
        self._is_draining = False
        self._patient = 0
        self._turns = asyncio.Semaphore(PATIENT_WRITES)
        self._busy_at = float("-inf")

    def add(self, key: Key) -> None:
        """Ask for a pass over an object, now."""
        if key in self._running:
            self._again.setdefault(key, self._loop.time())
        elif key not in self._waiting:
            self._cancel_timer(key)
            self._waiting[key] = self._loop.time()
            self._pump()

    def add_after(self, key: Key, delay: float) -> None:
        """Ask for a pass in ``delay`` seconds, unless one is due before."""
        due = self._loop.time() + delay
        timer = self._timers.get(key)
        if timer is not None and timer.when() <= due:
            return
        self._cancel_timer(key)
        self._timers[key] = self._loop.call_at(due, self._due, key)

    @asynccontextmanager
    async def after_others(self) -> AsyncIterator[None]:
        """Wrap a write that can wait: while a burst lasts, passes that did not begin go first.

        At most ``PATIENCE_SECONDS`` late. The pass gives its place up while it waits; how many may
        do so is bounded, because each holds its object in memory.
        """
        deadline = self._loop.time() + PATIENCE_SECONDS
        if self._quiet_in(deadline) <= 0 or self._patient >= MOST_PATIENT:
            yield
            return
        self._patient += 1
        try:
            self._pump()
            async with self._turns:
                while (left := self._quiet_in(deadline)) > 0:  # noqa: ASYNC110 - the end moves
                    await asyncio.sleep(left)
                yield
        finally:
            self._patient -= 1

    async def run(self) -> None:
        """Start passes whenever we may, until cancelled. Passes that run go on."""
        try:
            while True:
                await self._gate.wait_until_leader()
                self._is_open = not self._is_draining
                self._pump()
                await asyncio.sleep(0.25)
                self._measure()
        finally:
            self._is_open = False

    async def drain(self, seconds: float) -> None:
        """Start no more passes; let those that run finish, or cancel them after ``seconds``."""
        self._is_open, self._is_draining = False, True
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        tasks = [task for task, _ in self._running.values()]
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=seconds)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    @property
    def depth(self) -> int:
        """How many objects wait."""
        return len(self._waiting)

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits and nothing runs; timers do not count."""
        return not self._waiting and not self._running

    def oldest_seconds(self) -> float:
        """How long the first object has waited, or the longest pass has run."""
        since = [*list(self._waiting.values())[:1], *(at for _, at in self._running.values())]
        return self._loop.time() - min(since) if since else 0.0

    def _pump(self) -> None:
        while (
            self._is_open
            and self._waiting
            and len(self._running) - self._patient < self._workers
            and self._gate.is_leader
        ):
            key, added = self._waiting.popitem(last=False)
            self._cancel_timer(key)
            task = self._loop.create_task(self._pass(key, added), name=f"pass {key}")
            self._running[key] = (task, self._loop.time())
        if self._waiting:
            self._busy_at = self._loop.time()

    def _quiet_in(self, deadline: float) -> float:
        """Seconds until no pass had to wait for a while, as far as is known now."""
        return min(self._busy_at + QUIET_SECONDS, deadline) - self._loop.time()

    async def _pass(self, key: Key, added: float) -> None:
        started = self._loop.time()
        result, wait = await self._attempt(key)
        ended = self._loop.time()
        self._running.pop(key, None)
        telemetry.RECONCILES.labels(key.kind, result).inc()
        telemetry.RECONCILE_SECONDS.labels(key.kind).observe(ended - started)
        again = self._again.pop(key, None)
        if result == "ok":
            self._failures.pop(key, None)
            telemetry.QUEUE_LATENCY_SECONDS.labels(key.kind).observe(ended - added)
        if result == "fenced" or (result == "ok" and again is not None):
            self._waiting[key] = again if again is not None else added
        elif wait is not None:
            # After an error a change in between does not hurry us: it would be a hot loop.
            self.add_after(key, wait)
        self._pump()

    async def _attempt(self, key: Key) -> tuple[str, float | None]:
        """Run one pass; return its result and in how many seconds the next one is due."""
        where = {"kind": key.kind, "namespace": key.namespace, "name": key.name}
        structlog.contextvars.bind_contextvars(**where)
        try:
            # A pass that hangs would keep its object, and in the end all workers, for ever.
            async with asyncio.timeout(PASS_SECONDS):
                again = await self._process(key)
        except LostLeadershipError:
            log.info("stopped before a write: not the leader any more")
            return "fenced", None
        except (Conflict, Gone, Unavailable, WebhookRefused) as error:
            wait = self._back_off(key)
            # The object changed meanwhile, or is gone: the next pass sees it as it is.
            log.warning("the API server did not do it", error=str(error), again_seconds=wait)
            return "error", wait
        except Exception:
            wait = self._back_off(key)
            log.exception("the pass failed", again_seconds=wait)
            return "error", wait
        return "ok", None if again is None else max(again.total_seconds(), 0.0)

    def _back_off(self, key: Key) -> float:
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        longest = min(BASE_SECONDS * 2.0 ** min(failures - 1, 16), CAP_SECONDS)
        return round(longest * (0.5 + self._jitter() / 2), 3)

    def _due(self, key: Key) -> None:
        self._timers.pop(key, None)
        self.add(key)

    def _cancel_timer(self, key: Key) -> None:
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()

    def _measure(self) -> None:
        telemetry.QUEUE_DEPTH.set(len(self._waiting))
        telemetry.QUEUE_RUNNING.set(len(self._running))
        telemetry.QUEUE_OLDEST_SECONDS.set(self.oldest_seconds())
