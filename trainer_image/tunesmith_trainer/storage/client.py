"""Moves bytes between S3 and this machine: pooled, parallel, patient, and with telling errors.

One :class:`Storage` a role, for the life of the process; it may be used from several threads.
Checks sizes; sha256 are the manifest's matter. Called by prepare, sources, checkpoints and export.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from os.path import commonpath
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from tunesmith_api.result import UserErrorReason
from tunesmith_api.run import CREDENTIALS_PATH, S3Connection
from tunesmith_trainer.disk import room_for
from tunesmith_trainer.outcome import Infrastructure, UserError
from tunesmith_trainer.stopping import StopSignal
from tunesmith_trainer.storage import errors
from tunesmith_trainer.storage.credentials import make_client, secret_of
from tunesmith_trainer.storage.errors import Conflict, NotFound, Place, Role
from tunesmith_trainer.storage.locations import as_prefix, local_path, parse
from tunesmith_trainer.storage.patience import DEFAULT_PATIENCE, Patience
from tunesmith_trainer.storage.store import Fetched, ObjectInfo, OnBytes, StoredObject
from tunesmith_trainer.storage.transfer import Move, Transfers

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_PROBE = ".tunesmith-write-probe-"
_DELETE_BATCH = 1000


class Storage:
    """S3 with the credentials of one role."""

    def __init__(self, client: "S3Client", place: Place, patience: Patience) -> None:
        self._client = client
        self._place = place
        self._patience = patience
        # Who has written once is taken to be allowed to: a later refusal is waited for.
        self._has_written = False
        # The same of listing; what lies below a prefix that was listed included.
        self._may_list: set[str] = set()
        self._transfers = Transfers(client, patience)

    @classmethod
    def open(
        cls,
        connection: S3Connection,
        role: Role,
        credentials_root: Path = Path(CREDENTIALS_PATH),
        *,
        patience: timedelta = DEFAULT_PATIENCE,
        stop: StopSignal | None = None,
    ) -> "Storage":
        """Make a storage for a role; no request is made yet.

        With ``stop``, waiting and moving end with Interrupted when SIGTERM comes: right for
        reading inputs, wrong for saving the last checkpoint. ``patience`` bounds how long a
        server that is away is waited for. Raises UserError (CredentialsMissing).
        """
        client = make_client(connection, role, credentials_root)
        place = Place(role, connection.endpoint, "", secret=secret_of(connection, role))
        return cls(client, place, Patience(patience, stop))

    def _listed(self, uri: str, *, trusted: bool) -> list[ObjectInfo]:
        bucket, key = parse(uri)
        is_prefix = not key or key.endswith("/")

        def pages() -> list[ObjectInfo]:
            self._patience.check()
            found = []
            pager = self._client.get_paginator("list_objects_v2")
            for page in pager.paginate(Bucket=bucket, Prefix=key):
                for item in page.get("Contents", []):
                    name = item["Key"]
                    if name.endswith("/") or not (is_prefix or name == key):
                        continue
                    relative = name[len(key) :] if is_prefix else name.rpartition("/")[2]
                    found.append(
                        ObjectInfo(
                            f"s3://{bucket}/{name}",
                            name,
                            relative,
                            item["Size"],
                            item["ETag"],
                            item["LastModified"],
                        )
                    )
            return found

        known = any(uri.startswith(prefix) for prefix in self._may_list)
        found = self._patience.run(self._at(uri), pages, trusted=trusted or known)
        self._may_list.add(uri)
        return sorted(found, key=lambda info: info.key)

    def list(self, uri: str) -> list[ObjectInfo]:
        """List the object ``uri`` or, where it ends in a slash, all below it; sorted by key.

        Empty when there is nothing. Folder markers (empty keys ending in a slash) are left out.
        Raises UserError (BucketNotFound, AccessDenied), Infrastructure (StorageUnavailable).
        """
        return self._listed(uri, trusted=False)

    def download(self, uri: str, path: Path, on_bytes: OnBytes | None = None) -> None:
        """Fetch one object into ``path``; its folders are made.

        Raises UserError (DatasetNotFound or ModelNotFound by role) when there is none.
        """
        found = self.list(uri)
        if not found or found[0].uri != uri:
            raise errors.absent(self._at(uri))
        self._download_all([(found[0], path)], on_bytes, self._at(uri))

    def download_prefix(
        self,
        uri: str,
        directory: Path,
        on_bytes: OnBytes | None = None,
        *,
        include: Callable[[str], bool] = lambda _: True,
    ) -> Fetched:
        """Fetch all objects below ``uri`` side by side; returns them with their paths.

        ``include`` gets the key relative to the prefix. Keys that would leave ``directory`` are
        refused with UserError (InvalidRun); nothing found raises DatasetNotFound/ModelNotFound.
        """
        prefix = as_prefix(uri)
        wanted = [
            (info, local_path(directory, info.relative))
            for info in self.list(prefix)
            if include(info.relative)
        ]
        if not wanted:
            raise errors.absent(self._at(prefix), "No fitting object")
        self._download_all(wanted, on_bytes, self._at(prefix))
        return wanted

    def get(self, uri: str) -> StoredObject:
        """Read a small object whole. Raises NotFound."""
        bucket, key = parse(uri)

        def read() -> StoredObject:
            self._patience.check()
            answer = self._client.get_object(Bucket=bucket, Key=key)
            return StoredObject(answer["Body"].read(), answer["ETag"])

        return self._patience.run(self._at(uri), read, trusted=self._has_written)

    def get_bytes(self, uri: str) -> bytes:
        """Read a small object whole. Raises NotFound."""
        return self.get(uri).data

    def put_bytes(
        self, uri: str, data: bytes, *, only_if_absent: bool = False, if_match: str | None = None
    ) -> str:
        """Write a small object and return its ETag.

        Raises Conflict when a condition does not hold (also when a first try of ours got through
        and its answer was lost), ConditionsUnsupported when the server knows none.
        """
        bucket, key = parse(uri)
        conditions: dict[str, Any] = {}
        if only_if_absent:
            conditions["IfNoneMatch"] = "*"
        if if_match is not None:
            conditions["IfMatch"] = if_match

        def write() -> str:
            self._patience.check()
            answer = self._client.put_object(Bucket=bucket, Key=key, Body=data, **conditions)
            return answer["ETag"]

        etag = self._patience.run(self._at(uri), write, trusted=self._has_written)
        self._has_written = True
        return etag

    def upload(self, path: Path, uri: str, on_bytes: OnBytes | None = None) -> None:
        """Write one file and check that it arrived with its size."""
        self.upload_all([(path, uri)], on_bytes)

    def upload_all(
        self, files: Iterable[tuple[Path, str]], on_bytes: OnBytes | None = None
    ) -> None:
        """Write many files side by side and check that each arrived with its size."""
        moves = [Move(parse(uri), path) for path, uri in files]
        if not moves:
            return
        place = self._at(f"s3://{moves[0].location.bucket}/{moves[0].location.key}")
        self._transfers.upload(moves, place, on_bytes, trusted=self._has_written)
        self._has_written = True
        self._check_arrived(moves)

    def delete_prefix(self, uri: str) -> int:
        """Delete all objects below ``uri``; returns how many. Nothing there is no error."""
        prefix = as_prefix(uri)
        keys = [info.key for info in self.list(prefix)]
        bucket = parse(prefix).bucket
        for first in range(0, len(keys), _DELETE_BATCH):
            batch = keys[first : first + _DELETE_BATCH]
            self._patience.run(
                self._at(prefix),
                lambda batch=batch: self._client.delete_objects(  # type: ignore[misc]
                    Bucket=bucket, Delete={"Objects": [{"Key": k} for k in batch], "Quiet": True}
                ),
                trusted=self._has_written,
            )
        return len(keys)

    def check_writable(self, prefix: str) -> None:
        """Write and delete a small object below ``prefix``, before anything expensive is done.

        Raises UserError: BucketNotFound, CredentialsMissing, AccessDenied for keys that the server
        does not accept at all, OutputNotWritable for accepted ones without the permission.
        """
        uri = f"{as_prefix(prefix)}{_PROBE}{uuid4().hex}"
        bucket, key = parse(uri)
        try:
            self.put_bytes(uri, b"")
            self._patience.run(
                self._at(uri), lambda: self._client.delete_object(Bucket=bucket, Key=key)
            )
        except UserError as error:
            identity = error.__cause__ is not None and errors.is_identity(error.__cause__)
            if identity or error.reason != UserErrorReason.ACCESS_DENIED.value:
                raise
            raise UserError(
                UserErrorReason.OUTPUT_NOT_WRITABLE,
                f"Cannot write below {prefix}: {error.message}",
            ) from error

    def _download_all(
        self, wanted: Sequence[tuple[ObjectInfo, Path]], on_bytes: OnBytes | None, place: Place
    ) -> None:
        for _, path in wanted:
            path.parent.mkdir(parents=True, exist_ok=True)
        moves = [Move(parse(i.uri), path, i.size_bytes, i.etag) for i, path in wanted]
        needed = sum(info.size_bytes for info, _ in wanted)
        try:
            with room_for(wanted[0][1].parent, needed, f"the files of {place}"):
                self._transfers.download(moves, place, on_bytes)
        except NotFound as error:
            raise errors.absent(place, "An object that was listed is no longer") from error
        except Conflict as error:
            raise errors.changed(place) from error
        for info, path in wanted:
            _same_size(info.uri, info.size_bytes, path)

    def _check_arrived(self, moves: Sequence[Move]) -> None:
        """Compare sizes here and there. Raises Infrastructure SizeMismatch."""
        sizes = self._sizes_there(moves)
        for move in moves:
            bucket, key = move.location
            _same_size(f"s3://{bucket}/{key}", sizes.get(key, -1), move.path)

    def _sizes_there(self, moves: Sequence[Move]) -> dict[str, int]:
        bucket, key = moves[0].location
        if len(moves) > 1:
            # To ask for each of many small objects would take as long as to write them.
            parent = commonpath([move.location.key.rpartition("/")[0] for move in moves])
            folder = f"{parent}/" if parent else ""
            listed = self._listed(f"s3://{bucket}/{folder}", trusted=self._has_written)
            return {info.key: info.size_bytes for info in listed}
        head = self._patience.run(
            self._at(f"s3://{bucket}/{key}"),
            lambda: self._client.head_object(Bucket=bucket, Key=key),
            trusted=self._has_written,
        )
        return {key: head["ContentLength"]}

    def _at(self, uri: str) -> Place:
        bucket, key = parse(uri)
        place = self._place
        return Place(place.role, place.endpoint, bucket, key, place.secret)


def _same_size(uri: str, size_bytes: int, path: Path) -> None:
    here = path.stat().st_size
    if here != size_bytes:
        raise Infrastructure(
            "SizeMismatch", f"{uri} has {size_bytes} bytes, its copy {path.name} has {here}."
        )
