"""A folder of this machine in the place of S3, for runs without a cluster.

Behaves as :class:`Storage` does where the trainer can tell: a file appears whole or not at all,
conditional writes see each other, keys cannot climb out. One process writes at a time.
"""

import hashlib
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

from tunesmith_api.result import UserErrorReason
from tunesmith_trainer.disk import room_for
from tunesmith_trainer.outcome import UserError
from tunesmith_trainer.storage.errors import Conflict, NotFound
from tunesmith_trainer.storage.locations import FILE_SCHEME, as_prefix, file_path, local_path
from tunesmith_trainer.storage.store import Fetched, ObjectInfo, OnBytes, StoredObject

_PART = ".tunesmith-part-"


class LocalStorage:
    """Folders and files behind ``file:///`` URIs."""

    def list(self, uri: str) -> list[ObjectInfo]:
        """List the file ``uri`` or, where it ends in a slash, all below it; sorted by name."""
        path = file_path(uri)
        if not uri.endswith("/"):
            return [_info(path, path.name)] if path.is_file() else []
        files = [p for p in path.rglob("*") if p.is_file() and not p.name.startswith(_PART)]
        return sorted(
            (_info(p, p.relative_to(path).as_posix()) for p in files), key=lambda info: info.key
        )

    def download(self, uri: str, path: Path, on_bytes: OnBytes | None = None) -> None:
        """Copy one file to ``path``. Raises NotFound."""
        _copy(file_path(uri), path, on_bytes)

    def download_prefix(
        self,
        uri: str,
        directory: Path,
        on_bytes: OnBytes | None = None,
        *,
        include: Callable[[str], bool] = lambda _: True,
    ) -> Fetched:
        """Copy all files below ``uri``; returns them with their paths. Raises NotFound for none."""
        wanted = [
            (info, local_path(directory, info.relative))
            for info in self.list(as_prefix(uri))
            if include(info.relative)
        ]
        if not wanted:
            raise NotFound(uri)
        needed = sum(info.size_bytes for info, _ in wanted)
        with room_for(directory, needed, f"the files of {uri}"):
            for info, path in wanted:
                _copy(Path(info.key), path, on_bytes)
        return wanted

    def get(self, uri: str) -> StoredObject:
        """Read a small file whole. Raises NotFound."""
        try:
            data = file_path(uri).read_bytes()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            raise NotFound(uri) from error
        return StoredObject(data, _etag(data))

    def get_bytes(self, uri: str) -> bytes:
        """Read a small file whole. Raises NotFound."""
        return self.get(uri).data

    def put_bytes(
        self, uri: str, data: bytes, *, only_if_absent: bool = False, if_match: str | None = None
    ) -> str:
        """Write a small file and return its ETag. Raises Conflict when a condition fails."""
        path = file_path(uri)
        if only_if_absent and path.exists():
            raise Conflict(uri)
        if if_match is not None and (not path.exists() or self.get(uri).etag != if_match):
            raise Conflict(uri)
        with _appearing(path) as part:
            part.write_bytes(data)
        return _etag(data)

    def upload_all(
        self, files: Iterable[tuple[Path, str]], on_bytes: OnBytes | None = None
    ) -> None:
        """Copy many files. Raises Infrastructure (DiskFull) before the first if they do not fit."""
        files = list(files)
        if not files:
            return
        needed = sum(path.stat().st_size for path, _ in files)
        folder = file_path(files[0][1]).parent
        with room_for(folder, needed, "the next files", "Free some, or choose another output.uri."):
            for path, uri in files:
                _copy(path, file_path(uri), on_bytes)

    def delete_prefix(self, uri: str) -> int:
        """Delete all files below ``uri``; returns how many. Nothing there is no error."""
        count = len(self.list(as_prefix(uri)))
        shutil.rmtree(file_path(uri), ignore_errors=True)
        return count

    def check_writable(self, prefix: str) -> None:
        """Write and delete a file below ``prefix``. Raises UserError (OutputNotWritable)."""
        probe = file_path(as_prefix(prefix)) / f"{_PART}{uuid4().hex}"
        try:
            probe.parent.mkdir(parents=True, exist_ok=True)
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise UserError(
                UserErrorReason.OUTPUT_NOT_WRITABLE,
                f"Cannot write below {probe.parent}: {error.strerror}. Choose another output.uri.",
            ) from error


@contextmanager
def _appearing(path: Path) -> Iterator[Path]:
    """Give a file beside ``path`` that takes its place once it is written."""
    part = path.with_name(f"{_PART}{uuid4().hex}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _copy(source: Path, target: Path, on_bytes: OnBytes | None) -> None:
    try:
        with _appearing(target) as part:
            # A copy, never a link: the curve goes on being written after a checkpoint has it.
            shutil.copyfile(source, part)
    except FileNotFoundError as error:
        raise NotFound(str(source)) from error
    if on_bytes:
        on_bytes(target.stat().st_size)


def _info(path: Path, relative: str) -> ObjectInfo:
    stat = path.stat()
    uri, etag = f"{FILE_SCHEME}{path}", f"{stat.st_mtime_ns}-{stat.st_size}"
    modified = datetime.fromtimestamp(stat.st_mtime, UTC)
    return ObjectInfo(uri, str(path), relative, stat.st_size, etag, modified)


def _etag(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
