"""Kubernetes Events: posted in the background, counted instead of multiplied, never in the way.

The name of an Event is derived from what it says, so a repeat is found again, also by the next
process. Written through the client, so it passes the leader's fence. Losing an Event is no harm:
the same is said by a condition.
"""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

import structlog

from tunesmith_api import API_VERSION
from tunesmith_operator.kube.errors import AlreadyExists, KubeError, LostLeadershipError
from tunesmith_operator.kube.kinds import Object

log = structlog.get_logger(__name__)

COMPONENT = "tunesmith"
MOST_WAITING = 4096
MOST_REMEMBERED = 4096
# Slow on purpose: a burst of new jobs must not wait behind what is said about them.
PAUSE_SECONDS = 0.02
REPEAT_SECONDS = 30.0


class EventCalls(Protocol):
    """The calls that posting needs."""

    async def create(self, manifest: Object) -> Object:
        """Create it; raises AlreadyExists."""

    async def apply(self, manifest: Object) -> Object:
        """Server-side apply."""


@dataclass(slots=True)
class _Note:
    manifest: Object
    count: int = 0
    posted_at: float = float("-inf")


class EventRecorder:
    """Satisfies ``reconcile.world.Recorder``; ``run`` does the posting."""

    def __init__(
        self,
        calls: EventCalls,
        *,
        instance: str,
        now: Callable[[], datetime],
        clock: Callable[[], float],
    ) -> None:
        """``instance`` names this process; ``clock`` is monotonic, in seconds."""
        self._calls = calls
        self._instance = instance
        self._now = now
        self._clock = clock
        self._notes: OrderedDict[str, _Note] = OrderedDict()
        self._waiting: OrderedDict[str, None] = OrderedDict()
        self._wake = asyncio.Event()

    def __call__(
        self,
        kind: str,
        namespace: str,
        name: str,
        uid: str,
        *,
        type: Literal["Normal", "Warning"],
        reason: str,
        message: str,
    ) -> None:
        """Record an Event on an object; returns at once and never raises."""
        digest = hashlib.sha256("\0".join((uid, type, reason, message)).encode()).hexdigest()[:16]
        event_name = f"{name[:200]}.{digest}"
        note = self._notes.get(event_name)
        now = self._now().strftime("%Y-%m-%dT%H:%M:%SZ")
        if note is None:
            target = {"kind": kind, "namespace": namespace, "name": name, "uid": uid}
            said = {"type": type, "reason": reason[:128], "message": message[:1024]}
            note = _Note(self._manifest(event_name, target) | said | {"firstTimestamp": now})
            self._notes[event_name] = note
            # Events are gone after an hour; what follows the log has them for longer.
            log.info(message, kind=kind, namespace=namespace, name=name, reason=reason, type=type)
        note.count += 1
        note.manifest |= {"count": note.count, "lastTimestamp": now}
        self._notes.move_to_end(event_name)
        self._waiting[event_name] = None
        self._forget_oldest()
        self._wake.set()

    def _manifest(self, name: str, target: dict[str, str]) -> Object:
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"namespace": target["namespace"], "name": name},
            "involvedObject": {"apiVersion": API_VERSION, **target},
            "source": {"component": COMPONENT},
            "reportingComponent": COMPONENT,
            "reportingInstance": self._instance[:128],
        }

    async def run(self) -> None:
        """Post what waits, for ever."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self.flush()
            if self._waiting:
                # Only repeats of what was said a moment ago are left.
                await asyncio.sleep(1)
                self._wake.set()

    async def flush(self) -> None:
        """Post what waits, but for repeats of what was said a moment ago."""
        for event_name in list(self._waiting):
            note = self._notes.get(event_name)
            if note is None or self._clock() - note.posted_at >= REPEAT_SECONDS:
                self._waiting.pop(event_name, None)
                if note is not None:
                    await self._post(note)
                    await asyncio.sleep(PAUSE_SECONDS)

    async def _post(self, note: _Note) -> None:
        is_repeat = note.posted_at > float("-inf")
        note.posted_at = self._clock()
        try:
            if is_repeat:
                await self._calls.apply(note.manifest)
            else:
                await self._calls.create(note.manifest)
        except AlreadyExists:
            log.debug("the Event was posted by an earlier process", reason=note.manifest["reason"])
        except (KubeError, LostLeadershipError) as error:
            log.warning("an Event was lost", error=str(error), reason=note.manifest["reason"])

    def _forget_oldest(self) -> None:
        while len(self._waiting) > MOST_WAITING:
            self._waiting.popitem(last=False)
        while len(self._notes) > MOST_REMEMBERED:
            self._notes.popitem(last=False)
