"""Where S3 credentials come from: a mounted Secret, else the pod's own identity.

Makes the one pooled boto3 client of a role. Values of secrets are never logged or put in errors.
"""

import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config
from botocore.loaders import Loader, create_loader
from botocore.session import get_session

from tunesmith_api.result import UserErrorReason
from tunesmith_api.run import S3Connection
from tunesmith_process.certificates import missing_bundle
from tunesmith_trainer.outcome import UserError
from tunesmith_trainer.storage.errors import Role, no_identity

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

KEY_ID, SECRET_KEY, SESSION_TOKEN = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
)
CONNECTIONS = 24
_CONNECT_SECONDS = 10
_SILENCE_SECONDS = 60
"""A server that says nothing for so long is asked again, over a connection of its own."""


def secret_of(connection: S3Connection, role: Role) -> str:
    """Return the name of the Secret that a role uses, or nothing for the pod's identity."""
    return {
        "model": connection.model_secret,
        "dataset": connection.dataset_secret,
        "output": connection.output_secret,
    }[role]


def make_client(connection: S3Connection, role: Role, credentials_root: Path) -> "S3Client":
    """Make a client with the role's credentials. Opens no connection yet.

    Raises UserError (CredentialsMissing) when the Secret lacks a key, there is no identity, or the
    certificates that S3 should be known by are not there.
    """
    if lack := missing_bundle(os.environ):
        raise UserError(UserErrorReason.CREDENTIALS_MISSING, f"{lack}.")
    secret = secret_of(connection, role)
    keys = _read_secret(credentials_root / role, secret, role) if secret else {}
    session = _new_session()
    if not secret and session.get_credentials() is None:
        raise no_identity(role)
    return session.client(
        "s3",
        endpoint_url=connection.endpoint or None,
        region_name=connection.region or None,
        aws_access_key_id=keys.get(KEY_ID),
        aws_secret_access_key=keys.get(SECRET_KEY),
        aws_session_token=keys.get(SESSION_TOKEN),
        config=Config(
            signature_version="s3v4",
            max_pool_connections=CONNECTIONS,
            connect_timeout=_CONNECT_SECONDS,
            read_timeout=_SILENCE_SECONDS,
            tcp_keepalive=True,
            # Many S3 servers know no trailing checksums; our own sha256 are in the manifests.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            # Short waits here; long ones are tenacity's in client.py, which can be interrupted.
            retries={"mode": "standard", "total_max_attempts": 3},
            s3={"addressing_style": "path" if connection.path_style else "auto"},
        ),
    )


@cache
def _descriptions() -> Loader:
    # Parsing botocore's description of S3 takes half a second; the roles' sessions share it.
    return create_loader()


def _new_session() -> boto3.session.Session:
    inner = get_session()
    inner.register_component("data_loader", _descriptions())
    return boto3.session.Session(botocore_session=inner)


def _read_secret(directory: Path, secret: str, role: Role) -> dict[str, str]:
    found = {
        name: text
        for name in (KEY_ID, SECRET_KEY, SESSION_TOKEN)
        if (text := _read(directory / name))
    }
    missing = [name for name in (KEY_ID, SECRET_KEY) if name not in found]
    if missing:
        # A Secret that is not there is mounted as an empty folder.
        what = "lacks" if found else "does not exist or lacks"
        raise UserError(
            UserErrorReason.CREDENTIALS_MISSING,
            f"Secret {secret}, named for the {role}, {what} {' and '.join(missing)}."
            f" It must hold the keys {KEY_ID} and {SECRET_KEY} ({SESSION_TOKEN} is optional).",
        )
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (FileNotFoundError, NotADirectoryError, UnicodeDecodeError):
        return ""
