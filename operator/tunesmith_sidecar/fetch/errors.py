"""What can go wrong on the way of a model, in one line that says what to change.

Sorts exceptions of botocore; pure. Called by ``transfer``; ``__main__`` turns a FetchError into the
termination message and an exit code.
"""

from dataclasses import dataclass

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ResponseStreamingError,
    SSLError,
)
from botocore.exceptions import ConnectionError as BotoConnectionError
from s3transfer.exceptions import RetriesExceededError

from tunesmith_api.artifacts import FetchReason

_TRANSIENT = (
    BotoConnectionError,
    HTTPClientError,
    IncompleteReadError,
    ResponseStreamingError,
    RetriesExceededError,
    ConnectionError,
    TimeoutError,
)
EXPECTED = (BotoCoreError, ClientError, RetriesExceededError, OSError)
"""All else is a bug and ends with its traceback."""
_TRANSIENT_CODES = frozenset(
    {"InternalError", "RequestTimeout", "ServiceUnavailable", "SlowDown", "Throttling"}
)
_DETAIL_CHARACTERS = 200


class FetchError(Exception):
    """The model is not here, and why."""

    def __init__(self, reason: FetchReason, sentence: str) -> None:
        super().__init__(f"{reason}: {' '.join(sentence.split())}")
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Place:
    """Whose fault it may be."""

    uri: str
    endpoint: str
    secret: str
    right: str = "s3:GetObject"
    """What is asked of S3 there."""

    def __str__(self) -> str:
        return f"{self.uri} at {self.endpoint or 'Amazon S3'}"

    @property
    def identity(self) -> str:
        """Who S3 was asked as."""
        if self.secret:
            return f"the credentials of Secret {self.secret}"
        return "the pod's own identity (engine.serviceAccountName)"


def is_transient(error: BaseException) -> bool:
    """Say whether the same request may well succeed later."""
    if isinstance(error, ClientError):
        status = _status(error)
        return _code(error) in _TRANSIENT_CODES or status in (408, 429) or status >= 500
    return isinstance(error, _TRANSIENT)


def explain(error: BaseException, place: Place) -> FetchError:
    """Give the failure that the last error at ``place`` means."""
    if isinstance(error, FetchError):
        return error
    if isinstance(error, ClientError) and not is_transient(error):
        return _refused(error, place)
    detail = f"{type(error).__name__}: {str(error)[:_DETAIL_CHARACTERS]}"
    if isinstance(error, (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError)):
        return FetchError(
            FetchReason.CREDENTIALS_MISSING,
            f"there are no S3 credentials for {place} ({detail}). Set spec.s3.secretRef, or"
            " engine.serviceAccountName to an account that S3 knows",
        )
    if isinstance(error, OSError) and not is_transient(error):
        return FetchError(FetchReason.DISK_FAILED, f"the model cannot be written: {detail}")
    check = (
        "Its certificate is not trusted: set the chart's caBundle"
        if isinstance(error, SSLError)
        else "If this stays, check spec.s3.endpoint and the network"
    )
    return FetchError(
        FetchReason.STORAGE_UNAVAILABLE, f"S3 did not answer for {place} ({detail}). {check}"
    )


def _refused(error: ClientError, place: Place) -> FetchError:
    code, status = _code(error), _status(error)
    if code == "NoSuchBucket":
        return FetchError(
            FetchReason.BUCKET_NOT_FOUND,
            f"the bucket of {place} does not exist. Correct the model's URI, or spec.s3.endpoint"
            " and spec.s3.region",
        )
    if code in ("NoSuchKey", "404", "NotFound"):
        return FetchError(
            FetchReason.MODEL_NOT_FOUND,
            f"there is nothing at {place}. Correct the model's URI, or upload it there",
        )
    # versitygw's word for a key that it does not know comes with 404.
    if status in (401, 403) or code in ("XAdminUserNotFound", "InvalidAccessKeyId"):
        return FetchError(
            FetchReason.ACCESS_DENIED,
            f"S3 refused {place.identity} for {place} ({code or status}). Check keys, endpoint and"
            f" the bucket's policy; {place.right} is needed",
        )
    return FetchError(FetchReason.STORAGE_UNAVAILABLE, f"{place}: {code} ({status})")


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
