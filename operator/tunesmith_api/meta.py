"""What all resources share: parsing rules, bounded strings, CEL rules, conditions, metadata.

Called by every other module of the contract. Holds no field of a particular kind.
"""

from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

_SHARED = ConfigDict(
    alias_generator=to_camel,
    populate_by_name=True,
    frozen=True,
    use_attribute_docstrings=True,
)


class Spec(BaseModel):
    """A piece of desired state: unknown fields are an error, so a typing mistake never passes."""

    model_config = ConfigDict(**_SHARED, extra="forbid")


class Status(BaseModel):
    """A piece of observed state: unknown fields are ignored.

    An operator that was rolled back must still read what a newer one wrote.
    """

    model_config = ConfigDict(**_SHARED, extra="ignore")


class Rule(NamedTuple):
    """One CEL rule of the CRD and the sentence a user reads when it refuses."""

    rule: str
    message: str


def cel(*rules: Rule) -> dict[str, Any]:
    """Give the JSON-schema extension that carries ``rules`` into the CRD."""
    return {"x-kubernetes-validations": [r._asdict() for r in rules]}


def section(**extra: Any) -> dict[str, Any]:
    """Mark an object whose fields all have defaults.

    The API server fills nested defaults only where the object itself has one.
    """
    return {"default": {}, **extra}


IMMUTABLE = Rule(
    "self == oldSelf",
    "is immutable: it is an input of the run; create a new object to train with another value",
)
NO_PARENT = Rule("!self.contains('..')", "must not contain '..'")
# A type of its own for runs without a cluster would double every section above it.
IN_CLUSTER = Rule(
    "!self.startsWith('file:')",
    "file:// is for runs without a cluster: a pod has no files of yours",
)

# What a cloud's metadata service answers is no data, score or metric, and it may hold credentials.
NO_METADATA_SERVICE = Rule(
    "!self.contains('169.254.') && !self.contains('metadata.google')"
    " && !self.contains('[fd00:ec2')",
    "must not point at a cloud's metadata service",
)

DECIMAL_PATTERN = r"^-?[0-9]{1,18}(\.[0-9]{1,18})?([eE]-?[0-9]{1,2})?$"
URI_TAIL = r"[A-Za-z0-9][A-Za-z0-9._~!@+=,/ -]*"
BUCKET = r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]"
CLAIM = r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?"
LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
SUBDOMAIN = rf"{LABEL}(\.{LABEL})*"


def _finite(text: str) -> str:
    Decimal(text)
    return text


