"""The sidecar's settings.

Only types and the parser; nothing here reads the environment itself. A field ``engine_url`` is the
variable TUNESMITH_SIDECAR_ENGINE_URL and the option --engine-url. Read by ``main``; everybody else
gets :class:`Settings`.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, SecretStr, model_validator

from tunesmith_api.meta import Digest, S3Uri
from tunesmith_api.sidecar import HeaderName
from tunesmith_process.settings import LogLevel, ProcessSettings, add_options, parse_variables

PREFIX = "TUNESMITH_SIDECAR_"

HttpUrl = Annotated[str, Field(max_length=512, pattern=r"^https?://[^\s/?#]+/?$")]
Path_ = Annotated[str, Field(max_length=256, pattern=r"^/[^\s?#]*$")]
S3Url = Annotated[str, Field(pattern=r"^(https?://[^\s/]+/?)?$")]
Port = Annotated[int, Field(ge=0, le=65_535)]


class Settings(ProcessSettings):
    """All that the sidecar is told from outside."""

    revision: Annotated[str, Field(max_length=63, pattern=r"^[A-Za-z0-9._-]+$")]
    """Revision of the ModelDeployment that this pod serves; label of all metrics."""
    engine_url: HttpUrl = "http://127.0.0.1:8080"
    """Where the engine listens, without a path."""
    engine_ready_path: Path_ = "/v1/models"
    """Path that the engine answers with 200 once the model is loaded; /health for llama-server,
    which lists its models before it has loaded them."""
    engine_logprobs: bool = True
    """Whether the engine takes the parameter logprobs. Without it confidence is always null."""
    model_name: Annotated[str, Field(max_length=256)] = ""
    """Model that /api/v1/predict names to the engine. Empty: none, for engines with just one."""
    served_model: Annotated[str, Field(max_length=256)] = ""
    """Model that clients ask for where the engine has others too: requests for it, or for none, are
    asked of model_name, and for any other there is a 404. Empty: bodies pass as they are."""
    model_digest: Digest | None = None
    """Digest that must be loaded before the pod is ready."""
    model_digest_file: Path | None = None
    """File in which the model fetcher left the digest of what it has verified."""
    host: str = "0.0.0.0"  # noqa: S104  a pod's own network namespace
    """Address to listen on."""
    port: Port = 8000
    """Port to listen on. 0: any free one."""
    max_concurrent_requests: Annotated[int, Field(ge=1, le=100_000)] = 100
    """Requests at the same time; more are refused with 429."""
    retry_after_seconds: Annotated[int, Field(ge=1, le=3600)] = 1
    """What a refused client is told to wait."""
    request_timeout_seconds: Annotated[float, Field(gt=0, le=86_400)] = 30.0
    """For a whole answer; of a stream for its first byte and then for each pause in it."""
    max_body_bytes: Annotated[int, Field(ge=1, le=1 << 30)] = 4 << 20
    """Size of a request's body, in bytes; more is refused with 413."""
    api_key: SecretStr | None = None
    """Key that clients must send as a Bearer token. Prefer a file."""
    api_key_file: Path | None = None
    """File with one accepted key a line; read again when it changes, so that keys can rotate."""
    analysis_token_digest: Digest | None = None
    """sha256 of the token that the operator's analysis sends instead of a key. None: it is refused.
    The token itself is not here: who may read pods must not get past the keys."""
    adapters_folder: Path | None = None
    """Folder for adapters that the operator has this pod load and unload while it runs, each served
    on a port of its own. None: one model, which is there from the start."""
    adapters_token_digest: Digest | None = None
    """sha256 of the token that the operator sends to say which adapters; needed with the folder."""
    adapters_base_model: Annotated[str, Field(max_length=1024)] = ""
    """URI of the engine's model; adapters that say that they are of another are refused. Empty: all
    are taken."""
    adapters_base_digest: Digest | None = None
    """Digest of that model's listing in S3 when the adapters were trained; an adapter is loaded
    only while it is the same. None: it is not compared."""
    adapters_endpoint: S3Url = ""
    """S3 endpoint of adapters. Empty: Amazon's."""
    adapters_region: str = "us-east-1"
    """S3 region of adapters."""
    adapters_path_style: bool = False
    """Whether the bucket is a part of the path."""
    adapters_credentials_dir: Path | None = None
    """Folder with the keys of a mounted Secret. None: the pod's own identity."""
    adapters_secret: str = ""
    """Name of that Secret, for messages."""
    session_header: HeaderName = "x-conversation-id"
    """Header that names the conversation a request belongs to."""
    pre_stop_seconds: Annotated[float, Field(ge=0, le=600)] = 5.0
    """Time after SIGTERM in which new requests are still served: what routers need to notice."""
    drain_timeout_seconds: Annotated[float, Field(ge=0, le=86_400)] = 60.0
    """Longest wait for requests in flight after that."""
    log_uri: S3Uri | None = None
    """Where conversations are logged, as s3://BUCKET/PREFIX/. None: nowhere."""
    log_endpoint: S3Url = ""
    """S3 endpoint of the log. Empty: Amazon's."""
    log_region: str = "us-east-1"
    """S3 region of the log."""
    log_path_style: bool = False
    """Whether the bucket is a part of the path, as most S3 servers but Amazon's want it."""
    log_credentials_dir: Path | None = None
    """Folder with the keys of a mounted Secret. None: the pod's own identity."""
    log_flush_seconds: Annotated[float, Field(gt=0, le=3600)] = 60.0
    """Time after which logged conversations are written."""
    log_flush_bytes: Annotated[int, Field(ge=1, le=1 << 28)] = 1 << 20
    """Size from which they are written earlier, in bytes."""
    log_buffer_bytes: Annotated[int, Field(ge=1, le=1 << 30)] = 16 << 20
    """Memory that waiting conversations may take, in bytes; more are dropped and counted."""
    log_level: LogLevel = "INFO"
    """Of the sidecar's own log, which never holds text of a conversation."""

    @model_validator(mode="after")
    def _belongs_together(self) -> Self:
        if (self.model_digest is None) != (self.model_digest_file is None):
            raise ValueError("model_digest and model_digest_file are given together or not at all")
        if (self.adapters_folder is None) != (self.adapters_token_digest is None):
            raise ValueError("adapters_folder and adapters_token_digest are given together")
        if self.api_key is not None and self.api_key_file is not None:
            raise ValueError("give api_key or api_key_file, not both")
        if self.api_key is not None and not self.api_key.get_secret_value().strip():
            raise ValueError("api_key is empty; leave it out to serve without a key")
        if self.log_buffer_bytes < self.log_flush_bytes:
            raise ValueError("log_buffer_bytes must not be below log_flush_bytes")
        return self


def parse_settings(environment: Mapping[str, str], arguments: Sequence[str]) -> Settings:
    """Parse the variables with our prefix and the command line. Raises SettingsError."""
    parser = argparse.ArgumentParser(
        prog="tunesmith-sidecar",
        description=f"The proxy before an inference engine. --some-option is {PREFIX}SOME_OPTION.",
        argument_default=argparse.SUPPRESS,
    )
    # A key on the command line could be read by everybody on the machine.
    add_options(parser, Settings, without=["api_key"])
    return parse_variables(Settings, PREFIX, environment, vars(parser.parse_args(arguments)))
