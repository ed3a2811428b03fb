"""What answers requests: the engine, its pods, and the way to it.

Sections of a ModelDeployment's spec. Everything in :class:`Engine` is part of a revision: a
change of it is rolled out like a new model.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any

from pydantic import ConfigDict, Field, model_validator

from tunesmith_api.compute import Resources, SelectorMap, Toleration
from tunesmith_api.meta import Name, OptionalName, Rule, Spec, Text, cel, exactly_one, section


class EngineType(StrEnum):
    """What computes the answers."""

    LLAMA_CPP = "LlamaCpp"
    VLLM = "VLLM"
    OLLAMA = "Ollama"
    CUSTOM = "Custom"


def engine_type(engine: Mapping[str, Any]) -> Any:
    """Give the type of an engine in JSON, which is by its GPUs where none is named. Unchecked."""
    return engine.get("type", EngineType.VLLM if engine.get("gpus") else EngineType.LLAMA_CPP)


class SecretKeyRef(Spec):
    """A key of a Secret in the namespace of the object."""

    name: Name
    """Name of the Secret."""
    key: Annotated[str, Field(max_length=253, pattern=r"^[-._a-zA-Z0-9]+$")]
    """Key within it."""


class EnvVar(Spec):
    """An environment variable of the engine."""

    model_config = ConfigDict(json_schema_extra=cel(exactly_one("value", "secretKeyRef")))

    name: Annotated[str, Field(max_length=128, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
    """Its name."""
    value: Text | None = None
    """Its value."""
    secret_key_ref: SecretKeyRef | None = None
    """Where its value is, if it is secret."""


class Engine(Spec):
    """What answers requests."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            Rule(
                "!has(self.type) || self.type != 'Custom' || size(self.image) > 0",
                "engine.type Custom needs engine.image: an image with an OpenAI-compatible"
                " endpoint",
            ),
            Rule(
                "!has(self.port) || (has(self.type) && self.type == 'Custom')",
                "engine.port is for engine.type Custom: the others' ports are known",
            ),
            Rule(
                "!has(self.type) || self.type != 'VLLM' || self.gpus > 0 || size(self.image) > 0",
                "engine.type VLLM needs engine.gpus above 0, or an engine.image that does without",
            ),
            Rule(
                "self.gpus > 0 || size(self.gpuType) == 0",
                "engine.gpuType needs engine.gpus above 0",
            ),
        )
    )

    # None: a CRD's default cannot look at gpus, so the API server fills nothing in.
    type: EngineType = Field(default=EngineType.LLAMA_CPP, json_schema_extra={"default": None})
    """LlamaCpp serves GGUF, also without GPUs; VLLM needs safetensors; Ollama serves GGUF; Custom
    is any image with an OpenAI-compatible endpoint. Default: VLLM with gpus above 0, LlamaCpp
    without."""
    image: Annotated[str, Field(max_length=512, pattern=r"^\S*$")] = ""
    """Image of the engine. Empty: the operator's for the type."""
    args: Annotated[tuple[Text, ...], Field(max_length=64)] = Field(
        default=(), json_schema_extra={"x-kubernetes-list-type": "atomic"}
    )
    """Further arguments of the engine; they win over the operator's. For Ollama, which takes none,
    further lines of the Modelfile, such as TEMPLATE or PARAMETER num_ctx 8192."""
    env: Annotated[tuple[EnvVar, ...], Field(max_length=64)] = Field(
        default=(),
        json_schema_extra={
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["name"],
        },
    )
    """Further environment variables of the engine."""
    port: Annotated[int, Field(ge=1, le=65_535)] | None = None
    """Port of a Custom engine. Default: 8000. It finds its model in the folder that the variable
    TUNESMITH_MODEL_PATH names, and answers /v1/models with 200 once it is loaded."""
    resources: Resources = Field(default_factory=Resources, json_schema_extra=section())
    """CPU and memory of a pod."""
    gpus: Annotated[int, Field(ge=0, le=16)] = 0
    """GPUs of a pod."""
    gpu_type: Annotated[str, Field(max_length=63, pattern=r"^[A-Za-z0-9._-]*$")] = ""
    """Kind of GPU, as in the chart's table gpuTypes. Empty: any."""
    node_selector: SelectorMap = Field(default_factory=dict)
    """Further labels the node must have."""
    tolerations: Annotated[tuple[Toleration, ...], Field(max_length=16)] = Field(
        default=(), json_schema_extra={"x-kubernetes-list-type": "atomic"}
    )
    """Taints the pods may stand. The chart's tolerations for GPU nodes are added."""
    service_account_name: OptionalName = ""
    """Service account of the pods, for workload identity. Empty: default. Its token is not mounted.
    The operator's chart may restrict the names."""
    max_concurrent_requests: Annotated[int, Field(ge=1, le=10_000)] = 100
    """Requests a pod works on at a time; further ones get 429 with Retry-After."""
    request_timeout_seconds: Annotated[int, Field(ge=1, le=3600)] = 30
    """Time for one request; a stream that has begun is not cut."""

    @model_validator(mode="before")
    @classmethod
    def _choose_type(cls, given: Any) -> Any:
        return {**given, "type": engine_type(given)} if isinstance(given, Mapping) else given


class RouterType(StrEnum):
    """What splits the traffic."""

    HAPROXY = "HAProxy"
    GATEWAY_API = "GatewayAPI"


class ParentRef(Spec):
    """A Gateway, or one of its listeners."""

    name: Name
    """Name of the Gateway."""
    namespace: OptionalName = ""
    """Its namespace. Empty: that of the object."""
    section_name: OptionalName = ""
    """Its listener. Empty: all."""


class GatewayOptions(Spec):
    """Where the HTTPRoute is attached."""

    parent_refs: Annotated[tuple[ParentRef, ...], Field(min_length=1, max_length=8)] = Field(
        json_schema_extra={"x-kubernetes-list-type": "atomic"}
    )
    """The Gateways."""
    hostname: OptionalName = ""
    """Host name of the route. Empty: that of the listener."""


class Routing(Spec):
    """How requests reach the revisions. A change of it is not rolled out in steps."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            Rule(
                "has(self.gateway) == (self.router == 'GatewayAPI')",
                "router GatewayAPI needs gateway.parentRefs, and gateway needs router GatewayAPI",
            ),
            Rule(
                "size(self.stickyHeader) == 0 || self.router == 'HAProxy'",
                "stickyHeader needs router HAProxy: an HTTPRoute cannot hold a conversation to a"
                " revision",
            ),
        )
    )

    router: RouterType = RouterType.HAPROXY
    """HAProxy runs in pods of ours and needs nothing installed. GatewayAPI writes an HTTPRoute
    for a Gateway that is there."""
    gateway: GatewayOptions | None = None
    """Where the HTTPRoute is attached, with router GatewayAPI."""
    sticky_header: Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z0-9-]*$")] = ""
    """Requests with the same value of this header go to the same revision. Empty: none."""
