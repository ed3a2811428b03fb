"""The fetcher's settings: environment variables, parsed once at the start.

Only types and the parser. A field ``uri`` is the variable TUNESMITH_FETCH_URI; an unknown variable
with the prefix is an error. Written by the operator's builders, read by ``__main__``.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from tunesmith_api.meta import Digest, S3Uri
from tunesmith_process.settings import LogLevel, ProcessSettings, parse_variables
from tunesmith_sidecar.settings import S3Url

PREFIX = "TUNESMITH_FETCH_"


class FetchSettings(ProcessSettings):
    """All that the fetcher is told from outside."""

    uri: S3Uri
    """s3://BUCKET/PREFIX/ that holds the files and their manifest.json."""
    digest: Digest
    """sha256 of manifest.json."""
    folder: Path
    """Where the files go. What is there and verifies is not fetched again."""
    digest_file: Path
    """Where the digest is written once everything has been verified; the sidecar waits for it."""
    base_uri: S3Uri | None = None
    """Base model of an adapter, which the engine loads by itself. None: nothing is compared."""
    base_digest: Digest | None = None
    """Digest of that model's listing when the adapter was trained; given with its URI."""
    gguf_link: Path | None = None
    """Link that is to lead to the model's one GGUF file, whatever that is called. None: none."""
    endpoint: S3Url = ""
    """S3 endpoint. Empty: Amazon's."""
    region: str = "us-east-1"
    """S3 region."""
    path_style: bool = False
    """Whether the bucket is a part of the path."""
    credentials_dir: Path | None = None
    """Folder with the keys of a mounted Secret. None: the pod's own identity."""
    secret: str = ""
    """Name of that Secret, for messages."""
    termination_file: Path = Path("/dev/termination-log")
    """Where the one line about a failure is left for the operator."""
    patience_seconds: Annotated[float, Field(ge=0, le=3600)] = 300.0
    """How long an S3 that does not answer is waited for, each time."""
    revision: str = ""
    """Revision of the ModelDeployment, for the log."""
    log_level: LogLevel = "INFO"
    """Of the log."""

    @model_validator(mode="after")
    def _check_pairs(self) -> Self:
        if (self.base_uri is None) != (self.base_digest is None):
            raise ValueError("base_uri and base_digest are given together or not at all")
        return self


def parse_fetch_settings(environment: Mapping[str, str]) -> FetchSettings:
    """Parse the variables with our prefix. Raises SettingsError."""
    return parse_variables(FetchSettings, PREFIX, environment, {})
