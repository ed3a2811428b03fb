"""The operator's configuration: written by the chart, parsed once at the start, never changed.

Only types and the parser. The file is read by ``main``; everybody else gets the frozen
:class:`Config` as an argument. An unknown key is an error, so a typing mistake in the chart's
values stops the operator at its start instead of being ignored for months.
"""

from datetime import timedelta
from typing import Annotated, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from tunesmith_api.compute import Resources, SelectorMap, Toleration
from tunesmith_api.meta import Name, OptionalName, Quantity

NodeLabels = dict[str, str | tuple[str, ...]]
"""Node labels that must all hold. Several values of a label are alternatives."""


class ConfigError(ValueError):
    """The configuration cannot be used; the message says which key and why."""


class Section(BaseModel):
    """A part of the configuration: camelCase in the file, frozen, nothing unknown."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, frozen=True, extra="forbid"
    )


class S3Defaults(Section):
    """How to reach S3 where a job does not say."""

    endpoint: Annotated[str, Field(max_length=512, pattern=r"^(https?://[^\s/]+/?)?$")] = ""
    """Empty: Amazon's."""
    region: str = "us-east-1"
    path_style: bool = False
    secret_name: str = ""
    """Secret in the job's namespace. Empty: the pod's own identity."""


class GpuConfig(Section):
    """What a GPU is called in this cluster."""

    resource_name: str = "nvidia.com/gpu"
    types: dict[str, NodeLabels] = Field(default_factory=dict)
    """spec.compute.gpuType -> node labels, as {"A100": {"nvidia.com/gpu.product": [...]}}."""
    memory_gib: dict[str, Annotated[int, Field(ge=1)]] = Field(
        default_factory=dict, alias="memoryGiB"
    )
    """spec.compute.gpuType -> memory of the largest GPU it stands for."""
    tolerations: tuple[Toleration, ...] = (
        Toleration(key="nvidia.com/gpu", operator="Exists", effect="NoSchedule"),
    )
    """Added to every pod that asks for GPUs."""
    runtime_class_name: OptionalName = ""
    """Runtime class of every pod that asks for GPUs. Empty: the nodes' default."""


