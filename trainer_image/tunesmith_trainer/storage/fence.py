"""Keeps a late old attempt from writing over a newer one.

``fence.json`` below the run's prefix names the newest attempt that has begun to write. An attempt
claims it at its start and looks again before each commit. It narrows the gap to one request; what
slips through still goes to the old attempt's own folder (see ``manifest``), where nobody looks.
"""

import orjson
from pydantic import ValidationError

from tunesmith_api.meta import Status
from tunesmith_trainer.outcome import Infrastructure, Superseded
from tunesmith_trainer.storage.errors import ConditionsUnsupported, Conflict, NotFound
from tunesmith_trainer.storage.locations import as_prefix
from tunesmith_trainer.storage.store import Store, StoredObject

_TRIES = 10


class _Holder(Status):
    attempt: int


def newest_attempt(storage: Store, run_uri: str) -> int:
    """Give the number of the newest attempt that has begun to write below ``run_uri``, or 0."""
    try:
        data = storage.get_bytes(f"{as_prefix(run_uri)}fence.json")
        return _Holder.model_validate_json(data).attempt
    except (NotFound, ValidationError):
        return 0


class Fence:
    """The right of one attempt to write below ``run_uri``."""

    def __init__(self, storage: Store, run_uri: str, attempt: int) -> None:
        self._storage = storage
        self._uri = f"{as_prefix(run_uri)}fence.json"
        self._attempt = attempt

    def claim(self) -> None:
        """Make this attempt the newest. Doing it again is fine.

        Raises Superseded when a newer one was first.
        """
        for _ in range(_TRIES):
            found = self._read()
            if found is not None and self._is_mine(found):
                return
            try:
                self._write(found)
            except Conflict:
                # Somebody was faster, or our own write got through unanswered: look again.
                continue
            # A server may ignore the condition without a word, so what stands there decides.
            self.check()
            return
        raise Infrastructure("StorageUnavailable", f"{self._uri} changed {_TRIES} times in a row.")

    def check(self) -> None:
        """Raise Superseded when a newer attempt has claimed the run."""
        found = self._read()
        if found is not None:
            self._is_mine(found)

    def _read(self) -> StoredObject | None:
        try:
            return self._storage.get(self._uri)
        except NotFound:
            return None

    def _is_mine(self, found: StoredObject) -> bool:
        try:
            holder = _Holder.model_validate_json(found.data).attempt
        except ValidationError:
            return False
        if holder > self._attempt:
            raise Superseded(
                f"Attempt {holder} has taken over; attempt {self._attempt} writes nothing more."
            )
        return holder == self._attempt

    def _write(self, found: StoredObject | None) -> None:
        data = orjson.dumps({"attempt": self._attempt})
        try:
            if found is None:
                self._storage.put_bytes(self._uri, data, only_if_absent=True)
            else:
                self._storage.put_bytes(self._uri, data, if_match=found.etag)
        except ConditionsUnsupported:
            self._storage.put_bytes(self._uri, data)
