"""Sends points to a tracking service from a thread of its own; training never waits for it.

Whatever the service does - fail, hang, answer slowly - costs points at most, and those are counted
and logged. Called by `session`.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple, Protocol

from tunesmith_trainer.logs import log
from tunesmith_trainer.outcome import shorten

CAPACITY = 10_000
_BATCH = 200
_LONGEST_WAIT_SECONDS = 60.0


class Point(NamedTuple):
    """Values of a step."""

    step: int
    time: float
    """Unix seconds."""
    values: Mapping[str, float]


class Ending(StrEnum):
    """How an attempt ended."""

    FINISHED = "Finished"
    INTERRUPTED = "Interrupted"
    FAILED = "Failed"


class Service(Protocol):
    """A tracking service, used by one thread. Any method may raise anything."""

    def open(self) -> Mapping[str, int]:
        """Join the run, or begin it; give the last step that it has of each value."""
        ...

    def send(self, points: Sequence[Point]) -> None:
        """Write points, in the order of their steps."""
        ...

    def close(self, ending: Ending) -> None:
        """Say how the attempt ended."""
        ...


class Sender:
    """A bounded queue before a service. `add` and `finish` are for one thread."""

    def __init__(
        self,
        name: str,
        make: Callable[[], Service],
        *,
        capacity: int = CAPACITY,
        period_seconds: float = 2.0,
    ) -> None:
        """Begin to send; `period_seconds` is between two requests and before the first repeat.

        `make` is called by the thread, as importing a service's package takes seconds; what goes
        wrong with that is an outage like any other.
        """
        self._name, self._make = name, make
        self._service: Service | None = None
        self._capacity, self._period = capacity, period_seconds
        self._points: deque[Point] = deque()
        self._changed = threading.Condition()
        self._ending: Ending | None = None
        self._failures = 0
        self._known: Mapping[str, int] = {}
        self.dropped = 0
        """Points that were never sent."""
        # A daemon: a service that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name=f"tracking-{name}", daemon=True)
        self._thread.start()

    def add(self, point: Point) -> None:
        """Queue a point; the oldest one gives way where the queue is full."""
        with self._changed:
            if len(self._points) >= self._capacity:
                self._points.popleft()
                self.dropped += 1
            self._points.append(point)
            self._changed.notify()

    def finish(self, ending: Ending, patience_seconds: float) -> None:
        """Send what is left, close the run, and log what became of it."""
        with self._changed:
            self._ending = ending
            self._changed.notify()
        self._thread.join(patience_seconds)
        with self._changed:
            self.dropped += len(self._points)
            self._points.clear()
        if self.dropped or self._thread.is_alive():
            log.warning(
                "tracking incomplete",
                service=self._name,
                dropped_points=self.dropped,
                still_busy=self._thread.is_alive(),
            )

    def _run(self) -> None:
        if not self._tried(self._open):
            return
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._points or self._ending)
                ending = self._ending
            if not self._tried(self._send) or (ending and not self._points):
                break
            self._wait(self._period)
        if self._ending:
            self._tried(self._close)

    def _tried(self, act: Callable[[], None]) -> bool:
        """Do something until it works; give up once the attempt has ended."""
        while True:
            try:
                act()
            except Exception as error:  # a tracker's fault is never the run's
                self._failures += 1
                # The first failure and every power of two: an hour's outage is a dozen lines.
                if self._failures & (self._failures - 1) == 0:
                    log.warning(
                        "tracking failed",
                        service=self._name,
                        failures=self._failures,
                        error=f"{type(error).__name__}: {shorten(str(error), 300)}",
                    )
                if self._ending:
                    return False
                self._wait(min(self._period * 2 ** min(self._failures, 10), _LONGEST_WAIT_SECONDS))
            else:
                self._failures = 0
                return True

    def _wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        with self._changed:
            self._changed.wait_for(lambda: self._ending, max(0.0, end - time.monotonic()))

    def _open(self) -> None:
        service = self._make()
        self._known = service.open()
        self._service = service

    def _send(self) -> None:
        with self._changed:
            batch = [self._points[i] for i in range(min(_BATCH, len(self._points)))]
        # A step that is done again after a resume gives the same values: the service has them.
        new = [point for point in map(self._unknown, batch) if point.values]
        if new and self._service:
            self._service.send(new)
        with self._changed:
            # Some of the batch may have given way to newer ones meanwhile: they were sent.
            sent = set(map(id, batch))
            while self._points and id(self._points[0]) in sent:
                self._points.popleft()

    def _unknown(self, point: Point) -> Point:
        known = self._known
        values = {k: v for k, v in point.values.items() if point.step > known.get(k, -1)}
        return point._replace(values=values)

    def _close(self) -> None:
        if self._service and self._ending:
            self._service.close(self._ending)
