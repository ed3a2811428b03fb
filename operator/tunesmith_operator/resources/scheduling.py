"""Where a training pod may run: GPU limits, node labels, tolerations."""

from typing import Any

from tunesmith_api.finetunejob import Compute, Resources, Toleration
from tunesmith_operator.config import Config, NodeLabels


def container_resources(resources: Resources, gpus: int, config: Config) -> dict[str, Any]:
    """Requests and limits. GPUs are a limit, which Kubernetes also takes as the request."""
    limits = dict(resources.limits)
    if gpus:
        limits[config.gpu.resource_name] = str(gpus)
    parts = {"requests": dict(resources.requests), "limits": limits}
    return {name: values for name, values in parts.items() if values}


def placement(compute: Compute, config: Config) -> dict[str, Any]:
    """Node selector, affinity and tolerations of a training pod."""
    labels: NodeLabels = {}
    if compute.gpus_per_node and compute.gpu_type:
        labels = config.gpu.types[compute.gpu_type]
    selector = {k: v for k, v in labels.items() if isinstance(v, str)} | dict(compute.node_selector)
    choices = {k: v for k, v in labels.items() if not isinstance(v, str)}
    tolerations = list(compute.tolerations)
    if compute.gpus_per_node:
        tolerations += config.gpu.tolerations
    parts: dict[str, Any] = {
        "nodeSelector": selector,
        "affinity": _any_of(choices) if choices else {},
        "tolerations": [_toleration(t) for t in tolerations],
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


def _toleration(toleration: Toleration) -> dict[str, Any]:
    said = toleration.model_dump(by_alias=True, exclude_none=True)
    return {name: value for name, value in said.items() if value != ""}
