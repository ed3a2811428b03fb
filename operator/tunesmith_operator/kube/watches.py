"""How long ago each watch proved that it lives.

A watch of quiet objects says nothing for days and looks like a dead one. So every watch is ended
by the server once a minute (``SERVER_TIMEOUT_SECONDS``) and opened again, and the accepted request
is a sign of life, like every event. kopf drops a stream in which not even a bookmark comes for
``INACTIVITY_SECONDS``. A watch that is older than ``LIMIT_SECONDS`` in spite of both cannot mend
itself: /livez says so while the API server answers our own calls, and a restart is due.
"""

from collections.abc import Callable, Iterable

SERVER_TIMEOUT_SECONDS = 60
INACTIVITY_SECONDS = 70.0
LIMIT_SECONDS = 150.0


class Watches:
    """A clock for each watch, by plural and namespace (empty: all namespaces)."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """``clock`` is monotonic, in seconds."""
        self._clock = clock
        self._last: dict[tuple[str, str], float] = {}

    def expect(self, plurals: Iterable[str], namespaces: Iterable[str]) -> None:
        """Start the clocks of the watches that must exist; no namespaces stands for all."""
        spaces = tuple(namespaces) or ("",)
        for plural in plurals:
            for namespace in spaces:
                self._last.setdefault((plural, namespace), self._clock())

    def answered(self, path: str) -> None:
        """Note that the API server accepted a watch of the collection at ``path``."""
        parts = path.strip("/").split("/")
        namespace = parts[-2] if len(parts) > 2 and parts[-3] == "namespaces" else ""
        self._note(parts[-1], namespace)

    def event(self, plural: str, namespace: str) -> None:
        """Note that an event of an object in ``namespace`` came in."""
        self._note(plural, namespace)
        self._note(plural, "")

    def ages(self) -> dict[str, float]:
        """Return the age in seconds of the oldest watch of each plural."""
        now, ages = self._clock(), dict[str, float]()
        for (plural, _), last in self._last.items():
            ages[plural] = max(ages.get(plural, 0.0), now - last)
        return ages

    def silent(self, limit: float = LIMIT_SECONDS) -> list[str]:
        """Return the plurals with a watch that has been silent for too long."""
        return sorted(plural for plural, age in self.ages().items() if age > limit)

    def _note(self, plural: str, namespace: str) -> None:
        if (plural, namespace) in self._last:
            self._last[plural, namespace] = self._clock()
