"""The HorizontalPodAutoscaler: it writes spec.replicas through the scale subresource.

Its pods are those of ``names.engine_selector``, which status.selector must say: routers would water
the mean down.
"""

from typing import Any

from tunesmith_api import API_VERSION
from tunesmith_api.modeldeployment import Autoscaling, ModelDeployment
from tunesmith_operator.resources.metadata import Manifest, deployment_labels, owned_metadata
from tunesmith_operator.resources.serving.workload import ENGINE_CONTAINER

IN_FLIGHT_METRIC = "tunesmith_serving_in_flight"
"""The sidecar's, as an adapter for custom metrics gives it by pod."""


def build_autoscaler(deployment: ModelDeployment, autoscaling: Autoscaling) -> Manifest:
    """Give the autoscaler."""
    meta = deployment.metadata
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": owned_metadata(deployment, meta.name, deployment_labels(deployment)),
        "spec": {
            "scaleTargetRef": {
                "apiVersion": API_VERSION,
                "kind": ModelDeployment.KIND,
                "name": meta.name,
            },
            "minReplicas": autoscaling.min_replicas,
            "maxReplicas": autoscaling.max_replicas,
            "metrics": [_metric(autoscaling)],
        },
    }


def _metric(autoscaling: Autoscaling) -> dict[str, Any]:
    if autoscaling.target_cpu_percent is not None:
        target = {"type": "Utilization", "averageUtilization": autoscaling.target_cpu_percent}
        # Of the engine alone: the sidecar's small request would let its noise count.
        source = {"name": "cpu", "container": ENGINE_CONTAINER, "target": target}
        return {"type": "ContainerResource", "containerResource": source}
    value = str(autoscaling.target_in_flight_requests)
    return {
        "type": "Pods",
        "pods": {
            "metric": {"name": IN_FLIGHT_METRIC},
            "target": {"type": "AverageValue", "averageValue": value},
        },
    }
