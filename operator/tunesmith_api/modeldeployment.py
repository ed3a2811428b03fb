"""ModelDeployment: serve a model, move traffic to a new one step by step, go back by itself.

The description of each field is what `kubectl explain` prints. Nothing here is immutable: a
change of source, delivery, engine, access, conversationLog or s3 is a new revision and is rolled
out; other changes are followed in place.
"""

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field

from tunesmith_api.deploymentstatus import ModelDeploymentStatus
from tunesmith_api.engine import Engine, Routing
from tunesmith_api.meta import (
    ChannelName,
    Digest,
    Name,
    ObjectMeta,
    Rule,
    S3Uri,
    Spec,
    Status,
    cel,
    exactly_one,
    section,
)
from tunesmith_api.rollout import Rollout
from tunesmith_api.sidecar import Access, ConversationLog
from tunesmith_api.training import S3Options

ModelName = Annotated[str, Field(max_length=50, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]


class ModelReference(Spec):
    """Which model is served: a ModelVersion, a model's channel, or files by digest."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            exactly_one("modelVersion", "model", "uri"),
            Rule("has(self.model) == has(self.channel)", "model and channel belong together"),
            Rule("has(self.uri) == has(self.digest)", "uri and digest belong together"),
        )
    )

    model_version: Name | None = None
    """Name of a ModelVersion in the namespace."""
    model: ModelName | None = None
    """Name of a model whose channel is followed."""
    channel: ChannelName | None = None
    """The channel: the newest ModelVersion of the model with this tag."""
    uri: S3Uri | None = None
    """s3://BUCKET/PREFIX/ of a model without a ModelVersion; it holds a manifest.json."""
    digest: Digest | None = None
    """sha256 of that manifest.json. Pods with anything else never become ready."""


class Delivery(StrEnum):
    """How a model reaches the pods."""

    MERGED = "Merged"
    ADAPTER = "Adapter"


class Autoscaling(Spec):
    """A HorizontalPodAutoscaler that writes spec.replicas."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            exactly_one("targetCpuPercent", "targetInFlightRequests"),
            Rule(
                "self.minReplicas <= self.maxReplicas",
                "autoscaling.minReplicas must be at most maxReplicas",
            ),
        )
    )

    min_replicas: Annotated[int, Field(ge=1, le=1000)] = 1
    """Least pods of the stable revision."""
    max_replicas: Annotated[int, Field(ge=1, le=1000)]
    """Most pods of the stable revision; a surge comes on top."""
    target_cpu_percent: Annotated[int, Field(ge=1, le=100)] | None = None
    """Mean CPU use, of what is requested, that is aimed at."""
    target_in_flight_requests: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Mean requests in flight of a pod that are aimed at. Needs an adapter for custom metrics in
    the cluster."""


_RULES = (
    Rule(
        "self.delivery != 'Adapter'"
        " || (has(self.engine.type) ? self.engine.type == 'VLLM' : self.engine.gpus > 0)",
        "delivery Adapter needs engine.type VLLM, the default with engine.gpus above 0: it alone"
        " serves an adapter on its base model",
    ),
    Rule(
        "self.delivery != 'Adapter' || !has(self.source.uri)",
        "delivery Adapter needs a ModelVersion, which names the adapter's base model: set"
        " source.modelVersion, or model and channel",
    ),
    Rule(
        "self.rollout.capacity.mode != 'NoSurge' || self.replicas >= 2",
        "rollout.capacity.mode NoSurge needs replicas of at least 2: with one, nothing would serve"
        " while the new revision starts",
    ),
    Rule(
        "self.rollout.capacity.mode != 'NoSurge' || !has(self.autoscaling)"
        " || self.autoscaling.minReplicas >= 2",
        "rollout.capacity.mode NoSurge needs autoscaling.minReplicas of at least 2",
    ),
    Rule(
        "self.rollout.rollback.fastTrackRevisions <= self.revisionHistoryLimit",
        "rollout.rollback.fastTrackRevisions must be at most revisionHistoryLimit: a revision that"
        " is forgotten cannot be gone back to",
    ),
    Rule(
        "!has(self.conversationLog) || self.routing.router == 'HAProxy'"
        " || !self.rollout.steps.exists(s, s.mirrorPercent > 0)",
        "mirrorPercent with conversationLog needs routing.router HAProxy: a Gateway does not mark"
        " its copies, so answers that no client got would be written down",
    ),
)


class ModelDeploymentSpec(Spec):
    """Which model is served, by what, and how a new one takes over."""

    model_config = ConfigDict(json_schema_extra=cel(*_RULES))

    paused: bool = False
    """Starts no roll-out and raises no weight. A bad canary is rolled back all the same."""
    source: ModelReference
    """Which model is served."""
    s3: S3Options | None = None
    """How to reach S3. Default: the operator's chart."""
    delivery: Delivery = Delivery.MERGED
    """Merged fetches the whole model into pods of the revision's own. Adapter loads the adapter
    into running pods: revisions that differ in nothing but the adapter share them, so a canary
    needs no GPU more and a rollback restarts no pod. The engine gets the base model, hf:// or
    s3://, from where it is. A revision with another base model, engine, access, conversationLog or
    s3 has other pods, and rollout.capacity says where they come from."""
    engine: Engine = Field(default_factory=Engine, json_schema_extra=section())
    """What answers requests."""
    access: Access | None = None
    """Who may ask. Absent: everybody who reaches the pods or their router."""
    conversation_log: ConversationLog | None = None
    """Where conversations are written down. Absent: nowhere."""
    replicas: Annotated[int, Field(ge=1, le=1000)] = 1
    """Pods that carry all of the traffic. kubectl scale and the autoscaler set it."""
    autoscaling: Autoscaling | None = None
    """A HorizontalPodAutoscaler. Absent: replicas stay as they are set."""
    routing: Routing = Field(default_factory=Routing, json_schema_extra=section())
    """How requests reach the revisions."""
    rollout: Rollout = Field(default_factory=Rollout, json_schema_extra=section())
    """How a new revision takes over."""
    revision_history_limit: Annotated[int, Field(ge=1, le=20)] = 10
    """How many former revisions are remembered, without pods."""


class ModelDeployment(Status):
    """A served model and the roll-out of its next version."""

    PLURAL: ClassVar[str] = "modeldeployments"
    KIND: ClassVar[str] = "ModelDeployment"

    metadata: ObjectMeta
    spec: ModelDeploymentSpec
    """What is wanted."""
    status: ModelDeploymentStatus = Field(default_factory=ModelDeploymentStatus)
    """What is."""
