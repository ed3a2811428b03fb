"""A run's tracking over one attempt: TensorBoard's file always, services where they are asked for.

Made by `services` and told by `loop`, `checkpoints` and `publish`. The file travels with
each checkpoint, as the curve does, so an attempt that goes on from one appends to what was true
then and no point is there twice.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from tunesmith_api.measurements import Measurement
from tunesmith_trainer.logs import log
from tunesmith_trainer.outcome import Infrastructure, Interrupted
from tunesmith_trainer.storage import Store
from tunesmith_trainer.storage.fence import Fence
from tunesmith_trainer.tracking.eventfile import EventFile
from tunesmith_trainer.tracking.sending import Ending, Point, Sender

EVENTS = "events.out.tfevents.0.tunesmith"
"""Of the file, in S3 and in checkpoints; TensorBoard goes by what is before the number."""
_PATIENCE_SECONDS = {Ending.FINISHED: 30.0, Ending.INTERRUPTED: 5.0, Ending.FAILED: 5.0}


class Tracking:
    """Where a run's values go. A context: how it is left says how the attempt ended."""

    def __init__(self, events: EventFile | None, senders: Sequence[Sender] = ()) -> None:
        """`events` is None on ranks other than 0, which track nothing."""
        self._events, self._senders = events, list(senders)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Note values after `step` optimizer steps."""
        now = time.time()
        if self._events:
            self._events.add(step, values, now)
        for sender in self._senders:
            sender.add(Point(step, now, values))

    def judge(self, measurements: Sequence[Measurement], step: int) -> None:
        """Note what the evaluation after `step` steps measured, of the tuned and the base model."""
        values = {f"evaluation/{m.metric}": float(m.value) for m in measurements if m.value}
        base = {f"base/{m.metric}": float(m.base_value) for m in measurements if m.base_value}
        if values:
            self.add(step, values | base)

    def events(self) -> bytes:
        """Give the file as it is now, for a checkpoint."""
        return self._events.path.read_bytes() if self._events else b""

    def upload(self, store: Store, fence: Fence, run_uri: str) -> None:
        """Put the file as it is now below the run's prefix. Raises Superseded."""
        if self._events:
            upload_events(store, fence, run_uri, self._events.path)

    def __enter__(self) -> "Tracking":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        ending = Ending.FINISHED
        if error is not None:
            ending = Ending.INTERRUPTED if isinstance(error, Interrupted) else Ending.FAILED
        end = time.monotonic() + _PATIENCE_SECONDS[ending]
        for sender in self._senders:
            sender.finish(ending, max(1.0, end - time.monotonic()))


def upload_events(store: Store, fence: Fence, run_uri: str, path: Path) -> None:
    """Write the event file below `<run_uri>tensorboard/`. Raises Superseded; S3 away is logged."""
    fence.check()
    try:
        store.upload_all([(path, f"{run_uri}tensorboard/{EVENTS}")])
    except Infrastructure as error:
        log.warning("event file not uploaded", reason=error.reason, message=error.message)
