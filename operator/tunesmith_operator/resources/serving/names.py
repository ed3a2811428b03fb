"""What a ModelDeployment's objects are called, and by which labels they are found.

Names of ModelDeployments have at most 45 characters and begin with a letter (a rule of the CRD),
so that all of these are DNS labels. A revision's own name is planning's matter.
"""

from tunesmith_api.labels import (
    COMPONENT_ENGINE,
    COMPONENT_ROUTER,
    LABEL_COMPONENT,
    LABEL_DEPLOYMENT_UID,
    LABEL_HOST,
    LABEL_REVISION,
)
from tunesmith_api.modeldeployment import ModelDeployment
from tunesmith_operator.resources.metadata import deployment_labels


def served_model(deployment: ModelDeployment) -> str:
    """The ``model`` that clients ask for: the same in every revision and with every engine."""
    return deployment.metadata.name


def router_service_name(deployment: ModelDeployment) -> str:
    """Name of the Service that clients use, with the router HAProxy."""
    return deployment.metadata.name


def router_name(deployment: ModelDeployment) -> str:
    """Name of the router's Deployment, PodDisruptionBudget and NetworkPolicy."""
    return f"{deployment.metadata.name}-router"


def budget_name(deployment: ModelDeployment) -> str:
    """Name of the PodDisruptionBudget of the pods with engines."""
    return f"{deployment.metadata.name}-engines"


def engine_selector(deployment: ModelDeployment) -> dict[str, str]:
    """Labels of the serving pods of all revisions; what status.selector says to the autoscaler."""
    return {
        LABEL_DEPLOYMENT_UID: deployment.metadata.uid,
        LABEL_COMPONENT: COMPONENT_ENGINE,
    }


def revision_selector(deployment: ModelDeployment, number: int) -> dict[str, str]:
    """Labels of the serving pods of one revision."""
    return engine_selector(deployment) | {LABEL_REVISION: str(number)}


def revision_labels(deployment: ModelDeployment, number: int) -> dict[str, str]:
    """Labels of a revision's objects and pods."""
    return (
        deployment_labels(deployment)
        | {LABEL_COMPONENT: COMPONENT_ENGINE}
        | {LABEL_REVISION: str(number)}
    )


def host_selector(deployment: ModelDeployment, host: str) -> dict[str, str]:
    """Labels of the pods that adapters share."""
    return engine_selector(deployment) | {LABEL_HOST: host}


def host_labels(deployment: ModelDeployment, host: str) -> dict[str, str]:
    """Labels of a host and of its pods."""
    return deployment_labels(deployment) | {LABEL_COMPONENT: COMPONENT_ENGINE} | {LABEL_HOST: host}


def router_selector(deployment: ModelDeployment) -> dict[str, str]:
    """Labels of the router's pods."""
    return {
        LABEL_DEPLOYMENT_UID: deployment.metadata.uid,
        LABEL_COMPONENT: COMPONENT_ROUTER,
    }


def router_labels(deployment: ModelDeployment) -> dict[str, str]:
    """Labels of the router's objects and pods."""
    return deployment_labels(deployment) | {LABEL_COMPONENT: COMPONENT_ROUTER}
