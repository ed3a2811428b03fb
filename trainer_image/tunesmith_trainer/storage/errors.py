"""What S3's errors mean: for us, and for the person who must change something.

Pure: sorts exceptions, raises nothing by itself, calls nobody.
"""

from dataclasses import dataclass
from typing import Literal

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionClosedError,
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ReadTimeoutError,
    ResponseStreamingError,
    SSLError,
)
from botocore.exceptions import ConnectionError as BotoConnectionError
from s3transfer.exceptions import RetriesExceededError, S3DownloadFailedError

from tunesmith_api.result import UserErrorReason
from tunesmith_trainer.outcome import Infrastructure, UserError, shorten

Role = Literal["model", "dataset", "output"]

_TRANSIENT_TYPES = (
    BotoConnectionError,
    HTTPClientError,
    ConnectionClosedError,
    ReadTimeoutError,
    IncompleteReadError,
    ResponseStreamingError,
    RetriesExceededError,
    ConnectionError,
    TimeoutError,
)
_TRANSIENT_CODES = frozenset(
    {
        "InternalError",
        "OperationAborted",
        "RequestTimeout",
        "RequestTimeoutException",
        "ServiceUnavailable",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TooManyRequests",
        "BadDigest",
    }
)
_IDENTITY_CODES = frozenset(
    {
        "ExpiredToken",
        "InvalidAccessKeyId",
        "InvalidToken",
        "SignatureDoesNotMatch",
        "XAdminUserNotFound",  # versitygw's word for an access key that it does not know
    }
)
_DENIED_CODES = _IDENTITY_CODES | {
    "AccessDenied",
    "AccountProblem",
    "AllAccessDisabled",
    "AuthorizationHeaderMalformed",
    "Forbidden",
}
_ABSENT_CODES = frozenset({"NoSuchKey", "NotFound", "404"})


class Conflict(Exception):
    """A conditional write found another state than the one it was conditional on."""


class NotFound(Exception):
    """There is no such key. Becomes a UserError by :func:`absent` where a person named the key."""


class ConditionsUnsupported(Exception):
    """The server does not know conditional writes."""


@dataclass(frozen=True)
class Place:
    """Where something failed."""

    role: Role
    endpoint: str
    bucket: str
    key: str = ""
    secret: str = ""

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key} at {self.endpoint or 'Amazon S3'}"


def code_of(error: BaseException) -> str:
    """Return the S3 error code, or the HTTP status where the answer had no body."""
    return (
        str(error.response.get("Error", {}).get("Code", ""))
        if isinstance(error, ClientError)
        else ""
    )


def status_of(error: BaseException) -> int:
    """Return the HTTP status of a refused request, or 0."""
    if not isinstance(error, ClientError):
        return 0
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def is_transient(error: BaseException) -> bool:
    """Say whether the same request may well succeed later."""
    if isinstance(error, ClientError):
        return code_of(error) in _TRANSIENT_CODES or status_of(error) in (
            408,
            429,
            500,
            502,
            503,
            504,
        )
    return isinstance(error, _TRANSIENT_TYPES)


def is_denied(error: BaseException) -> bool:
    """Say whether the server refused the credentials or their permissions."""
    return code_of(error) in _DENIED_CODES or status_of(error) in (401, 403)


def is_identity(error: BaseException) -> bool:
    """Say whether the server does not accept the keys at all, whatever they ask for."""
    return code_of(error) in _IDENTITY_CODES


def is_absent(error: BaseException) -> bool:
    """Say whether the key is not there."""
    return code_of(error) in _ABSENT_CODES


def explain(error: BaseException, place: Place) -> BaseException:
    """Turn what botocore raised at ``place`` into what the trainer raises.

    Conflict, NotFound and ConditionsUnsupported are for callers inside the trainer; all others
    are TrainerErrors. An error of another kind is given back as it is.
    """
    code, status = code_of(error), status_of(error)
    named: BaseException | None = None
    # s3transfer's word for a part that is no longer of the object that was listed.
    is_other = isinstance(error, S3DownloadFailedError) or status == 412
    if is_other or code in ("PreconditionFailed", "ConditionalRequestConflict"):
        named = Conflict(str(place))
    elif code == "NotImplemented" or status == 501:
        named = ConditionsUnsupported(str(place))
    elif code == "NoSuchBucket":
        named = bucket_missing(place)
    elif is_absent(error):
        named = NotFound(str(place))
    elif is_denied(error):
        named = denied(place, code)
    return named or _without_answer(error, place)


