"""Directories in S3 that are complete or not there: files first, ``manifest.json`` last.

Each attempt writes below a folder of its own (``URI/attempt-3/``), so an old pod that is still
ending can never write over what a newer one has made; readers take the newest complete attempt.
Written by prepare, checkpoints and export; whoever reads checks the sha256 of every file.
"""

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from tunesmith_api.artifacts import MANIFEST, FileEntry, Manifest
from tunesmith_trainer.storage.errors import NotFound
from tunesmith_trainer.storage.fence import Fence
from tunesmith_trainer.storage.locations import as_prefix, local_path
from tunesmith_trainer.storage.store import Store

_ATTEMPT = re.compile(r"^attempt-(\d{1,9})/manifest\.json$")


class Damaged(Exception):
    """What was committed is not what is there now. Take the one before, or make it again."""


class Committed(NamedTuple):
    """A complete directory."""

    uri: str
    """Its folder, ending in a slash; holds manifest.json."""
    digest: str
    """sha256:... of the bytes of manifest.json."""
    size_bytes: int
    """Of all files but the manifest."""


class Found(NamedTuple):
    """A complete directory and what it holds."""

    uri: str
    digest: str
    manifest: Manifest


def digest_file(path: Path) -> str:
    """Return ``sha256:...`` of a file."""
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def commit_directory(
    storage: Store,
    directory: Path,
    uri: str,
    *,
    attempt: int,
    extra: dict[str, str] | None = None,
    fence: Fence | None = None,
    on_bytes: Callable[[int], None] | None = None,
) -> Committed:
    """Upload all files of ``directory`` to ``URI/attempt-N/`` and then their manifest.

    Killed in the middle it leaves no manifest, so it is never seen as complete. ``fence`` is
    checked just before the manifest is written, and raises Superseded. Doing it twice is fine.
    """
    target = f"{as_prefix(uri)}attempt-{attempt}/"
    paths = sorted(path for path in directory.rglob("*") if path.is_file())
    entries = tuple(
        FileEntry(
            path=path.relative_to(directory).as_posix(),
            sha256=digest_file(path),
            size_bytes=path.stat().st_size,
        )
        for path in paths
    )
    manifest = Manifest(attempt=attempt, files=entries, extra=extra or {})
    data = manifest.model_dump_json(by_alias=True, indent=1).encode()
    storage.upload_all(
        [(path, target + entry.path) for path, entry in zip(paths, entries, strict=True)], on_bytes
    )
    if fence is not None:
        fence.check()
    storage.put_bytes(target + MANIFEST, data)
    return Committed(target, _digest(data), sum(entry.size_bytes for entry in entries))


def read_manifest(storage: Store, uri: str) -> Found | None:
    """Return the complete directory at ``uri``, or the newest ``attempt-N/`` below it, or None.

    Raises Damaged when its manifest cannot be read.
    """
    prefix = as_prefix(uri)
    folder = _newest(storage, prefix)
    if folder is None:
        return None
    try:
        data = storage.get_bytes(folder + MANIFEST)
        return Found(folder, _digest(data), Manifest.model_validate_json(data))
    except NotFound:
        return None
    except ValidationError as error:
        raise Damaged(f"{folder}{MANIFEST} is not a manifest: {error}") from error


def fetch_committed(
    storage: Store,
    uri: str,
    directory: Path,
    on_bytes: Callable[[int], None] | None = None,
) -> Found:
    """Download the complete directory at ``uri`` (as read_manifest finds it) and check it.

    Raises NotFound when there is none, Damaged when a file is missing or differs.
    """
    found = read_manifest(storage, uri)
    if found is None:
        raise NotFound(uri)
    check_listing(storage, found)
    wanted = {entry.path: entry for entry in found.manifest.files}
    if wanted:
        storage.download_prefix(found.uri, directory, on_bytes, include=wanted.__contains__)
    for path, entry in wanted.items():
        if digest_file(local_path(directory, path)) != entry.sha256:
            raise Damaged(f"{found.uri}{path} does not have the sha256 of its manifest")
    return found


def check_listing(storage: Store, found: Found) -> None:
    """Raise Damaged when a file of a complete directory is missing or has another size."""
    listed = {info.relative: info.size_bytes for info in storage.list(found.uri)}
    for entry in found.manifest.files:
        if listed.get(entry.path) != entry.size_bytes:
            raise Damaged(f"{found.uri}{entry.path} is missing or has another size")


def _newest(storage: Store, prefix: str) -> str | None:
    attempts = []
    for info in storage.list(prefix):
        if info.relative == MANIFEST:
            return prefix
        if match := _ATTEMPT.match(info.relative):
            attempts.append(int(match[1]))
    return f"{prefix}attempt-{max(attempts)}/" if attempts else None


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()
