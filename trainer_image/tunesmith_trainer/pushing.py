"""Results into a repository of the Hugging Face Hub.

`check_hub` in the prepare stage finds what would stop the push before anything is trained; `push`
is called by `publish`. The token is read from the mounted Secret and never logged.
"""

from pathlib import Path
from typing import Final

import httpx2
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

from tunesmith_api.output import HuggingFace
from tunesmith_api.result import UserErrorReason
from tunesmith_api.run import CREDENTIALS_PATH
from tunesmith_trainer.logs import log
from tunesmith_trainer.outcome import Infrastructure, TrainerError, UserError, shorten

TOKEN_FILE: Final = Path(CREDENTIALS_PATH) / "hub" / "HF_TOKEN"
_WHERE: Final = "the Secret of spec.output.huggingFace.secretRef (default: spec.model.secretRef)"


def check_hub(target: HuggingFace, token_file: Path = TOKEN_FILE) -> None:
    """Make the repository if it is not there, and ask whether the token may write to it.

    Raises UserError CredentialsMissing, AccessDenied or OutputNotWritable, and Infrastructure
    HubUnavailable.
    """
    api = _api(token_file)
    try:
        api.whoami()
        api.create_repo(target.repository, private=target.private, exist_ok=True)
        api.auth_check(target.repository, write=True)
    except (HfHubHTTPError, httpx2.HTTPError, OSError) as error:
        raise _explained(error, target.repository) from error


def push(target: HuggingFace, directory: Path, message: str, token_file: Path = TOKEN_FILE) -> str:
    """Make the repository hold what the folder holds; give the address of the commit.

    Files that are there already are neither sent nor committed again: a repeat changes nothing.
    Files that only the repository has stay. Raises as :func:`check_hub` does.
    """
    api = _api(token_file)
    try:
        api.create_repo(target.repository, private=target.private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=target.repository, folder_path=directory, commit_message=message
        )
    except (HfHubHTTPError, httpx2.HTTPError, OSError) as error:
        raise _explained(error, target.repository) from error
    log.info("pushed", repository=target.repository, commit=commit.oid)
    return str(commit.commit_url)


def _api(token_file: Path) -> HfApi:
    token = token_file.read_text().strip() if token_file.is_file() else ""
    if not token:
        raise UserError(
            UserErrorReason.CREDENTIALS_MISSING,
            f"output.huggingFace needs a token: put HF_TOKEN into {_WHERE}.",
        )
    return HfApi(token=token)


def _explained(error: Exception, repository: str) -> TrainerError:
    response = getattr(error, "response", None)
    status = response.status_code if response is not None else 0
    if status == 401 and not isinstance(error, RepositoryNotFoundError):
        return UserError(
            UserErrorReason.ACCESS_DENIED,
            f"The Hugging Face Hub does not accept the HF_TOKEN of {_WHERE}. Put a valid one in.",
        )
    if status in {401, 403, 404}:
        return UserError(
            UserErrorReason.OUTPUT_NOT_WRITABLE,
            f"The HF_TOKEN may not write to {repository} on the Hugging Face Hub ({status}). "
            "Correct output.huggingFace.repository, or put a token with write permission into "
            f"{_WHERE}.",
        )
    if status == 400:
        return UserError(
            UserErrorReason.INVALID_RUN,
            f"The Hugging Face Hub refuses {repository}: {shorten(str(error), 300)}",
        )
    return Infrastructure(
        "HubUnavailable",
        f"The Hugging Face Hub did not take {repository} ({type(error).__name__}:"
        f" {shorten(str(error), 200)}).",
    )
