"""How long to go on asking an S3 that does not answer.

botocore repeats a request for seconds; an S3 that restarts is away for minutes, and a training
run must outlive that. So each operation as a whole is repeated with growing pauses, up to a
bound, and then ends as Infrastructure: the operator starts another attempt.
"""

import time
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

import tenacity

from tunesmith_trainer.logs import log
from tunesmith_trainer.stopping import StopSignal
from tunesmith_trainer.storage.errors import Place, explain, is_denied, is_transient

DEFAULT_PATIENCE = timedelta(minutes=5)
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 20.0

T = TypeVar("T")


class Patience:
    """Repeats what fails for reasons that pass."""

    def __init__(self, total: timedelta = DEFAULT_PATIENCE, stop: StopSignal | None = None) -> None:
        self._total = total
        self._stop = stop
        self._sleep: Callable[[float], None] = stop.sleep if stop else time.sleep

    def check(self) -> None:
        """Raise Interrupted if this storage may be interrupted and the end was asked for."""
        if self._stop:
            self._stop.check()

    def run(self, place: Place, operation: Callable[[], T], *, trusted: bool = False) -> T:
        """Return what ``operation`` returns; it may be called many times.

        ``trusted``: the same credentials did the same kind of thing a while ago, so a refusal is
        taken for an outage of the server's own and waited for as well.
        Raises what :func:`explain` makes of the last error.
        """

        def passes(error: BaseException) -> bool:
            return is_transient(error) or (trusted and is_denied(error))

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(passes),
            stop=tenacity.stop_after_delay(self._total),
            wait=tenacity.wait_exponential_jitter(
                multiplier=_FIRST_PAUSE_SECONDS, max=_LONGEST_PAUSE_SECONDS, jitter=1.0
            ),
            sleep=self._sleep,
            before_sleep=lambda state: _tell(place, state),
            reraise=True,
        )
        try:
            return retrying(operation)
        except Exception as error:
            raise explain(error, place) from error


def _tell(place: Place, state: tenacity.RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    log.warning(
        "s3 does not answer, trying again",
        place=str(place),
        error=type(error).__name__,
        detail=str(error)[:200],
        tries=state.attempt_number,
        next_try_seconds=round(state.upcoming_sleep, 1),
    )
