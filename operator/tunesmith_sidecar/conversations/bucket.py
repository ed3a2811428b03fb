"""Writes objects of the log to S3.

Blocks, so it is called in a thread. A request ends after seconds, whatever the server does:
``log`` has the patience. Keys are read again when they change; while they are missing nothing is
written, and the pod serves all the same.
"""

from typing import TYPE_CHECKING

from tunesmith_sidecar.s3 import Endpoint, Patience, make_client, read_keys
from tunesmith_sidecar.settings import Settings

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_PATIENCE = Patience(connect_seconds=3, read_seconds=5, attempts=1)


class Bucket:
    """The place of the log."""

    def __init__(self, uri: str, settings: Settings) -> None:
        """Take the place; nothing is asked yet."""
        name, _, prefix = uri.removeprefix("s3://").partition("/")
        self._name = name
        self._prefix = prefix.rstrip("/") + "/" if prefix else ""
        self._endpoint = Endpoint(
            settings.log_endpoint,
            settings.log_region,
            settings.log_path_style,
            settings.log_credentials_dir,
        )
        self._client: S3Client | None = None
        self._keys: dict[str, str] = {}

    def put(self, key: str, data: bytes) -> None:
        """Write an object below the prefix. Raises CredentialsError, or whatever boto3 does."""
        self._connected().put_object(
            Bucket=self._name,
            Key=self._prefix + key,
            Body=data,
            ContentType="application/x-ndjson",
        )

    def _connected(self) -> "S3Client":
        keys = read_keys(self._endpoint.credentials_dir)
        if self._client is None or keys != self._keys:
            self._client, self._keys = make_client(self._endpoint, _PATIENCE), keys
        return self._client
