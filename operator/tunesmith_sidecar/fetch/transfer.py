"""Moves objects from S3 to files: several at a time, patiently, with a line now and then.

One :class:`Source` for the life of the process. Says nothing of what the bytes should be; that is
``model``'s matter.
"""

import random
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from boto3.s3.transfer import TransferConfig, create_transfer_manager
from s3transfer.subscribers import BaseSubscriber

from tunesmith_process.logs import log
from tunesmith_sidecar.fetch.errors import EXPECTED, Place, explain, is_transient

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_PART_BYTES = 16 << 20
_THREADS = 8
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 20.0
_REPORT_SECONDS = 10.0

T = TypeVar("T")


class Source:
    """A folder in S3."""

    def __init__(self, client: "S3Client", place: Place, patience_seconds: float) -> None:
        self._client = client
        self._place = place
        self._patience_seconds = patience_seconds
        self._bucket, _, prefix = place.uri.removeprefix("s3://").partition("/")
        self._prefix = prefix.rstrip("/") + "/" if prefix.strip("/") else ""
        config = TransferConfig(
            multipart_threshold=_PART_BYTES,
            multipart_chunksize=_PART_BYTES,
            max_concurrency=_THREADS,
            preferred_transfer_client="classic",
        )
        self._manager = create_transfer_manager(client, config)

    def read(self, name: str, limit_bytes: int) -> bytes:
        """Read a small object whole, or one byte more than the limit. Raises FetchError."""

        def once() -> bytes:
            key = self._prefix + name
            answer = self._client.get_object(Bucket=self._bucket, Key=key)
            return answer["Body"].read(limit_bytes + 1)

        return self._patiently(once)

    def list(self) -> list[tuple[str, int, str]]:
        """Give name, size and ETag of every object. Raises FetchError."""

        def once() -> list[tuple[str, int, str]]:
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix
            )
            return [
                (item["Key"].removeprefix(self._prefix), item["Size"], item["ETag"])
                for page in pages
                for item in page.get("Contents", ())
            ]

        return self._patiently(once)

    def download(self, files: Sequence[tuple[str, Path]], total_bytes: int) -> None:
        """Fetch the objects into their files, which appear by rename when they are whole.

        Raises FetchError.
        """
        progress = _Progress(total_bytes)
        left = list(files)

        def once() -> None:
            futures = [(item, self._start(*item, progress)) for item in left]
            worst: BaseException | None = None
            for item, future in futures:
                try:
                    future.result()
                    left.remove(item)
                except EXPECTED as error:
                    if worst is None or is_transient(worst):
                        worst = error
            if worst is not None:
                raise worst

        self._patiently(once)

    def _start(self, name: str, path: Path, progress: "_Progress") -> Any:
        path.parent.mkdir(parents=True, exist_ok=True)
        return self._manager.download(
            self._bucket, self._prefix + name, str(path), subscribers=[progress]
        )

    def _patiently(self, operation: Callable[[], T]) -> T:
        """Repeat what fails for reasons that pass, with growing pauses."""
        end = time.monotonic() + self._patience_seconds
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                return operation()
            except EXPECTED as error:
                if not is_transient(error) or time.monotonic() + pause > end:
                    raise explain(error, self._place) from error
                detail = f"{type(error).__name__}: {str(error)[:200]}"
                log.warning("s3 does not answer, trying again", error=detail, seconds=pause)
            time.sleep(pause * random.uniform(0.75, 1.25))  # noqa: S311  no secret
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)


class _Progress(BaseSubscriber):
    """Counts bytes from all threads, and says so every few seconds."""

    def __init__(self, total_bytes: int) -> None:
        self._total = total_bytes
        self._done = 0
        self._lock = threading.Lock()
        self._started = self._told = time.monotonic()

    def on_progress(self, future: Any, bytes_transferred: int, **kwargs: Any) -> None:  # noqa: ARG002
        """Take in what a thread has received; negative when a part is repeated."""
        now = time.monotonic()
        with self._lock:
            self._done += bytes_transferred
            if now - self._told < _REPORT_SECONDS:
                return
            self._told = now
            done = self._done
        log.info(
            "fetching",
            bytes=done,
            total_bytes=self._total,
            bytes_per_second=round(done / (now - self._started)),
        )
