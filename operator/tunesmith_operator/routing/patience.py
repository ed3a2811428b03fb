"""Who did not answer lately, and when to try again. Bounded; knows no network.

Called by ``agents`` and ``asking``. A failure is tried again after a pause that doubles, up to the
longest one. Losing what is remembered costs one attempt.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass

_REMEMBERED = 4096


@dataclass(frozen=True, slots=True)
class _Failure:
    why: str
    pause: float
    due: float


class Patience:
    """Failures by whatever names an attempt."""

    def __init__(
        self, clock: Callable[[], float], first_seconds: float, longest_seconds: float
    ) -> None:
        """``clock`` is monotonic, in seconds."""
        self._clock = clock
        self._first = first_seconds
        self._longest = longest_seconds
        self._failures: OrderedDict[Hashable, _Failure] = OrderedDict()

    def trouble(self, key: Hashable) -> str:
        """Say why it failed last; nothing if it did not."""
        known = self._failures.get(key)
        return known.why if known else ""

    def is_due(self, key: Hashable) -> bool:
        """Whether it may be tried now."""
        known = self._failures.get(key)
        return known is None or self._clock() >= known.due

    def failed(self, key: Hashable, why: str) -> None:
        """Remember that it failed just now."""
        known = self._failures.pop(key, None)
        pause = min(known.pause * 2, self._longest) if known else self._first
        self._failures[key] = _Failure(why, pause, self._clock() + pause)
        while len(self._failures) > _REMEMBERED:
            self._failures.popitem(last=False)

    def succeeded(self, key: Hashable) -> None:
        """Forget that it ever failed."""
        self._failures.pop(key, None)
