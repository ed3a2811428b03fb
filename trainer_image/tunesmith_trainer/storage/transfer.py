"""Moves many files at once over one pool of threads and connections.

Repeats only those that failed. Sizes, prefixes and messages are the client's matter.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from boto3.s3.transfer import TransferConfig, create_transfer_manager
from s3transfer.subscribers import BaseSubscriber

from tunesmith_trainer.storage.errors import Place, is_transient
from tunesmith_trainer.storage.locations import Location
from tunesmith_trainer.storage.patience import Patience
from tunesmith_trainer.storage.store import OnBytes

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_PART_BYTES = 8 << 20
_THREADS = 10


class Move(NamedTuple):
    """One file and its place in S3."""

    location: Location
    path: Path
    size_bytes: int = 0
    etag: str = ""
    """Of the object as it was listed; a download of anything else is refused. Empty: not known."""


class _Listed(BaseSubscriber):
    """Tells s3transfer what a listing said: it asks for just that object, and needs no HEAD."""

    def __init__(self, move: Move) -> None:
        self._move = move

    def on_queued(self, future: Any, **kwargs: Any) -> None:  # noqa: ARG002
        if self._move.etag:
            future.meta.provide_transfer_size(self._move.size_bytes)
            future.meta.provide_object_etag(self._move.etag)


class _Counter(BaseSubscriber):
    def __init__(self, on_bytes: OnBytes | None, check: Callable[[], None]) -> None:
        self._on_bytes, self._check = on_bytes, check

    def on_progress(self, future: Any, bytes_transferred: int, **kwargs: Any) -> None:  # noqa: ARG002
        # What this raises ends the transfer, so a long one stops soon after SIGTERM.
        self._check()
        if self._on_bytes:
            self._on_bytes(bytes_transferred)


class Transfers:
    """A transfer manager for the life of a client."""

    def __init__(self, client: "S3Client", patience: Patience) -> None:
        self._patience = patience
        config = TransferConfig(
            multipart_threshold=_PART_BYTES,
            multipart_chunksize=_PART_BYTES,
            max_concurrency=_THREADS,
            preferred_transfer_client="classic",
        )
        self._manager = create_transfer_manager(client, config)

    def download(self, moves: Sequence[Move], place: Place, on_bytes: OnBytes | None) -> None:
        """Fetch each object into its file, which appears by rename when it is whole."""
        self._all(moves, place, on_bytes, trusted=False, start=self._start_download)

    def upload(
        self, moves: Sequence[Move], place: Place, on_bytes: OnBytes | None, *, trusted: bool
    ) -> None:
        """Write each file to its object."""
        self._all(moves, place, on_bytes, trusted=trusted, start=self._start_upload)

    def _start_download(self, move: Move, counter: _Counter) -> Any:
        bucket, key = move.location
        subscribers = [_Listed(move), counter]
        return self._manager.download(bucket, key, str(move.path), subscribers=subscribers)

    def _start_upload(self, move: Move, counter: _Counter) -> Any:
        bucket, key = move.location
        return self._manager.upload(str(move.path), bucket, key, subscribers=[counter])

    def _all(
        self,
        moves: Sequence[Move],
        place: Place,
        on_bytes: OnBytes | None,
        *,
        trusted: bool,
        start: Callable[[Move, _Counter], Any],
    ) -> None:
        counter = _Counter(on_bytes, self._patience.check)
        left = list(moves)

        def once() -> None:
            self._patience.check()
            futures = [(move, start(move, counter)) for move in left]
            worst: BaseException | None = None
            for move, future in futures:
                try:
                    future.result()
                    left.remove(move)
                except Exception as error:
                    worst = _worse(worst, error)
                    if not is_transient(worst):
                        _cancel(futures)
            if worst is not None:
                raise worst

        self._patience.run(place, once, trusted=trusted)


def _worse(one: BaseException | None, other: BaseException) -> BaseException:
    """Return the error to report: the first that will not pass by itself, else the first."""
    if one is None or (is_transient(one) and not is_transient(other)):
        return other
    return one


def _cancel(futures: Sequence[tuple[Move, Any]]) -> None:
    for _, future in futures:
        future.cancel()
