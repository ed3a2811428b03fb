"""Where a training or serving pod may run: GPU limits, node labels, tolerations."""

from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith_api.compute import Resources, Toleration
from tunesmith_operator.config import Config, NodeLabels


def container_resources(resources: Resources, gpus: int, config: Config) -> dict[str, Any]:
    """Requests and limits. GPUs are a limit, which Kubernetes also takes as the request."""
    limits = dict(resources.limits)
    if gpus:
        limits[config.gpu.resource_name] = str(gpus)
    parts = {"requests": dict(resources.requests), "limits": limits}
    return {name: values for name, values in parts.items() if values}


def placement(
    gpus: int,
    gpu_type: str,
    node_selector: Mapping[str, str],
    tolerations: Sequence[Toleration],
    config: Config,
) -> dict[str, Any]:
    """Node selector, affinity and tolerations of a pod. Raises KeyError for an unknown GPU type."""
    labels: NodeLabels = config.gpu.types[gpu_type] if gpus and gpu_type else {}
    selector = {k: v for k, v in labels.items() if isinstance(v, str)} | dict(node_selector)
    choices = {k: v for k, v in labels.items() if not isinstance(v, str)}
    tolerated = [*tolerations, *(config.gpu.tolerations if gpus else ())]
    parts: dict[str, Any] = {
        "nodeSelector": selector,
        "affinity": _any_of(choices) if choices else {},
        "tolerations": [toleration_manifest(t) for t in tolerated],
    }
    return {name: value for name, value in parts.items() if value}


def _any_of(choices: dict[str, tuple[str, ...]]) -> dict[str, Any]:
    """A node selector cannot say "one of these"; node affinity can."""
    terms = [
        {"key": key, "operator": "In", "values": list(values)} for key, values in choices.items()
    ]
    return {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": terms}]
            }
        }
    }


def toleration_manifest(toleration: Toleration) -> dict[str, Any]:
    """Give a toleration as Kubernetes writes it: what is empty is left out."""
    said = toleration.model_dump(by_alias=True, exclude_none=True)
    return {name: value for name, value in said.items() if value != ""}
