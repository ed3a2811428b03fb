"""How a model is stored in S3, and how its fetcher says why it could not be had.

A directory is complete or not there: files first, ``manifest.json`` with the sha256 of each last.
The digest of that manifest names the model everywhere. Written by the trainer, read by it and by
the fetcher of serving pods. Not part of any resource.
"""

from enum import StrEnum
from typing import Literal

from pydantic import Field

from tunesmith_api.meta import Digest, Status

MANIFEST = "manifest.json"


class FileEntry(Status):
    """One file of a manifest."""

    path: str
    """Relative to the manifest's folder, with forward slashes."""
    sha256: Digest
    size_bytes: int


class Manifest(Status):
    """What a complete directory holds."""

    version: Literal[1] = 1
    attempt: int
    files: tuple[FileEntry, ...]
    extra: dict[str, str] = Field(default_factory=dict)
    """What the writer wants a reader to know before it fetches anything."""


class FetchReason(StrEnum):
    """Why a serving pod has no model: the first word of the fetcher's termination message.

    ``REASON: sentence``. Only MODEL_REFUSED is final: what is in S3 is not what was asked for and
    never will be, because it was asked for by digest. All others may pass by themselves or be
    mended from outside.
    """

    MODEL_REFUSED = "ModelRefused"
    MODEL_NOT_FOUND = "ModelNotFound"
    BUCKET_NOT_FOUND = "BucketNotFound"
    ACCESS_DENIED = "AccessDenied"
    CREDENTIALS_MISSING = "CredentialsMissing"
    STORAGE_UNAVAILABLE = "StorageUnavailable"
    DISK_FAILED = "DiskFailed"
    SETTINGS_INVALID = "SettingsInvalid"


def refusal(message: str) -> str:
    """Give the sentence after ModelRefused in a termination message; empty for any other."""
    reason, _, sentence = message.strip().partition(": ")
    return sentence if reason == FetchReason.MODEL_REFUSED else ""