def _without_answer(error: BaseException, place: Place) -> BaseException:
    if isinstance(error, (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError)):
        return no_identity(place.role)
    if is_transient(error):
        return unavailable(place, error)
    if isinstance(error, (ClientError, BotoCoreError)):
        return Infrastructure(
            "StorageFailed", f"{place}: {type(error).__name__}: {shorten(str(error), 300)}"
        )
    return error


def bucket_missing(place: Place) -> UserError:
    """Say that the bucket is not there."""
    return UserError(
        UserErrorReason.BUCKET_NOT_FOUND,
        f"Bucket {place.bucket} ({place.role}) does not exist at {place.endpoint or 'Amazon S3'}."
        f" Correct {_FIELDS[place.role]}, or spec.s3.endpoint and spec.s3.region, or create it.",
    )


def absent(place: Place, what: str = "") -> UserError:
    """Say that what a person named is not there; the reason follows the role."""
    reason = (
        UserErrorReason.MODEL_NOT_FOUND
        if place.role == "model"
        else UserErrorReason.DATASET_NOT_FOUND
    )
    return UserError(
        reason,
        f"{what or 'Nothing'} found at {place}. Correct {_FIELDS[place.role]}, or upload it there.",
    )


def changed(place: Place) -> Infrastructure:
    """Say that an object is not the one that was listed: two halves must not become one file."""
    return Infrastructure(
        "ObjectChanged",
        f"An object at {place} changed while it was read. Write new data under a new key, and"
        " leave it alone while a job reads it.",
    )


def denied(place: Place, code: str) -> UserError:
    """Say that S3 refused, with what to check."""
    who = (
        f"the credentials of Secret {place.secret}"
        if place.secret
        else "the pod's own identity (compute.serviceAccountName)"
    )
    check = {
        "InvalidAccessKeyId": "The server does not know AWS_ACCESS_KEY_ID",
        "SignatureDoesNotMatch": "AWS_SECRET_ACCESS_KEY does not belong to AWS_ACCESS_KEY_ID",
        "ExpiredToken": "AWS_SESSION_TOKEN has expired",
    }.get(code, "Check keys, endpoint and the bucket's policy")
    return UserError(
        UserErrorReason.ACCESS_DENIED,
        f"S3 refused {who} for {place} ({code or 'Forbidden'}). {check};"
        f" the {place.role} needs {_NEEDS[place.role]}.",
    )


def no_identity(role: Role) -> UserError:
    """Say that there are no credentials at all."""
    return UserError(
        UserErrorReason.CREDENTIALS_MISSING,
        f"No S3 credentials for the {role}: no Secret is named and the pod has no identity of its"
        " own. Set spec.s3.secretRef.name to a Secret with AWS_ACCESS_KEY_ID and"
        " AWS_SECRET_ACCESS_KEY, or compute.serviceAccountName to an account that S3 knows.",
    )


def unavailable(place: Place, error: BaseException) -> Infrastructure:
    """Say that S3 could not be reached, or kept failing."""
    check = (
        "Its certificate is not trusted: set the chart's caBundle"
        if isinstance(error, SSLError)
        else "If this stays, check spec.s3.endpoint and the network"
    )
    return Infrastructure(
        "StorageUnavailable",
        f"S3 did not answer for {place} ({type(error).__name__}: {shorten(str(error), 200)})."
        f" {check}.",
    )


_FIELDS: dict[Role, str] = {
    "model": "spec.model.uri",
    "dataset": "the URI in spec.dataset",
    "output": "spec.output.uri",
}
_NEEDS: dict[Role, str] = {
    "model": "s3:ListBucket and s3:GetObject",
    "dataset": "s3:ListBucket and s3:GetObject",
    "output": "s3:ListBucket, s3:GetObject, s3:PutObject and s3:DeleteObject",
}
