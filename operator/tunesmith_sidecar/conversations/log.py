"""Keeps conversations until they are written: by size, by time, and when the pod ends.

Taking one never waits and never fails: memory is bounded, and what does not fit is dropped and
counted. Everything dear (parsing, masking, S3) happens in a thread of its own. A bucket that is
missing, full or refusing costs conversations, nothing else. Fed by ``proxy`` and ``predict``.
"""

import asyncio
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from tunesmith_process.logs import log
from tunesmith_sidecar.conversations.lines import (
    Exchanged,
    Feedback,
    build_conversation,
    build_feedback,
)
from tunesmith_sidecar.metrics import LogResult, Metrics
from tunesmith_sidecar.settings import Settings

__all__ = ["ConversationLog", "Exchanged", "Feedback"]

LONGEST_BYTES = 1 << 20
"""What has more is not logged: masking it would take seconds of CPU time from who is served."""
_FIRST_PAUSE_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 60.0
_LAST_FLUSH_SECONDS = 10.0


class Store(Protocol):
    """Where objects go; see ``bucket``."""

    def put(self, key: str, data: bytes) -> None:
        """Write an object; may block and raise anything."""


@dataclass(slots=True)
class _Kept:
    """An exchange that waits, and what was said about it meanwhile."""

    exchanged: Exchanged
    time: str
    feedback: Feedback | None = None


@dataclass(slots=True)
class _Late:
    """Feedback that is not within a conversation's line.

    The exchange is not here, because it was written already, another pod served it or it was too
    long; or somebody has said more of it since.
    """

    request_id: str
    session: str
    feedback: Feedback


@dataclass(slots=True)
class _Batch:
    """What is being written; kept until it is, under keys that stay the same."""

    size: int
    conversations: list[_Kept]
    late: list[_Late]
    objects: dict[str, tuple[bytes, int]] = field(default_factory=dict)
    """Key -> lines and their number."""

    @property
    def count(self) -> int:
        """What is not written yet; another thread is writing."""
        made = sum(count for _, count in list(self.objects.values()))
        return made + len(self.conversations) + len(self.late)


class ConversationLog:
    """The log of one process; for one event loop."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        metrics: Metrics,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._settings = settings
        self._store = store
        self._metrics = metrics
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="conversation-log")
        # Two pods of a revision must not write the same key.
        self._writer = secrets.token_hex(4)
        self._number = 0
        self._kept: list[_Kept] = []
        self._by_id: dict[str, _Kept] = {}
        self._late: list[_Late] = []
        self._waiting_bytes = 0
        self._batch: _Batch | None = None
        self._enough = asyncio.Event()

    def add(self, exchanged: Exchanged) -> None:
        """Take an exchange."""
        if max(len(exchanged.request), len(exchanged.answer)) >= LONGEST_BYTES:
            self._metrics.logged(LogResult.UNSUITABLE)
        elif self._take(exchanged.size):
            kept = _Kept(exchanged, self._now())
            self._kept.append(kept)
            self._by_id[exchanged.request_id] = kept

    def add_feedback(self, request_id: str, session: str, feedback: Feedback) -> bool:
        """Take feedback; False when there is no room for it.

        It joins its conversation while that waits here, else it becomes a line of its own; so does
        what was said of it before, as a correction must not take the rating away.
        """
        if not self._take(feedback.size):
            return False
        said: Feedback | None = feedback._replace(time=self._now())
        kept = self._by_id.get(request_id)
        if kept is not None:
            kept.feedback, said = said, kept.feedback
        if said is not None:
            self._late.append(_Late(request_id, session, said))
        return True

    async def run(self) -> None:
        """Write until cancelled."""
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                async with asyncio.timeout(self._settings.log_flush_seconds):
                    await self._enough.wait()
            except TimeoutError:
                pass
            if await self.flush():
                pause = _FIRST_PAUSE_SECONDS
            else:
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    async def close(self) -> None:
        """Write what waits, if that can be done in seconds; say how much is lost."""
        try:
            async with asyncio.timeout(_LAST_FLUSH_SECONDS):
                # What an earlier flush could not write goes first, then what came since.
                while self._waits:
                    if not await self.flush():
                        await asyncio.sleep(_FIRST_PAUSE_SECONDS)
        except TimeoutError:
            log.warning("the end of the conversation log is lost", entries=self._waits)
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def flush(self) -> bool:
        """Write what waits; False when the store does not take it. It is kept then."""
        self._enough.clear()
        batch = self._batch or self._next_batch()
        if batch is None:
            return True
        self._batch = batch
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._write, batch)
        except Exception as error:
            self._metrics.log_write_failures.inc()
            # The text of an error of boto3 names bucket and key, never what was to be written.
            log.warning("the conversation log is not written", error=str(error)[:300])
            return False
        self._batch = None
        self._waiting_bytes -= batch.size
        self._metrics.log_buffer_bytes.set(self._waiting_bytes)
        return True

    @property
    def _waits(self) -> int:
        """How many exchanges, and pieces of feedback of their own, are not written yet."""
        return len(self._kept) + len(self._late) + (self._batch.count if self._batch else 0)

    def _take(self, size: int) -> bool:
        if self._waiting_bytes + size > self._settings.log_buffer_bytes:
            self._metrics.logged(LogResult.DROPPED)
            return False
        self._waiting_bytes += size
        self._metrics.log_buffer_bytes.set(self._waiting_bytes)
        if self._waiting_bytes >= self._settings.log_flush_bytes:
            self._enough.set()
        return True

    def _now(self) -> str:
        return self._clock().isoformat(timespec="milliseconds")

    def _next_batch(self) -> _Batch | None:
        if not self._kept and not self._late:
            return None
        batch = _Batch(self._waiting_bytes, self._kept, self._late)
        self._kept, self._late, self._by_id = [], [], {}
        return batch

    def _write(self, batch: _Batch) -> None:
        """Make the lines and write them. Runs in the thread; again after a failure."""
        if batch.conversations or batch.late:
            self._make_objects(batch)
        for key, (data, count) in list(batch.objects.items()):
            self._store.put(key, data)
            del batch.objects[key]
            self._metrics.logged(LogResult.WRITTEN, count)

    def _build(self, kept: _Kept) -> bytes | None:
        try:
            return build_conversation(
                kept.exchanged, kept.feedback, self._settings.revision, kept.time
            )
        except Exception as error:
            # Tried again it would fail again, and hold up all that come after it.
            log.error("no line could be made of a conversation", error=type(error).__name__)
            return None

    def _make_objects(self, batch: _Batch) -> None:
        revision = self._settings.revision
        lines: list[bytes] = []
        late = [_build_late(one, revision) for one in batch.late]
        for kept in batch.conversations:
            line = self._build(kept)
            if line is not None:
                lines.append(line)
            elif kept.feedback is not None:
                # Nothing to train on; what somebody took the time to say is read all the same.
                exchanged = kept.exchanged
                one = _Late(exchanged.request_id, exchanged.session, kept.feedback)
                late.append(_build_late(one, revision))
        self._metrics.logged(LogResult.UNSUITABLE, len(batch.conversations) - len(lines))
        self._number += 1
        name = f"{self._clock():%Y-%m-%d/%H%M%S}-{self._writer}-{self._number}.jsonl"
        for folder, made in (("conversations", lines), ("feedback", late)):
            if made:
                batch.objects[f"{folder}/{revision}/{name}"] = (b"".join(made), len(made))
        batch.conversations, batch.late = [], []


def _build_late(late: _Late, revision: str) -> bytes:
    return build_feedback(late.request_id, late.session, late.feedback, revision)
