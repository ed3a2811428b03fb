"""Models and data sets from the Hugging Face Hub.

Called by ``sources`` and ``data.finding``; `pushing` is for the other way. The token is read from
the mounted Secret and never logged.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, cast

import httpx2
from huggingface_hub import DatasetInfo, HfApi, ModelInfo, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tunesmith_api.modelfiles import wanted_file
from tunesmith_api.result import UserErrorReason
from tunesmith_trainer.disk import room_for
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


class _Kind(NamedTuple):
    """Models or data sets: how the Hub calls them, and what a job says about them."""

    repo_type: str
    reason: UserErrorReason
    prefix: str
    field: str
    revision_field: str
    secret_field: str


_MODEL = _Kind(
    "model",
    UserErrorReason.MODEL_NOT_FOUND,
    "hf://",
    "spec.model.uri",
    "spec.model.revision",
    "spec.model.secretRef",
)
_DATASET = _Kind(
    "dataset",
    UserErrorReason.DATASET_NOT_FOUND,
    "hf://datasets/",
    "the URI in spec.dataset",
    "the part behind @ of the URI in spec.dataset",
    "spec.dataset.secretRef",
)


class _Repository(NamedTuple):
    """A repository as it was asked for."""

    kind: _Kind
    name: str
    revision: str
    token: str | None

    @property
    def uri(self) -> str:
        return f"{self.kind.prefix}{self.name}"


class _Fetched(NamedTuple):
    """What a repository was found to be, and the names of the files that were fetched."""

    commit: str
    files: list[str]


def fetch_from_hub(name: str, revision: str, directory: Path, whole: bool, token_file: Path) -> str:
    """Fetch ``name`` (ORGANIZATION/NAME) into ``directory``; returns the commit.

    Raises UserError (ModelNotFound, ModelInvalid), Infrastructure (HubUnavailable, DiskFull).
    """
    from tunesmith_trainer.sources import check_files

    repository = _Repository(_MODEL, name, revision, _token(token_file))

    def select(files: Sequence[str]) -> Sequence[str]:
        check_files(files, repository.uri)
        return [file for file in files if wanted_file(file, whole)]

    return _fetch(repository, directory, select).commit


def fetch_dataset(
    name: str,
    revision: str,
    directory: Path,
    select: Callable[[Sequence[str]], Sequence[str]],
    token_file: Path,
) -> list[str]:
    """Fetch the files of a data set that ``select`` takes; returns their names below ``directory``.

    Raises UserError (DatasetNotFound), Infrastructure (HubUnavailable, DiskFull).
    """
    repository = _Repository(_DATASET, name, revision, _token(token_file))
    return _fetch(repository, directory, select).files


def _fetch(
    repository: _Repository, directory: Path, select: Callable[[Sequence[str]], Sequence[str]]
) -> _Fetched:
    """Fetch the files that ``select`` takes, all of the commit that the revision stands for now."""
    kind, name = repository.kind, repository.name
    try:
        info = cast(
            "ModelInfo | DatasetInfo",
            HfApi().repo_info(
                name,
                repo_type=kind.repo_type,
                revision=repository.revision or None,
                token=repository.token,
                timeout=_TIMEOUT_SECONDS,
                files_metadata=True,
            ),
        )
        commit = str(info.sha)
        sizes = {sibling.rfilename: sibling.size or 0 for sibling in info.siblings or []}
        files = list(select(list(sizes)))
        # What is there already is not fetched again.
        needed = sum(sizes[file] for file in files if not (directory / file).exists())
        # Without patterns the Hub would give everything.
        if files:
            with room_for(directory, needed, f"the files of {repository.uri}"):
                snapshot_download(
                    name,
                    repo_type=kind.repo_type,
                    revision=commit,
                    local_dir=directory,
                    token=repository.token,
                    allow_patterns=files,
                    max_workers=_WORKERS,
                )
    except (HfHubHTTPError, HFValidationError, OSError, httpx2.HTTPError) as error:
        raise _explained(error, repository) from error
    log.info("from the Hub", uri=repository.uri, commit=commit, files=len(files))
    return _Fetched(commit, files)


def _token(token_file: Path) -> str | None:
    return token_file.read_text().strip() if token_file.is_file() else None


def _explained(error: Exception, asked: _Repository) -> TrainerError:
    uri, kind = asked.uri, asked.kind
    if isinstance(error, GatedRepoError):
        return _not_found(f"{uri} is gated: accept its licence on the Hub and", asked)
    if isinstance(error, RevisionNotFoundError):
        return UserError(
            kind.reason,
            f"{uri} has no revision {shorten(asked.revision, 100)}. Correct {kind.revision_field}.",
        )
    if isinstance(error, RepositoryNotFoundError):
        return _not_found(f"{uri} does not exist or is private. Correct {kind.field}, or", asked)
    if isinstance(error, HFValidationError):
        return UserError(
            kind.reason,
            f"{uri} is no name of the Hub. {kind.field} is {kind.prefix}ORGANIZATION/NAME.",
        )
    if is_away(error):
        return Infrastructure(
            "HubUnavailable",
            f"The Hugging Face Hub did not deliver {uri} ({type(error).__name__}:"
            f" {shorten(str(error), 200)}). Without a way to the Hub, put it into S3.",
        )
    return Infrastructure("LocalIOError", f"{type(error).__name__}: {shorten(str(error), 300)}")


def is_away(error: Exception) -> bool:
    """Whether an error of a library that asks the Hub says that the Hub does not answer."""
    return isinstance(error, _AWAY)


def _not_found(start: str, asked: _Repository) -> UserError:
    what = "check HF_TOKEN in" if asked.token else "put HF_TOKEN into"
    return UserError(asked.kind.reason, f"{start} {what} the Secret of {asked.kind.secret_field}.")
