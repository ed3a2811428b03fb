"""``python -m tunesmith_sidecar.fetch``: fetches a model, verifies it, ends.

For an adapter it first looks whether its base model is still the one that it was trained on.

Exit codes: 0 it is here; 1 settings; 3 refused for good; 4 not found; 5 no access; 6 S3 away;
7 the disk. The same in words, one line, is the termination message.
"""

import os
import signal
import sys
from types import FrameType
from typing import NoReturn, assert_never

from tunesmith_api.artifacts import FetchReason
from tunesmith_process.logs import configure_logs, log
from tunesmith_process.settings import SettingsError
from tunesmith_sidecar.fetch.errors import FetchError, Place, explain
from tunesmith_sidecar.fetch.foundation import check_base
from tunesmith_sidecar.fetch.model import fetch_model
from tunesmith_sidecar.fetch.settings import FetchSettings, parse_fetch_settings
from tunesmith_sidecar.fetch.transfer import Source
from tunesmith_sidecar.s3 import (
    CertificatesError,
    CredentialsError,
    Endpoint,
    Patience,
    make_client,
)

_PATIENCE = Patience(connect_seconds=10, read_seconds=60, attempts=3, connections=16)
_TERMINATED = 143


def main() -> None:
    """Run the program."""
    # The first process of a container has no default for SIGTERM, and threads would be waited for.
    signal.signal(signal.SIGTERM, _end_at_once)
    try:
        settings = parse_fetch_settings(os.environ)
    except SettingsError as error:
        # One line: the kubelet makes the end of the log the termination message.
        sys.exit(f"{FetchReason.SETTINGS_INVALID}: {'; '.join(str(error).splitlines())}")
    configure_logs(settings.log_level, sys.stderr, revision=settings.revision)
    try:
        _fetch(settings)
    except FetchError as error:
        log.error("no model", reason=error.reason.value, message=str(error))
        _leave_message(settings, str(error))
        sys.exit(exit_code(error.reason))


def exit_code(reason: FetchReason) -> int:
    """Give the exit code of a failure."""
    match reason:
        case FetchReason.SETTINGS_INVALID:
            return 1
        case FetchReason.MODEL_REFUSED:
            return 3
        case FetchReason.MODEL_NOT_FOUND | FetchReason.BUCKET_NOT_FOUND:
            return 4
        case FetchReason.ACCESS_DENIED | FetchReason.CREDENTIALS_MISSING:
            return 5
        case FetchReason.STORAGE_UNAVAILABLE:
            return 6
        case FetchReason.DISK_FAILED:
            return 7
        case _:
            assert_never(reason)


def _fetch(settings: FetchSettings) -> None:
    place = Place(settings.uri, settings.endpoint, settings.secret)
    endpoint = Endpoint(
        settings.endpoint, settings.region, settings.path_style, settings.credentials_dir
    )
    try:
        client = make_client(endpoint, _PATIENCE)
        if settings.base_uri is not None and settings.base_digest is not None:
            there = Place(settings.base_uri, settings.endpoint, settings.secret, "s3:ListBucket")
            base = Source(client, there, settings.patience_seconds)
            check_base(settings.base_uri, settings.base_digest, base)
        fetch_model(settings, Source(client, place, settings.patience_seconds))
    except CertificatesError as error:
        raise FetchError(FetchReason.CREDENTIALS_MISSING, str(error)) from error
    except CredentialsError as error:
        raise FetchError(
            FetchReason.CREDENTIALS_MISSING,
            f"Secret {settings.secret} cannot be used: {error}. It must hold AWS_ACCESS_KEY_ID and"
            " AWS_SECRET_ACCESS_KEY",
        ) from error
    except OSError as error:
        raise explain(error, place) from error


def _leave_message(settings: FetchSettings, message: str) -> None:
    try:
        settings.termination_file.write_text(message)
    except OSError as error:
        log.warning("cannot leave the message", error=str(error))


def _end_at_once(_: int, __: FrameType | None) -> NoReturn:
    os._exit(_TERMINATED)


if __name__ == "__main__":
    main()