# Decimals are strings: a float changes on its way through JSON, and a diff would never end.
DecimalText = Annotated[str, Field(pattern=DECIMAL_PATTERN, max_length=40), AfterValidator(_finite)]
Text = Annotated[str, Field(max_length=1024)]
ShortText = Annotated[str, Field(max_length=256)]
Name = Annotated[str, Field(max_length=63, pattern=rf"^{SUBDOMAIN}$")]
ChannelName = Annotated[str, Field(max_length=63, pattern=rf"^{LABEL}$")]
OptionalName = Annotated[str, Field(max_length=253, pattern=rf"^({SUBDOMAIN})?$")]
# Part of the name of a ModelVersion.
VersionName = Annotated[str, Field(max_length=32, pattern=rf"^{SUBDOMAIN}$")]
OptionalVersion = Annotated[str, Field(max_length=32, pattern=rf"^({SUBDOMAIN})?$")]
Quantity = Annotated[
    str,
    Field(max_length=32, pattern=r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti|P|Pi)?$"),
]
Digest = Annotated[str, Field(max_length=71, pattern=r"^sha256:[0-9a-f]{64}$")]
# What a float holds exactly: JSON has no other numbers.
Count = Annotated[int, Field(ge=0, le=2**53)]
Seconds = Annotated[int, Field(ge=0, le=31_536_000)]
S3Uri = Annotated[
    str,
    Field(
        max_length=1024,
        pattern=rf"^s3://{BUCKET}(/|/{URI_TAIL})?$",
        json_schema_extra=cel(NO_PARENT),
    ),
]
ObjectUri = Annotated[
    str,
    Field(
        max_length=1024,
        pattern=rf"^(s3://{BUCKET}/{URI_TAIL}|file:///.+)$",
        json_schema_extra=cel(NO_PARENT, IN_CLUSTER),
    ),
]
# What is made of an output's URI.
ArtifactUri = Annotated[
    str, Field(max_length=1024, pattern=rf"^(s3://{BUCKET}(/|/{URI_TAIL})?|file:///.+)$")
]
ArtifactFormat = Annotated[str, Field(max_length=32, pattern=r"^[A-Z][A-Za-z0-9]*$")]
OutputUri = Annotated[
    str,
    Field(
        # The run's own names come behind it, and several of the results must fit into the 4 KiB
        # that a pod can say when it ends.
        max_length=220,
        pattern=rf"^(s3://{BUCKET}(/|/{URI_TAIL})?|file:///.+)$",
        json_schema_extra=cel(NO_PARENT, IN_CLUSTER),
    ),
]
DataUri = Annotated[
    str,
    Field(
        max_length=1024,
        pattern=rf"^((s3://{BUCKET}|pvc://{CLAIM})/{URI_TAIL}"
        rf"|hf://datasets/[A-Za-z0-9][A-Za-z0-9._-]*/{URI_TAIL}|file:///.+)$",
        json_schema_extra=cel(
            NO_PARENT,
            # A type of its own for runs without a cluster would double every section above it.
            Rule(
                "!self.startsWith('file:')",
                "file:// is for runs without a cluster: a pod has no files of yours; use s3://,"
                " pvc:// or hf://",
            ),
        ),
    ),
]
ModelUri = Annotated[
    str,
    Field(
        max_length=1024,
        pattern=rf"^((s3://{BUCKET}|pvc://{CLAIM})(/|/{URI_TAIL})?|hf://{URI_TAIL}|builtin://tiny"
        r"|file:///.+)$",
        json_schema_extra=cel(NO_PARENT, IN_CLUSTER),
    ),
]
HttpUrl = Annotated[
    str,
    Field(
        max_length=512,
        pattern=r"^https?://[A-Za-z0-9\[][A-Za-z0-9.:\[\]_-]*(/[A-Za-z0-9._~!$&'()*+,;=:@%/?-]*)?$",
        json_schema_extra=cel(NO_METADATA_SERVICE),
    ),
]


class SecretRef(Spec):
    """A Secret in the namespace of the object."""

    name: Name
    """Name of the Secret. For S3 its keys are AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, if
    there is one, AWS_SESSION_TOKEN; for the Hugging Face Hub HF_TOKEN."""


class ConditionStatus(StrEnum):
    """Unknown is not False: it says that nobody looked yet, or that the view is blocked."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Condition(Status):
    """A `metav1.Condition`."""

    type: Annotated[str, Field(max_length=316)]
    """What the condition is about, in CamelCase."""
    status: ConditionStatus
    """True, False or Unknown."""
    reason: Annotated[str, Field(max_length=1024, min_length=1)]
    """Why, as one CamelCase word; docs/conditions.md lists them all."""
    message: Annotated[str, Field(max_length=32768)] = ""
    """Why, as a sentence that says what to change if something is to be changed."""
    observed_generation: Annotated[int, Field(ge=0)] = 0
    """The metadata.generation that this was said of."""
    last_transition_time: datetime
    """When status last changed."""


class OwnerReference(Status):
    """As much of a `metav1.OwnerReference` as ownership checks need."""

    kind: str
    name: str
    uid: str
    controller: bool = False


class ObjectMeta(Status):
    """As much of `metav1.ObjectMeta` as the operator decides on."""

    name: str
    namespace: str = "default"
    uid: str = ""
    generation: int = 0
    resource_version: str = ""
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    owner_references: tuple[OwnerReference, ...] = ()


def exactly_one(*names: str) -> Rule:
    """Give the rule that says that just one member of a union is set."""
    count = " + ".join(f"(has(self.{name}) ? 1 : 0)" for name in names)
    return Rule(f"{count} == 1", f"set exactly one of {', '.join(names)}")
