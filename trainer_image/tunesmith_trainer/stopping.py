"""The wish to stop: SIGTERM as a flag that long work looks at.

Installed before anything slow. It never ends anything by itself: whoever works decides at which
point it is safe to stop, and raises. Called by ``__main__``, polled by everything long.
"""

import os
import signal
import threading
import time
from contextlib import suppress
from types import FrameType

from tunesmith_trainer.outcome import Interrupted

_SLICE_SECONDS = 0.2


class StopSignal:
    """Set once by SIGTERM (or :meth:`request`), never cleared.

    A plain attribute, not a ``threading.Event``: the handler may run while the main thread holds
    the event's lock, and would wait for it forever.
    """

    def __init__(self) -> None:
        self._requested = False

    @property
    def requested(self) -> bool:
        """Whether the pod was told to end."""
        return self._requested

    def request(self) -> None:
        """Ask for the end, as SIGTERM does."""
        self._requested = True

    def install(self) -> None:
        """Take over SIGTERM of this process. Main thread only."""
        signal.signal(signal.SIGTERM, self._on_signal)

    def stop_with(self, descriptor: int) -> None:
        """Ask for the end when what is read here ends: whoever held it open is gone.

        A thread of its own waits, on the bare descriptor: one that waits inside of sys.stdin keeps
        the interpreter from ending.
        """

        def wait() -> None:
            with suppress(OSError):
                while os.read(descriptor, 1):
                    pass
            self.request()

        threading.Thread(target=wait, name="stop-with", daemon=True).start()

    def check(self) -> None:
        """Raise :class:`Interrupted` if the end was asked for."""
        if self._requested:
            raise Interrupted

    def sleep(self, seconds: float) -> None:
        """Sleep, but raise :class:`Interrupted` soon after the end is asked for."""
        end = time.monotonic() + seconds
        self.check()
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(_SLICE_SECONDS, left))
            self.check()

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._requested = True
