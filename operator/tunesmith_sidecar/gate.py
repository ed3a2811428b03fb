"""How many requests are in progress, whether one more may come in, and when all are gone.

Only counts; says nothing to clients. ``guard`` enters and leaves, ``drain`` closes and waits.
"""

import asyncio

from tunesmith_sidecar.metrics import Metrics


class Gate:
    """Counts requests; for one event loop."""

    def __init__(self, limit: int, metrics: Metrics, pod: "Gate | None" = None) -> None:
        """``pod`` is the gate of all revisions that the pod serves, where it serves several."""
        self._limit = limit
        self._metrics = metrics
        self._pod = pod
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self.draining = asyncio.Event()
        """Set when the pod is ending."""
        self.drained = asyncio.Event()
        """Set when the pod is ending and nothing is in progress any more."""

    @property
    def in_flight(self) -> int:
        """Requests in progress."""
        return self._in_flight

    @property
    def is_draining(self) -> bool:
        """Whether the pod is ending. Requests that still come are served."""
        return self.draining.is_set()

    def enter(self) -> bool:
        """Take a place; False when there is none."""
        if self._in_flight >= self._limit or (self._pod is not None and not self._pod.enter()):
            return False
        self._in_flight += 1
        self._metrics.in_flight.set(self._in_flight)
        self._idle.clear()
        return True

    def leave(self) -> None:
        """Give the place back."""
        self._in_flight -= 1
        self._metrics.in_flight.set(self._in_flight)
        if not self._in_flight:
            self._idle.set()
        if self._pod is not None:
            self._pod.leave()

    def start_draining(self) -> None:
        """Say that the pod is ending: not ready from now on."""
        self.draining.set()
        self._metrics.draining.set(1)

    async def wait_until_idle(self) -> None:
        """Return when nothing is in progress."""
        await self._idle.wait()
