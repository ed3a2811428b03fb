"""ModelVersion: an immutable, digest-addressed model with its whole lineage.

Made by a FineTuneJob whose gates have passed, or by hand for a model trained elsewhere.
"""

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field

from tunesmith_api.meta import (
    ArtifactFormat,
    ChannelName,
    Condition,
    Digest,
    Name,
    ObjectMeta,
    Rule,
    S3Uri,
    ShortText,
    Spec,
    Status,
    Text,
    VersionName,
    cel,
)

METRIC_PATTERN = r"^-?[0-9.]+([eE][-+]?[0-9]{1,3})?$"
MetricValue = Annotated[str, Field(max_length=40, pattern=METRIC_PATTERN)]


class Artifact(Spec):
    """A form in which the model is stored."""

    format: ArtifactFormat
    """Merged (a complete model), GGUF (a complete model for llama.cpp) or Adapter."""
    uri: S3Uri
    """s3://BUCKET/PREFIX/ that holds the files and their manifest.json."""
    digest: Digest
    """sha256 of manifest.json, which holds the sha256 of every file."""
    size_bytes: Annotated[int, Field(ge=0)]
    """Size of all files."""
    added_tokens: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """Of an Adapter: the tokens of dataset.addTokens and addSpecialTokens, which its base model
    lacks. With any it cannot be served by delivery Adapter. Complete models have them in place."""


class BaseModelRef(Spec):
    """The model it was made from."""

    uri: Annotated[str, Field(max_length=1024)]
    """As in the job."""
    revision: ShortText = ""
    """Commit or digest that was used."""


class Lineage(Spec):
    """How it was made."""

    job: ShortText = ""
    """NAMESPACE/NAME of the FineTuneJob."""
    job_uid: ShortText = ""
    """Its uid."""
    dataset_digest: Digest | None = None
    """sha256 over the cleaned, split data."""
    prompt_version: ShortText = ""
    """Version of dataset.prompt that the rows were shown with; empty without one."""
    template_date: ShortText = ""
    """Day that the rows showed, YYYY-MM-DD, where the model's chat template shows the present one;
    else empty."""
    synthetic_rows: Annotated[int, Field(ge=0)] = 0
    """Rows trained on that dataset.synthetic had made up."""
    trainer_image: Annotated[str, Field(max_length=512)] = ""
    """Image of the trainer."""
    report_uri: Text = ""
    """The run's report.json."""
    report_digest: Digest | None = None
    """Its sha256."""
    parent: ShortText = ""
    """ModelVersion of the same model whose artifact it was trained from. Empty: none."""


class VersionMetric(Spec):
    """A measured value."""

    name: Annotated[str, Field(max_length=128)]
    """SUITE/METRIC."""
    value: MetricValue
    """Of this model."""
    base_value: MetricValue | None = None
    """Of the base model."""


class ModelArchitecture(Spec):
    """What kind of model it is."""

    family: ShortText = ""
    """model_type of the configuration."""
    layers: Annotated[int, Field(ge=0, le=10_000)] = 0
    """Number of layers."""
    hidden_size: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """Width of the hidden states."""
    vocabulary_size: Annotated[int, Field(ge=0, le=10_000_000)] = 0
    """Number of tokens."""


class Offer(Spec):
    """The ModelDeployment that a job offered the version to when it made it."""

    deployment: Name
    """Name of the ModelDeployment."""
    channel: ChannelName
    """The channel that it followed then; one of tags."""


class ModelVersionSpec(Spec):
    """A model, by digest."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            Rule(
                "self == oldSelf",
                "a ModelVersion is immutable: create another one with a new version",
            ),
            Rule(
                "!has(self.offeredTo) || self.tags.exists(t, t == self.offeredTo.channel)",
                "offeredTo.channel must be among tags: the tag is what a ModelDeployment follows",
            ),
        )
    )

    model: Annotated[str, Field(max_length=50, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
    """Name of the model this is a version of."""
    version: VersionName
    """Version within the model."""
    artifacts: Annotated[tuple[Artifact, ...], Field(min_length=1, max_length=8)] = Field(
        json_schema_extra={
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["format"],
        }
    )
    """The forms in which it is stored."""
    base_model: BaseModelRef | None = None
    """The model it was made from."""
    lineage: Lineage | None = None
    """How it was made."""
    metrics: Annotated[tuple[VersionMetric, ...], Field(max_length=32)] = Field(
        default=(),
        json_schema_extra={
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["name"],
        },
    )
    """What was measured."""
    parameters: Annotated[int, Field(ge=0)] = 0
    """Number of parameters."""
    context_length: Annotated[int, Field(ge=0, le=100_000_000)] = 0
    """Longest context, in tokens."""
    architecture: ModelArchitecture | None = None
    """What kind of model it is."""
    description: Text = ""
    """For people."""
    tags: Annotated[tuple[Annotated[str, Field(max_length=63)], ...], Field(max_length=32)] = Field(
        default=(), json_schema_extra={"x-kubernetes-list-type": "set"}
    )
    """For people and tools. A ModelDeployment with source.channel follows the newest version of the
    model that has the channel among its tags."""
    offered_to: Offer | None = None
    """Where the job offered it, by the tag it got for that. Absent: nowhere. What the deployment
    follows later changes nothing here."""
    license: ShortText = ""
    """SPDX identifier."""


class UseRole(StrEnum):
    """What a ModelVersion is to a ModelDeployment."""

    SOURCE = "Source"
    STABLE = "Stable"
    CANARY = "Canary"
    PREVIOUS = "Previous"


class VersionUser(Status):
    """A ModelDeployment that uses the version."""

    name: Name
    """Its name."""
    roles: Annotated[tuple[UseRole, ...], Field(max_length=4)] = ()
    """Source: spec.source.modelVersion names it. Stable, Canary, Previous: a revision of it with
    that part has pods."""


class ModelVersionStatus(Status):
    """What the operator knows of it."""

    observed_generation: Annotated[int, Field(ge=0)] = 0
    """The metadata.generation this status speaks of."""
    conditions: Annotated[tuple[Condition, ...], Field(max_length=16)] = Field(
        default=(),
        json_schema_extra={
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["type"],
        },
    )
    """Verified: whether its making, and so its digests, is vouched for by a run's report. InUse:
    whether a ModelDeployment serves it or names it."""
    used_by: Annotated[tuple[VersionUser, ...], Field(max_length=64)] = Field(
        default=(),
        json_schema_extra={
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["name"],
        },
    )
    """The ModelDeployments that use it, by name; the first 64."""


class ModelVersion(Status):
    """An immutable model with its lineage."""

    PLURAL: ClassVar[str] = "modelversions"
    KIND: ClassVar[str] = "ModelVersion"

    metadata: ObjectMeta
    spec: ModelVersionSpec
    """The model, by digest."""
    status: ModelVersionStatus = Field(default_factory=ModelVersionStatus)
    """What is known of it."""
