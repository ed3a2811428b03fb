"""Where a FineTuneJob's training runs: nodes, GPUs, resources, scheduling."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from tunesmith_api.meta import (
    SUBDOMAIN,
    OptionalName,
    Quantity,
    Rule,
    Seconds,
    ShortText,
    Spec,
    cel,
    section,
)
from tunesmith_api.sharding import Sharding


class OnOutOfMemory(StrEnum):
    """What follows when training runs out of memory."""

    HALVE_BATCH = "HalveBatch"
    FAIL = "Fail"


# Kubernetes would refuse the pods for them, but only when the data has been prepared.
_LABEL_PART = "[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_LABEL_KEY = rf"({SUBDOMAIN}/)?{_LABEL_PART}"
_TOLERATION_RULES = (
    Rule(
        "size(self.key) > 0 || self.operator == 'Exists'",
        "a toleration without key stands for all taints: set operator Exists, or the key",
    ),
    Rule(
        "self.operator != 'Exists' || size(self.value) == 0",
        "operator Exists looks at no value: leave value out, or set operator Equal",
    ),
    Rule(
        "!has(self.tolerationSeconds) || self.effect == 'NoExecute'",
        "tolerationSeconds needs effect NoExecute",
    ),
)
_SELECTOR_RULE = Rule(
    # In a string of CEL each backslash is two.
    "self.all(k, k.matches('^{}$'))".format(_LABEL_KEY.replace("\\", "\\\\")),
    "keys must be names of labels, such as disktype or example.org/disktype",
)
_RESOURCES_RULE = Rule(
    "self.all(k, k in ['cpu', 'memory', 'ephemeral-storage'] || k.startsWith('hugepages-')"
    " || k.contains('/'))",
    "names must be cpu, memory, ephemeral-storage, hugepages-SIZE or DOMAIN/NAME",
)

_WITHIN_LIMITS = Rule(
    "!has(self.limits) || !has(self.requests) || self.limits.all(k, !(k in self.requests)"
    " || quantity(self.requests[k]).compareTo(quantity(self.limits[k])) <= 0)",
    "a request is above the limit of its name: lower it in requests, or raise it in limits",
)
# Kubernetes does not share these out to more pods than there are of them.
_WHOLE = Rule(
    "!has(self.requests) || self.requests.all(k, !(k.contains('/') || k.startsWith('hugepages-'))"
    " || (has(self.limits) && k in self.limits"
    " && quantity(self.requests[k]).compareTo(quantity(self.limits[k])) == 0))",
    "requests of hugepages-SIZE and DOMAIN/NAME must equal their limits: set limits only",
)

LabelValue = Annotated[str, Field(max_length=63, pattern=rf"^({_LABEL_PART})?$")]


class Toleration(Spec):
    """A toleration of the training pods."""

    model_config = ConfigDict(json_schema_extra=cel(*_TOLERATION_RULES))

    key: Annotated[str, Field(max_length=317, pattern=rf"^({_LABEL_KEY})?$")] = ""
    """Taint key; empty with operator Exists stands for all."""
    operator: Literal["Exists", "Equal"] = "Equal"
    """How key and value are compared."""
    value: LabelValue = ""
    """Taint value."""
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = ""
    """Taint effect; empty stands for all."""
    toleration_seconds: Seconds | None = None
    """How long a NoExecute taint is tolerated."""


ResourceList = Annotated[
    dict[ShortText, Quantity], Field(max_length=16, json_schema_extra=cel(_RESOURCES_RULE))
]
SelectorMap = Annotated[
    dict[ShortText, LabelValue], Field(max_length=16, json_schema_extra=cel(_SELECTOR_RULE))
]


class Resources(Spec):
    """CPU and memory of a pod. GPUs come from gpusPerNode."""

    model_config = ConfigDict(json_schema_extra=cel(_WITHIN_LIMITS, _WHOLE))

    requests: ResourceList = Field(default_factory=dict)
    """What is reserved; at most what limits say."""
    limits: ResourceList = Field(default_factory=dict)
    """What may be used at most."""


class Compute(Spec):
    """Where training runs."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            Rule(
                "self.gpusPerNode > 0 || size(self.gpuType) == 0",
                "compute.gpuType needs compute.gpusPerNode above 0; leave it out to train on a CPU",
            )
        )
    )

    nodes: Annotated[int, Field(ge=1, le=64)] = 1
    """Pods that train together, started with accelerate launch where there are several ranks."""
    gpus_per_node: Annotated[int, Field(ge=0, le=16)] = 1
    """GPUs of a pod, each with a process of its own. 0 trains on the CPU."""
    gpu_type: Annotated[str, Field(max_length=63, pattern=r"^[A-Za-z0-9._-]*$")] = ""
    """Kind of GPU, such as A100 or A100-80GB. The chart's table gpuTypes says which node labels
    stand for it. Empty: any."""
    sharding: Sharding = Sharding.AUTO
    """How several processes hold the model. DDP: each holds all of it. FSDP: each holds a part of
    all weights, gradients and optimizer state, and gathers a layer when it is computed: less
    memory, more traffic. Auto is DDP where that fits the memory that the chart's gpuMemoryGiB has
    for gpuType, else FSDP; status.resolved.sharding has the choice, the condition DataReady the
    reason. FSDP needs two processes, method lora or full, and an optimizer such as AdamW."""
    resources: Resources = Field(default_factory=Resources, json_schema_extra=section())
    """CPU and memory of a training pod."""
    node_selector: SelectorMap = Field(default_factory=dict)
    """Further labels the node must have."""
    tolerations: Annotated[tuple[Toleration, ...], Field(max_length=16)] = Field(
        default=(), json_schema_extra={"x-kubernetes-list-type": "atomic"}
    )
    """Taints the pods may stand. The chart's tolerations for GPU nodes are added."""
    shared_memory: Quantity = "2Gi"
    """Size of /dev/shm."""
    service_account_name: OptionalName = ""
    """Service account of the pods, for workload identity. Empty: default. Its token is not
    mounted. The operator's chart may restrict the names."""
    # With its digest behind it, it must fit into status.resolved.trainerImage.
    image: Annotated[str, Field(max_length=440, pattern=r"^\S*$")] = ""
    """Image of the trainer. Empty: the operator's."""
    on_out_of_memory: OnOutOfMemory = OnOutOfMemory.HALVE_BATCH
    """HalveBatch tries once more with half the perDeviceBatchSize and twice the
    gradientAccumulationSteps; where that would be another number of rows a step, with the next
    lower one that parts them."""
