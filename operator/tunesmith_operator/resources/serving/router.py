"""The router HAProxy: pods of HAProxy and an agent, the Service that clients use, and its guards.

The agent (tunesmith_router) writes HAProxy's configuration, owns its admin socket and takes the
wanted state from the operator; the socket and the configuration are in a volume of the pod.
"""

from hashlib import sha256

from tunesmith_api.modeldeployment import ModelDeployment
from tunesmith_api.router import AGENT_PORT, ROUTER_PORT
from tunesmith_operator.config import Config
from tunesmith_operator.resources.metadata import Manifest, owned_metadata
from tunesmith_operator.resources.scheduling import container_resources
from tunesmith_operator.resources.security import (
    container_basis,
    pod_basis,
    scratch,
    variables,
)
from tunesmith_operator.resources.serving.names import (
    router_labels,
    router_name,
    router_selector,
    router_service_name,
)
from tunesmith_operator.resources.surroundings import surround

TOKEN_VARIABLE = "TUNESMITH_ROUTER_TOKEN_DIGEST"  # noqa: S105  the name of a variable
RUN_PATH = "/run/tunesmith-router"
"""What the agent works in unless it is told otherwise."""
CONFIGURATION = f"{RUN_PATH}/haproxy.cfg"
_SERVICE_PORT = 80
_END_SECONDS = 10
_NAMESPACE_LABEL = "kubernetes.io/metadata.name"


def build_router(deployment: ModelDeployment, config: Config, token: str) -> tuple[Manifest, ...]:
    """Give everything of the router. ``token`` is what the agent asks the operator for."""
    policy = _policy(deployment, config) if config.serving.router.agent_namespace else None
    parts = [_workload(deployment, config, token), _service(deployment), _budget(deployment)]
    return tuple(parts) if policy is None else (*parts, policy)


def _workload(deployment: ModelDeployment, config: Config, token: str) -> Manifest:
    router = config.serving.router
    labels = router_labels(deployment)
    selector = {"matchLabels": router_selector(deployment)}
    apart = {"topologyKey": "kubernetes.io/hostname", "labelSelector": selector}
    spread = {"weight": 100, "podAffinityTerm": apart}
    preferred = {"preferredDuringSchedulingIgnoredDuringExecution": [spread]}
    run, run_mount = scratch("run", RUN_PATH)
    pod = {
        **pod_basis(config.serving.image_pull_secrets),
        "affinity": {"podAntiAffinity": preferred},
        "terminationGracePeriodSeconds": (
            config.serving.pre_stop_seconds + _drain_seconds(deployment, config) + _END_SECONDS
        ),
        "initContainers": [_init(config, run_mount)],
        "containers": [_haproxy(config, run_mount), _agent(config, run_mount, token)],
        "volumes": [run],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": owned_metadata(deployment, router_name(deployment), labels),
        "spec": {
            "replicas": router.replicas,
            "revisionHistoryLimit": 1,
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1},
            },
            "selector": selector,
            "template": surround(
                {"metadata": {"labels": labels}, "spec": pod}, router.pods, config
            ),
        },
    }


def _drain_seconds(deployment: ModelDeployment, config: Config) -> int:
    return max(config.serving.drain_seconds, deployment.spec.engine.request_timeout_seconds)


def _init(config: Config, run_mount: Manifest) -> Manifest:
    serving = config.serving
    return container_basis("init", serving.image, serving) | {
        "command": ["python", "-m", "tunesmith_router", "init"],
        "resources": container_resources(serving.router.agent_resources, 0, config),
        "volumeMounts": [run_mount],
    }


def _haproxy(config: Config, run_mount: Manifest) -> Manifest:
    serving = config.serving
    # Endpoints of Services take a moment to be gone everywhere; after that SIGUSR1 closes the port
    # and lets what is in progress end, where SIGTERM would cut it. The pod's grace period bounds
    # the last sleep, which ends with the container.
    stop = f"sleep {serving.pre_stop_seconds}; kill -USR1 1; sleep 86400"
    return container_basis("haproxy", serving.router.image, serving) | {
        "command": ["haproxy", "-W", "-db", "-f", CONFIGURATION],
        "ports": [{"name": "http", "containerPort": ROUTER_PORT}],
        "livenessProbe": {
            "tcpSocket": {"port": ROUTER_PORT},
            "initialDelaySeconds": 5,
            "periodSeconds": 10,
            "timeoutSeconds": 5,
        },
        "lifecycle": {"preStop": {"exec": {"command": ["/bin/sh", "-c", stop]}}},
        "resources": container_resources(serving.router.resources, 0, config),
        "volumeMounts": [run_mount],
    }


def _agent(config: Config, run_mount: Manifest, token: str) -> Manifest:
    serving = config.serving
    # Not the token: whoever may read pods could move traffic with it.
    digest = f"sha256:{sha256(token.encode()).hexdigest()}"
    return container_basis("agent", serving.image, serving) | {
        "command": ["python", "-m", "tunesmith_router"],
        "env": variables({TOKEN_VARIABLE: digest}),
        "ports": [{"name": "agent", "containerPort": AGENT_PORT}],
        "readinessProbe": {
            "httpGet": {"path": "/readyz", "port": AGENT_PORT},
            "periodSeconds": 1,
            "timeoutSeconds": 2,
            "failureThreshold": 2,
        },
        "livenessProbe": {
            "httpGet": {"path": "/livez", "port": AGENT_PORT},
            "initialDelaySeconds": 10,
            "periodSeconds": 10,
            "timeoutSeconds": 5,
        },
        "resources": container_resources(serving.router.agent_resources, 0, config),
        "volumeMounts": [run_mount],
    }


def _service(deployment: ModelDeployment) -> Manifest:
    port = {
        "name": "http",
        "port": _SERVICE_PORT,
        "targetPort": ROUTER_PORT,
        "appProtocol": "http",
    }
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": owned_metadata(
            deployment, router_service_name(deployment), router_labels(deployment)
        ),
        "spec": {
            "type": "ClusterIP",
            "selector": router_selector(deployment),
            "ports": [port],
        },
    }


def _budget(deployment: ModelDeployment) -> Manifest:
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": owned_metadata(deployment, router_name(deployment), router_labels(deployment)),
        "spec": {
            "maxUnavailable": 1,
            "selector": {"matchLabels": router_selector(deployment)},
        },
    }


def _policy(deployment: ModelDeployment, config: Config) -> Manifest:
    """Requests from everywhere, the wanted state from the operator's namespace alone."""
    operators = {_NAMESPACE_LABEL: config.serving.router.agent_namespace}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": owned_metadata(deployment, router_name(deployment), router_labels(deployment)),
        "spec": {
            "podSelector": {"matchLabels": router_selector(deployment)},
            "policyTypes": ["Ingress"],
            "ingress": [
                {"ports": [{"protocol": "TCP", "port": ROUTER_PORT}]},
                {
                    "from": [{"namespaceSelector": {"matchLabels": operators}}],
                    "ports": [{"protocol": "TCP", "port": AGENT_PORT}],
                },
            ],
        },
    }
