"""Writes objects of the log to S3.

Blocks, so it is called in a thread. A request ends after seconds, whatever the server does:
``log`` has the patience.
"""

from tunesmith_sidecar.s3 import CredentialsError, Endpoint, Patience, make_client
from tunesmith_sidecar.settings import Settings, SettingsError

_PATIENCE = Patience(connect_seconds=3, read_seconds=5, attempts=1)


class Bucket:
    """The place of the log."""

    def __init__(self, uri: str, settings: Settings) -> None:
        """Make a client; no request is made yet. Raises SettingsError without keys."""
        name, _, prefix = uri.removeprefix("s3://").partition("/")
        self._name = name
        self._prefix = prefix.rstrip("/") + "/" if prefix else ""
        endpoint = Endpoint(
            settings.log_endpoint,
            settings.log_region,
            settings.log_path_style,
            settings.log_credentials_dir,
        )
        try:
            self._client = make_client(endpoint, _PATIENCE)
        except CredentialsError as error:
            raise SettingsError(f"log_credentials_dir: {error}") from error

    def put(self, key: str, data: bytes) -> None:
        """Write an object below the prefix. Raises whatever boto3 does."""
        self._client.put_object(
            Bucket=self._name,
            Key=self._prefix + key,
            Body=data,
            ContentType="application/x-ndjson",
        )
