"""What a revision is: all that its pods are made from, resolved and immutable.

Kept in the revision's ConfigMap, so that a stable revision can be made again after the spec has
moved on. Hashed by planning, read by builders of manifests and by the sidecar.
"""

import re
from typing import Annotated, Literal

from pydantic import Field

from tunesmith_api.engine import Engine
from tunesmith_api.meta import Digest, S3Uri, ShortText, Spec
from tunesmith_api.modeldeployment import Delivery
from tunesmith_api.sidecar import Access, ConversationLog
from tunesmith_api.training import S3Options

REVISION_VERSION: Literal["tunesmith.dev/revision.v1"] = "tunesmith.dev/revision.v1"


class ModelFiles(Spec):
    """Files of a model in S3, by the digest of their manifest."""

    uri: S3Uri
    """s3://BUCKET/PREFIX/ that holds them and their manifest.json."""
    digest: Digest
    """sha256 of manifest.json."""


class RevisionTemplate(Spec):
    """Everything that makes a revision what it is."""

    schema_version: Literal["tunesmith.dev/revision.v1"] = REVISION_VERSION
    """Format of this record."""
    version: ShortText = ""
    """ModelVersion it serves. Not part of the digest: the same files are the same revision."""
    model: ModelFiles
    """The model, or the adapter."""
    base_model_uri: Annotated[str, Field(max_length=1024)] = ""
    """Base model of an adapter."""
    base_model_revision: ShortText = ""
    """Its commit or digest."""
    delivery: Delivery
    """How it reaches the pods."""
    engine: Engine
    """What answers requests."""
    access: Access | None = None
    """Who may ask."""
    conversation_log: ConversationLog | None = None
    """Where conversations are written down."""
    s3: S3Options | None = None
    """How to reach S3."""

    @property
    def base_listing(self) -> str:
        """Digest of the base model's listing in S3; empty where there is none to compare with."""
        is_digest = re.fullmatch(r"sha256:[0-9a-f]{64}", self.base_model_revision)
        return self.base_model_revision if self._is_base_in_s3 and is_digest else ""

    @property
    def is_base_known(self) -> bool:
        """Whether it is pinned which base model the pods load, by a commit or by a digest."""
        return bool(self.base_listing if self._is_base_in_s3 else self.base_model_revision)

    @property
    def _is_base_in_s3(self) -> bool:
        return self.base_model_uri.startswith("s3://")