class PodVariable(Section):
    """An environment variable that all containers of some pods get."""

    name: Annotated[str, Field(max_length=128, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
    value: Annotated[str, Field(max_length=4096)] = ""


class PodSettings(Section):
    """What the cluster's owner wants of pods; what a spec says itself wins."""

    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    env: tuple[PodVariable, ...] = ()
    """For all containers: proxies, NCCL's interfaces, a mirror of the Hub. No secrets: whoever may
    read pods reads them."""
    node_selector: SelectorMap = Field(default_factory=dict)
    tolerations: tuple[Toleration, ...] = ()
    priority_class_name: OptionalName = ""
    scheduler_name: OptionalName = ""
    """Empty: the cluster's own."""


class EphemeralVolume(Section):
    """A volume of its own for each pod, which goes when the pod goes."""

    size: Annotated[str, Field(max_length=32)] = ""
    """Empty: the node's disk."""
    storage_class_name: OptionalName = ""
    """Empty: the cluster's default."""


class CaBundle(Section):
    """Certificates that pods trust when they speak to S3, the Hub and services."""

    config_map: OptionalName = ""
    """ConfigMap in the namespace of the job or deployment. Empty: those of the image."""
    key: Annotated[str, Field(max_length=253, pattern=r"^[-._a-zA-Z0-9]+$")] = "ca.crt"
    """Key with all certificates that count, as PEM; they replace those of the image."""


class KueueConfig(Section):
    """Kueue's queues; only the train Job goes through them."""

    enabled: bool = False
    default_queue: str = ""
    """LocalQueue for jobs that name none in their label kueue.x-k8s.io/queue-name."""


class LeaderElection(Section):
    """The Lease that lets one operator write at a time."""

    enabled: bool = True
    lease_name: Name = "tunesmith-operator"
    namespace: str = ""
    """Empty: the operator's own namespace, or default outside a cluster."""
    lease_duration_seconds: Annotated[float, Field(ge=2, le=300)] = 12.0
    """Silence after which another operator takes over."""
    renew_deadline_seconds: Annotated[float, Field(ge=1, le=300)] = 8.0
    """Age of the last renewal from which the leader itself no longer writes."""
    retry_period_seconds: Annotated[float, Field(ge=0.2, le=60)] = 2.0
    """Time between two renewals, or two looks at somebody else's Lease."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        # The leader must have stopped before anybody else may start, with room for clock drift
        # and for a call that was already on its way.
        if not self.retry_period_seconds < self.renew_deadline_seconds:
            raise ValueError("retryPeriodSeconds must be below renewDeadlineSeconds")
        if not self.renew_deadline_seconds < self.lease_duration_seconds:
            raise ValueError("renewDeadlineSeconds must be below leaseDurationSeconds")
        return self


ImageName = Annotated[str, Field(min_length=1, max_length=512, pattern=r"^\S+$")]
PullPolicy = Annotated[str, Field(pattern="^(Always|IfNotPresent|Never)$")]


class EngineImages(Section):
    """Images of engines where spec.engine.image names none."""

    llama_cpp: ImageName = "ghcr.io/ggml-org/llama.cpp:server-b11151"
    llama_cpp_gpu: ImageName = "ghcr.io/ggml-org/llama.cpp:server-cuda-b11151"
    vllm: ImageName = "docker.io/vllm/vllm-openai:v0.26.0"
    ollama: ImageName = "docker.io/ollama/ollama:0.40.0"


class RouterConfig(Section):
    """The pods that split the traffic of a ModelDeployment with the router HAProxy."""

    image: ImageName = "docker.io/library/haproxy:3.2.24-alpine3.24"
    replicas: Annotated[int, Field(ge=1, le=10)] = 2
    resources: Resources = Field(
        default_factory=lambda: Resources(
            requests={"cpu": "100m", "memory": "64Mi"}, limits={"memory": "256Mi"}
        )
    )
    """CPU and memory of HAProxy."""
    agent_resources: Resources = Field(
        default_factory=lambda: Resources(
            requests={"cpu": "20m", "memory": "64Mi"}, limits={"memory": "256Mi"}
        )
    )
    """CPU and memory of the agent beside it."""
    pods: PodSettings = Field(default_factory=PodSettings)
    agent_namespace: Annotated[str, Field(max_length=63)] = ""
    """Namespace whose pods alone may reach the agents; a NetworkPolicy says so. Empty: no policy,
    the agents' token is all that guards them."""
    key_file: str = ""
    """File with the secret that the tokens of agents and of the analysis are derived from."""


class ServingConfig(Section):
    """The pods of ModelDeployments."""

    image: ImageName = "tunesmith-operator"
    """The operator's own image: fetcher, sidecar and the routers' agent run from it."""
    image_pull_policy: PullPolicy = "IfNotPresent"
    image_pull_secrets: tuple[Name, ...] = ()
    """Pull secrets in the ModelDeployment's namespace."""
    engine_images: EngineImages = Field(default_factory=EngineImages)
    router: RouterConfig = Field(default_factory=RouterConfig)
    sidecar_resources: Resources = Field(
        default_factory=lambda: Resources(
            requests={"cpu": "100m", "memory": "128Mi"}, limits={"memory": "512Mi"}
        )
    )
    fetch_resources: Resources = Field(
        default_factory=lambda: Resources(
            requests={"cpu": "100m", "memory": "256Mi"}, limits={"memory": "1Gi"}
        )
    )
    """CPU and memory of the container that fetches the model; it has ended before others start."""
    shared_memory: Quantity = "2Gi"
    """Size of /dev/shm of engines that need one."""
    pre_stop_seconds: Annotated[int, Field(ge=0, le=600)] = 5
    """Time in which a pod that is ending still takes requests: what routers need to notice."""
    drain_seconds: Annotated[int, Field(ge=1, le=3600)] = 60
    """Longest wait for requests in progress after that; a longer requestTimeoutSeconds counts."""
    pods: PodSettings = Field(default_factory=PodSettings)
    """What is added to the pods with engines; those of routers have their own in ``router``."""
    models_volume: EphemeralVolume = Field(default_factory=EphemeralVolume)
    """Where a pod's model is fetched to."""


class Config(Section):
    """All that the operator is told from outside."""

    namespaces: tuple[Name, ...] = ()
    """Watched namespaces. Empty: all."""
    trainer_image: Annotated[str, Field(min_length=1, max_length=512)]
    image_pull_policy: PullPolicy = "IfNotPresent"
    image_pull_secrets: tuple[Name, ...] = ()
    s3: S3Defaults = Field(default_factory=S3Defaults)
    gpu: GpuConfig = Field(default_factory=GpuConfig)
    prepare_resources: Resources = Field(
        default_factory=lambda: Resources(
            requests={"cpu": "500m", "memory": "1Gi"}, limits={"memory": "4Gi"}
        )
    )
    """CPU and memory of the prepare pods."""
    trainer_pods: PodSettings = Field(default_factory=PodSettings)
    """What is added to the pods that prepare data and train."""
    work_volume: EphemeralVolume = Field(default_factory=EphemeralVolume)
    """Where those pods keep models, rows and checkpoints."""
    ca_bundle: CaBundle = Field(default_factory=CaBundle)
    allowed_service_accounts: tuple[str, ...] = ()
    """Values of spec.compute.serviceAccountName and spec.engine.serviceAccountName that are
    accepted. Empty: any."""
    kueue: KueueConfig = Field(default_factory=KueueConfig)
    serving: ServingConfig = Field(default_factory=ServingConfig)
    leader_election: LeaderElection = Field(default_factory=LeaderElection)
    workers: Annotated[int, Field(ge=1, le=256)] = 32
    """Passes that run at the same time, each over another object."""
    resync_seconds: Annotated[int, Field(ge=5, le=86_400)] = 300
    """Time between two comparisons of everything we believe with the API server."""
    progress_seconds: Annotated[float, Field(ge=0.5, le=600)] = 10.0
    """Least time between two status writes of an object while only its progress moves."""
    probe_port: Annotated[int, Field(ge=0, le=65_535)] = 8080
    """/livez, /readyz and /metrics. 0: any free port."""
    log_level: Annotated[str, Field(pattern="^(DEBUG|INFO|WARNING|ERROR)$")] = "INFO"

    def why_no_gpu_type(self, field: str, gpu_type: str) -> str:
        """Say what is wrong with a ``gpuType`` that ``field`` names; empty: nothing."""
        if not gpu_type or gpu_type in self.gpu.types:
            return ""
        known = ", ".join(sorted(self.gpu.types)) or "none"
        return (
            f"{field} {gpu_type} is not known here. Known: {known}. Choose one of them, leave it"
            " empty for any GPU, or add it to the chart's value gpuTypes"
        )

    def why_no_account(self, field: str, account: str) -> str:
        """Say what is wrong with a service account that ``field`` names; empty: nothing."""
        allowed = self.allowed_service_accounts
        if not account or not allowed or account in allowed:
            return ""
        return (
            f"{field} {account} is not allowed here. Allowed: {', '.join(allowed)}. Choose one of"
            " them, or add it to the chart's value allowedServiceAccounts"
        )

    @property
    def resync_interval(self) -> timedelta:
        """Time between two resyncs."""
        return timedelta(seconds=self.resync_seconds)


def parse_config(text: str) -> Config:
    """Parse YAML or JSON. Raises :class:`ConfigError` with one line for each wrong key."""
    try:
        return Config.model_validate(yaml.safe_load(text) or {})
    except yaml.YAMLError as error:
        raise ConfigError(f"the configuration is not YAML: {error}") from error
    except ValidationError as error:
        lines = [
            f"{'.'.join(str(part) for part in item['loc']) or 'configuration'}: {item['msg']}"
            for item in error.errors(include_url=False, include_input=False)
        ]
        raise ConfigError("\n".join(lines)) from error
