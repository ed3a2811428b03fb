"""Brings an adapter's files by the fetcher of whole models, as a process of its own.

So what it verifies and refuses is the same, and neither its memory nor a crash is the sidecar's.
An adapter of another base model, or of one that has changed since, is refused besides. Called by
``adapter``.
"""

import asyncio
import os
import sys
from contextlib import suppress
from pathlib import Path

from tunesmith_api.adapters import WantedAdapter
from tunesmith_api.artifacts import FetchReason, refusal
from tunesmith_sidecar.adapters.fitting import misfit
from tunesmith_sidecar.settings import Settings

FILES, DIGEST_FILE = "files", "digest"
_MESSAGE_FILE = "message"
_PREFIX = "TUNESMITH_FETCH_"
# Less than the fetcher's own: whoever asks is told why it takes so long, and it is tried again.
_PATIENCE_SECONDS = 30


class FetchFailed(Exception):
    """The files are not here; the text says why."""

    def __init__(self, message: str) -> None:
        """Take the fetcher's ``REASON: sentence``."""
        super().__init__(message)
        self.is_final = bool(refusal(message))


async def fetch_adapter(settings: Settings, wanted: WantedAdapter, folder: Path) -> None:
    """Fetch and verify an adapter into ``folder``. Raises FetchFailed; ends with its caller."""
    message = folder / _MESSAGE_FILE
    _prepare(folder, message)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tunesmith_sidecar.fetch",
        env=os.environ | _variables(settings, wanted, folder, message),
    )
    try:
        code = await process.wait()
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if code:
        said = message.read_text() if message.exists() else f"the fetcher ended with {code}"
        raise FetchFailed(said)
    wrong = misfit(folder / FILES, settings.adapters_base_model)
    if wrong:
        raise FetchFailed(f"{FetchReason.MODEL_REFUSED}: {wrong}")


def _prepare(folder: Path, message: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    message.unlink(missing_ok=True)


def read_digest(folder: Path) -> str:
    """Give the digest that was verified; empty where none was."""
    path = folder / DIGEST_FILE
    return path.read_text().strip() if path.exists() else ""


def _variables(
    settings: Settings, wanted: WantedAdapter, folder: Path, message: Path
) -> dict[str, str]:
    given = {
        "URI": wanted.uri,
        "DIGEST": wanted.digest,
        "FOLDER": str(folder / FILES),
        "DIGEST_FILE": str(folder / DIGEST_FILE),
        "REVISION": wanted.revision,
        "ENDPOINT": settings.adapters_endpoint,
        "REGION": settings.adapters_region,
        "PATH_STYLE": str(settings.adapters_path_style).lower(),
        "SECRET": settings.adapters_secret,
        "TERMINATION_FILE": str(message),
        "PATIENCE_SECONDS": str(_PATIENCE_SECONDS),
        "LOG_LEVEL": settings.log_level,
    }
    if settings.adapters_credentials_dir is not None:
        given["CREDENTIALS_DIR"] = str(settings.adapters_credentials_dir)
    if settings.adapters_base_digest is not None:
        given["BASE_URI"] = settings.adapters_base_model
        given["BASE_DIGEST"] = settings.adapters_base_digest
    return {_PREFIX + name: value for name, value in given.items()}
