"""Models and data sets from the Hugging Face Hub.

Called by ``sources`` and ``data.finding``; `pushing` is for the other way. The token is read from
the mounted Secret and never logged.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import httpx2
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

from tunesmith_api.result import UserErrorReason
from tunesmith_trainer.logs import log
from tunesmith_trainer.outcome import Infrastructure, TrainerError, UserError, shorten

_TIMEOUT_SECONDS = 30
_WORKERS = 8
_AWAY = (
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    HfHubHTTPError,
    httpx2.HTTPError,
    ConnectionError,
    TimeoutError,
)


class _Asked(NamedTuple):
    """What was asked for, and where the job says so."""

    uri: str
    revision: str
    has_token: bool
    reason: UserErrorReason
    field: str
    revision_field: str
    secret_field: str
    form: str


def fetch_from_hub(name: str, revision: str, directory: Path, whole: bool, token_file: Path) -> str:
    """Fetch ``name`` (ORGANIZATION/NAME) into ``directory``; returns the commit.

    Raises UserError (ModelNotFound, ModelInvalid), Infrastructure (HubUnavailable).
    """
    from tunesmith_trainer.sources import check_files, wanted_file

    token = _token(token_file)
    asked = _Asked(
        f"hf://{name}",
        revision,
        bool(token),
        UserErrorReason.MODEL_NOT_FOUND,
        "spec.model.uri",
        "spec.model.revision",
        "spec.model.secretRef",
        "hf://ORGANIZATION/NAME",
    )
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
    except (HfHubHTTPError, HFValidationError, OSError, httpx2.HTTPError) as error:
        raise _explained(error, asked) from error
    return str(info.sha)


def fetch_dataset(
    name: str,
    revision: str,
    directory: Path,
    select: Callable[[Sequence[str]], Sequence[str]],
    token_file: Path,
) -> list[str]:
    """Fetch the files of a data set that ``select`` takes; returns their names below ``directory``.

    Raises UserError (DatasetNotFound), Infrastructure (HubUnavailable).
    """
    token = _token(token_file)
    asked = _Asked(
        f"hf://datasets/{name}",
        revision,
        bool(token),
        UserErrorReason.DATASET_NOT_FOUND,
        "the URI in spec.dataset",
        "the part behind @ of the URI in spec.dataset",
        "spec.dataset.secretRef",
        "hf://datasets/ORGANIZATION/NAME",
    )
    try:
        info = HfApi().dataset_info(
            name, revision=revision or None, token=token, timeout=_TIMEOUT_SECONDS
        )
        files = list(select([sibling.rfilename for sibling in info.siblings or []]))
        if files:
            snapshot_download(
                name,
                repo_type="dataset",
                revision=info.sha,
                local_dir=directory,
                token=token,
                allow_patterns=files,
                max_workers=_WORKERS,
            )
    except (HfHubHTTPError, HFValidationError, OSError, httpx2.HTTPError) as error:
        raise _explained(error, asked) from error
    log.info("data set of the Hub", name=name, commit=info.sha, files=len(files))
    return files


def _token(token_file: Path) -> str | None:
    return token_file.read_text().strip() if token_file.is_file() else None


def _explained(error: Exception, asked: _Asked) -> TrainerError:
    uri = asked.uri
    if isinstance(error, GatedRepoError):
        return _not_found(f"{uri} is gated: accept its licence on the Hub and", asked)
    if isinstance(error, RevisionNotFoundError):
        return UserError(
            asked.reason,
            f"{uri} has no revision {shorten(asked.revision, 100)}."
            f" Correct {asked.revision_field}.",
        )
    if isinstance(error, RepositoryNotFoundError):
        return _not_found(f"{uri} does not exist or is private. Correct {asked.field}, or", asked)
    if isinstance(error, HFValidationError):
        return UserError(
            asked.reason, f"{uri} is no name of the Hub. {asked.field} is {asked.form}."
        )
    if isinstance(error, _AWAY):
        return Infrastructure(
            "HubUnavailable",
            f"The Hugging Face Hub did not deliver {uri} ({type(error).__name__}:"
            f" {shorten(str(error), 200)}). Without a way to the Hub, put it into S3.",
        )
    return Infrastructure("LocalIOError", f"{type(error).__name__}: {shorten(str(error), 300)}")


def _not_found(start: str, asked: _Asked) -> UserError:
    what = "check HF_TOKEN in" if asked.has_token else "put HF_TOKEN into"
    return UserError(asked.reason, f"{start} {what} the Secret of {asked.secret_field}.")
