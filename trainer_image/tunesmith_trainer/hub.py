"""Models from the Hugging Face Hub.

Called by ``sources``; `pushing` is for the other way. The token is read from the
mounted Secret and never logged.
"""

from pathlib import Path

import httpx
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tunesmith_api.run import UserErrorReason
from tunesmith_trainer.outcome import Infrastructure, TrainerError, UserError, shorten

_TIMEOUT_SECONDS = 30
_WORKERS = 8
_AWAY = (
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    HfHubHTTPError,
    httpx.HTTPError,
    ConnectionError,
    TimeoutError,
)


def fetch_from_hub(name: str, revision: str, directory: Path, whole: bool, token_file: Path) -> str:
    """Fetch ``name`` (ORGANIZATION/NAME) into ``directory``; returns the commit.

    Raises UserError (ModelNotFound, ModelInvalid), Infrastructure (HubUnavailable).
    """
    from tunesmith_trainer.sources import check_files, wanted_file

    token = token_file.read_text().strip() if token_file.is_file() else None
    try:
        info = HfApi().model_info(
            name, revision=revision or None, token=token, timeout=_TIMEOUT_SECONDS
        )
        files = [sibling.rfilename for sibling in info.siblings or []]
        check_files(files, f"hf://{name}")
        snapshot_download(
            name,
            revision=info.sha,
            local_dir=directory,
            token=token,
            allow_patterns=[file for file in files if wanted_file(file, whole)],
            max_workers=_WORKERS,
        )
    except (HfHubHTTPError, HFValidationError, OSError, httpx.HTTPError) as error:
        raise _explained(error, name, revision, bool(token)) from error
    return str(info.sha)


def _explained(error: Exception, name: str, revision: str, has_token: bool) -> TrainerError:
    if isinstance(error, GatedRepoError):
        return _not_found(f"hf://{name} is gated: accept its licence on the Hub and", has_token)
    if isinstance(error, RevisionNotFoundError):
        return UserError(
            UserErrorReason.MODEL_NOT_FOUND,
            f"hf://{name} has no revision {shorten(revision, 100)}. Correct spec.model.revision.",
        )
    if isinstance(error, RepositoryNotFoundError):
        return _not_found(
            f"hf://{name} does not exist or is private. Correct spec.model.uri, or", has_token
        )
    if isinstance(error, HFValidationError):
        return UserError(
            UserErrorReason.MODEL_NOT_FOUND,
            f"hf://{name} is no name of the Hub. spec.model.uri is hf://ORGANIZATION/NAME.",
        )
    if isinstance(error, _AWAY):
        return Infrastructure(
            "HubUnavailable",
            f"The Hugging Face Hub did not deliver {name} ({type(error).__name__}:"
            f" {shorten(str(error), 200)}). Without a way to the Hub, put the model into S3.",
        )
    return Infrastructure("LocalIOError", f"{type(error).__name__}: {shorten(str(error), 300)}")


def _not_found(start: str, has_token: bool) -> UserError:
    what = "check HF_TOKEN in" if has_token else "put HF_TOKEN into"
    return UserError(
        UserErrorReason.MODEL_NOT_FOUND, f"{start} {what} the Secret of spec.model.secretRef."
    )
