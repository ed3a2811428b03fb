"""What lies in S3, on this machine: the same folders in the user's cache, of what is asked for.

An artifact is fetched as its manifest says, every sha256 is checked, and its own manifest comes
last: what was broken off is fetched again, what is whole is not. Called by ``results`` and
``models``; writes to the cache only.
"""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

import orjson
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from tunesmith_api.artifacts import MANIFEST, Manifest
from tunesmith_api.run import S3Connection
from tunesmith_cli.mistakes import Refused
from tunesmith_cli.s3_mistakes import said_plainly
from tunesmith_cli.terminal import err

if TYPE_CHECKING:
    from tunesmith_trainer.storage import ObjectInfo

REPORT = "report.json"
RUN = "run.json"
PAGE = "report.html"
_OF_RUN = (REPORT, RUN, PAGE, "curve.png")
_PATIENCE = timedelta(seconds=20)
_LISTING = ".listing.json"
"""What files without a manifest were, when they were fetched."""


def cache_folder(name: str) -> Path:
    """Give our folder of that name in the user's cache, which need not be there yet."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "tunesmith" / name


class Run(NamedTuple):
    """A run that was found."""

    uri: str
    """Its prefix, ending in a slash."""
    folder: Path
    """Where its report is now; its artifacts come to folders below."""


class Mirror:
    """An S3 as this machine has it."""

    def __init__(self, connection: S3Connection) -> None:
        """Open it; nothing is asked yet. Raises Refused where there are no credentials."""
        # Imported here and below: boto3 takes a second to load.
        from tunesmith_trainer.storage import Storage

        self._connection = connection
        host = urlsplit(connection.endpoint).netloc or "amazon"
        self._root = cache_folder("s3") / host.replace(":", "-")
        with self._said("s3://"):
            self._store = Storage.open(connection, "output", patience=_PATIENCE)

    def run(self, uri: str, job: str = "") -> Run | None:
        """Fetch the report of the run at ``uri``, or of the newest one right below it.

        With ``job``, only of that job's runs; the URI of a report stands for that one. Raises
        Refused, TrainerError.
        """
        from tunesmith_trainer.storage.locations import as_prefix

        prefix = as_prefix(uri.removesuffix(f"/{REPORT}"))
        with self._said(prefix):
            listed = self._store.list(prefix)
            reports = [info for info in listed if _is_report_of(info.relative, job)]
            own = [info for info in reports if info.relative == REPORT]
            if not (own if uri.endswith(f"/{REPORT}") else reports):
                return None
            newest = (own or sorted(reports, key=lambda info: info.modified))[-1]
            found = newest.uri.removesuffix(REPORT)
            names = {i.uri.removeprefix(found) for i in listed if i.uri.startswith(found)}
            folder = self._path(found)
            for name in _OF_RUN:
                if name not in names:
                    (folder / name).unlink(missing_ok=True)
            self._store.download_prefix(found, folder, include=(names & {*_OF_RUN}).__contains__)
        return Run(found, folder)

    def artifact(self, uri: str) -> Path | None:
        """Fetch the newest complete directory at ``uri``; None where there is none.

        Raises Refused where it is not what its manifest says, TrainerError.
        """
        from tunesmith_trainer.storage.manifest import fetch_committed, read_manifest

        with self._said(uri):
            found = read_manifest(self._store, uri)
            if found is None:
                return None
            folder = self._path(found.uri)
            manifest = self._store.get_bytes(found.uri + MANIFEST)
            if _is_here(folder, manifest, found.manifest):
                return folder
            (folder / MANIFEST).unlink(missing_ok=True)
            size = sum(entry.size_bytes for entry in found.manifest.files)
            with _bar(found.uri, size) as on_bytes:
                fetch_committed(self._store, found.uri, folder, on_bytes)
            _leave_alone(folder)
            _write(folder / MANIFEST, manifest)
        return folder

    def files(self, uri: str, is_wanted: Callable[[str], bool]) -> Path | None:
        """Fetch files that have no manifest: the object ``uri``, or those below it.

        ``is_wanted`` is asked with each name below. None where nothing is. Raises Refused,
        TrainerError.
        """
        from tunesmith_trainer.storage.locations import as_prefix

        with self._said(uri):
            if single := self._store.list(uri.rstrip("/")):
                folder = self._path(single[0].uri.rpartition("/")[0])
                self._fetch(single, folder, single[0].relative + _LISTING)
                return folder / single[0].relative
            prefix = as_prefix(uri)
            listed = self._store.list(prefix)
            found = [info for info in listed if is_wanted(info.relative)]
            if not found:
                return None
            folder = self._path(prefix)
            _keep_only({info.relative for info in listed}, folder)
            names = "".join(info.relative for info in found)
            self._fetch(found, folder, f"{sha256(names.encode()).hexdigest()[:8]}{_LISTING}")
        return folder

    def _fetch(self, found: "list[ObjectInfo]", folder: Path, listing: str) -> None:
        from tunesmith_trainer.storage.locations import local_path

        seen = orjson.dumps([(info.relative, info.size_bytes, info.etag) for info in found])
        paths = [local_path(folder, info.relative) for info in found]
        noted = folder / listing
        is_same = noted.is_file() and noted.read_bytes() == seen
        if is_same and all(path.is_file() for path in paths):
            return
        noted.unlink(missing_ok=True)
        prefix = found[0].uri.removesuffix(found[0].relative)
        with _bar(prefix, sum(info.size_bytes for info in found)) as on_bytes:
            names = {info.relative for info in found}
            self._store.download_prefix(prefix, folder, on_bytes, include=names.__contains__)
        _write(noted, seen)

    def _path(self, uri: str) -> Path:
        from tunesmith_trainer.storage.locations import local_path, parse

        bucket, key = parse(uri)
        return local_path(self._root, f"{bucket}/{key}".rstrip("/"))

    @contextmanager
    def _said(self, uri: str) -> Iterator[None]:
        """Turn what goes wrong with S3, what lies there and our cache into Refused."""
        from tunesmith_trainer.storage.manifest import Damaged

        try:
            with said_plainly(uri, self._connection):
                yield
        except Damaged as error:
            raise Refused(
                f"{error}. What is there was changed or lost after it was written: take another"
                " artifact of the run, or run it again."
            ) from error
        except OSError as error:
            raise Refused(
                f"{error.filename or self._root}: {error.strerror}. What comes from S3 is kept"
                " there; XDG_CACHE_HOME names another place."
            ) from error


def _is_report_of(relative: str, job: str) -> bool:
    folder, _, name = relative.rpartition("/")
    is_there = name == REPORT and "/" not in folder
    return is_there and (not job or folder.startswith(f"{job}-"))


def _is_here(folder: Path, data: bytes, manifest: Manifest) -> bool:
    noted = folder / MANIFEST
    if not noted.is_file() or noted.read_bytes() != data:
        return False
    files = [(folder / entry.path, entry.size_bytes) for entry in manifest.files]
    return all(path.is_file() and path.stat().st_size == size for path, size in files)


def _leave_alone(folder: Path) -> None:
    """Remove what other attempts had made: readers take the highest number, and it takes room."""
    if folder.name.startswith("attempt-"):
        for other in folder.parent.glob("attempt-*"):
            if other != folder:
                shutil.rmtree(other, ignore_errors=True)


def _keep_only(names: set[str], folder: Path) -> None:
    """Remove files that are no longer there: weights of another number of parts, for one."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.is_file() and path.name not in names and not path.name.endswith(_LISTING):
            path.unlink()


def _write(path: Path, data: bytes) -> None:
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(data)
    part.replace(path)


@contextmanager
def _bar(uri: str, size_bytes: int) -> Iterator[Callable[[int], None]]:
    """Show how much has come, where that is seen; a line elsewhere."""
    is_seen = sys.stderr.isatty()
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(TextColumn("fetching"), *columns, console=err, disable=not is_seen) as bars:
        err.print(f"Fetching {uri} ({size_bytes / 1e6:,.1f} MB)", markup=False)
        task = bars.add_task("", total=size_bytes)
        yield lambda count: bars.advance(task, count)
