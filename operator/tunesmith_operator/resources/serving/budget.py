"""The PodDisruptionBudget of the pods that serve: drained nodes take them one after the other.

It is about the stable revision. A canary is replaced anyway, and one that never becomes ready must
not hold up the draining of nodes.
"""

from tunesmith_api.deploymentstatus import RevisionStatus
from tunesmith_api.modeldeployment import Delivery, ModelDeployment
from tunesmith_operator.resources.metadata import Manifest, deployment_labels, owned_metadata
from tunesmith_operator.resources.serving.names import (
    budget_name,
    engine_selector,
    revision_selector,
)


def build_budget(deployment: ModelDeployment, stable: RevisionStatus) -> Manifest:
    """Give the budget. Pods that adapters share are all of the deployment's."""
    shares_pods = deployment.spec.delivery is Delivery.ADAPTER
    selector = (
        engine_selector(deployment)
        if shares_pods
        else revision_selector(deployment, stable.revision)
    )
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": owned_metadata(
            deployment, budget_name(deployment), deployment_labels(deployment)
        ),
        "spec": {
            "maxUnavailable": 1,
            "selector": {"matchLabels": selector},
            # Such a pod serves nobody; without this it would keep its node for as long as it likes.
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    }
