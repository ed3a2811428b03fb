"""What the trainer asks of a place for objects, whether S3 or a folder.

The words are S3's. Implemented by ``client`` and ``local``.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

OnBytes = Callable[[int], None]


@dataclass(frozen=True)
class ObjectInfo:
    """An object of a listing."""

    uri: str
    key: str
    relative: str
    """Key below the prefix that was listed; the last part of the key for a single object."""
    size_bytes: int
    etag: str
    modified: datetime
    """When it was written, with a time zone."""


@dataclass(frozen=True)
class StoredObject:
    """A small object and the ETag it was read with."""

    data: bytes
    etag: str


Fetched = list[tuple[ObjectInfo, Path]]


class Store(Protocol):
    """A place for objects. What each method raises says its implementation."""

    def list(self, uri: str) -> list[ObjectInfo]:
        """List the object ``uri`` or, where it ends in a slash, all below it; sorted by key."""
        ...

    def download(self, uri: str, path: Path, on_bytes: OnBytes | None = None) -> None:
        """Fetch one object into ``path``; its folders are made."""
        ...

    def download_prefix(
        self,
        uri: str,
        directory: Path,
        on_bytes: OnBytes | None = None,
        *,
        include: Callable[[str], bool] = ...,
    ) -> Fetched:
        """Fetch all objects below ``uri``; returns them with their paths."""
        ...

    def get(self, uri: str) -> StoredObject:
        """Read a small object whole. Raises NotFound."""
        ...

    def get_bytes(self, uri: str) -> bytes:
        """Read a small object whole. Raises NotFound."""
        ...

    def put_bytes(
        self, uri: str, data: bytes, *, only_if_absent: bool = False, if_match: str | None = None
    ) -> str:
        """Write a small object and return its ETag. Raises Conflict."""
        ...

    def upload_all(
        self, files: Iterable[tuple[Path, str]], on_bytes: OnBytes | None = None
    ) -> None:
        """Write many files."""
        ...

    def delete_prefix(self, uri: str) -> int:
        """Delete all objects below ``uri``; returns how many."""
        ...

    def check_writable(self, prefix: str) -> None:
        """Raise UserError where nothing can be written below ``prefix``."""
        ...
