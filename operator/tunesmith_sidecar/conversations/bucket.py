"""Writes objects of the log to S3. The only importer of boto3, and of all that it brings along.

Blocks, so it is called in a thread. A request ends after seconds, whatever the server does:
``log`` has the patience. Keys come from a mounted Secret, else from the pod's own identity.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config

from tunesmith_sidecar.settings import Settings, SettingsError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_KEYS = {
    "aws_access_key_id": "AWS_ACCESS_KEY_ID",
    "aws_secret_access_key": "AWS_SECRET_ACCESS_KEY",
    "aws_session_token": "AWS_SESSION_TOKEN",
}


class Bucket:
    """The place of the log."""

    def __init__(self, uri: str, settings: Settings) -> None:
        """Make a client; no request is made yet. Raises SettingsError without keys."""
        name, _, prefix = uri.removeprefix("s3://").partition("/")
        self._name = name
        self._prefix = prefix.rstrip("/") + "/" if prefix else ""
        self._client = _make_client(settings)

    def put(self, key: str, data: bytes) -> None:
        """Write an object below the prefix. Raises whatever boto3 does."""
        self._client.put_object(
            Bucket=self._name,
            Key=self._prefix + key,
            Body=data,
            ContentType="application/x-ndjson",
        )


def _make_client(settings: Settings) -> "S3Client":
    keys = _read_keys(settings.log_credentials_dir) if settings.log_credentials_dir else {}
    return boto3.session.Session().client(
        "s3",
        endpoint_url=settings.log_endpoint or None,
        region_name=settings.log_region or None,
        aws_access_key_id=keys.get("aws_access_key_id"),
        aws_secret_access_key=keys.get("aws_secret_access_key"),
        aws_session_token=keys.get("aws_session_token"),
        config=Config(
            signature_version="s3v4",
            connect_timeout=3,
            read_timeout=5,
            # Many S3 servers know no trailing checksums.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            retries={"mode": "standard", "total_max_attempts": 1},
            s3={"addressing_style": "path" if settings.log_path_style else "auto"},
        ),
    )


def _read_keys(folder: Path) -> dict[str, str]:
    try:
        found = {
            option: (folder / name).read_text(encoding="utf-8").strip()
            for option, name in _KEYS.items()
            if (folder / name).exists()
        }
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"log_credentials_dir: {error}") from error
    missing = [name for option, name in _KEYS.items() if option not in found]
    if set(missing) - {"AWS_SESSION_TOKEN"}:
        raise SettingsError(f"log_credentials_dir: {folder} lacks {' and '.join(missing[:2])}")
    return found
