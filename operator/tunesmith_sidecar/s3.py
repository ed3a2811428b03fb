"""The client for S3; it brings all of boto3 along, so it is imported only where S3 is.

Keys come from a mounted Secret, else from the pod's own identity. Makes clients and asks nothing;
called by the conversation log's bucket and by the model fetcher, each with the patience it has.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import boto3
from botocore.config import Config

from tunesmith_process.certificates import missing_bundle

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_KEYS = {
    "aws_access_key_id": "AWS_ACCESS_KEY_ID",
    "aws_secret_access_key": "AWS_SECRET_ACCESS_KEY",
    "aws_session_token": "AWS_SESSION_TOKEN",
}


class CredentialsError(Exception):
    """The mounted Secret holds no usable keys; the message never says what it does hold."""


class CertificatesError(CredentialsError):
    """The certificates that S3 should be known by are not there."""


class Endpoint(NamedTuple):
    """Where S3 is and who we are there."""

    url: str
    """Empty: Amazon's."""
    region: str
    path_style: bool
    credentials_dir: Path | None
    """Folder with the keys of a mounted Secret. None: the pod's own identity."""


class Patience(NamedTuple):
    """How long one request may take; longer waits are the caller's."""

    connect_seconds: int
    read_seconds: int
    attempts: int
    connections: int = 10


def make_client(endpoint: Endpoint, patience: Patience) -> "S3Client":
    """Make a client; no request is made yet. Raises CredentialsError, also CertificatesError."""
    if lack := missing_bundle(os.environ):
        raise CertificatesError(lack)
    keys = read_keys(endpoint.credentials_dir)
    return boto3.session.Session().client(
        "s3",
        endpoint_url=endpoint.url or None,
        region_name=endpoint.region or None,
        aws_access_key_id=keys.get("aws_access_key_id"),
        aws_secret_access_key=keys.get("aws_secret_access_key"),
        aws_session_token=keys.get("aws_session_token"),
        config=Config(
            signature_version="s3v4",
            connect_timeout=patience.connect_seconds,
            read_timeout=patience.read_seconds,
            max_pool_connections=patience.connections,
            tcp_keepalive=True,
            # Many S3 servers know no trailing checksums.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            retries={"mode": "standard", "total_max_attempts": patience.attempts},
            s3={"addressing_style": "path" if endpoint.path_style else "auto"},
        ),
    )


def read_keys(folder: Path | None) -> dict[str, str]:
    """Read the keys of a mounted Secret; none without a folder. Raises CredentialsError."""
    if folder is None:
        return {}
    try:
        found = {
            option: (folder / name).read_text(encoding="utf-8").strip()
            for option, name in _KEYS.items()
            if (folder / name).exists()
        }
    except (OSError, UnicodeDecodeError) as error:
        raise CredentialsError(str(error)) from error
    missing = [name for option, name in _KEYS.items() if not found.get(option)]
    if set(missing) - {"AWS_SESSION_TOKEN"}:
        raise CredentialsError(f"{folder} lacks {' and '.join(missing[:2])}")
    return found
