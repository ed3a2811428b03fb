"""The kinds that the operator reads or writes, and where the API server keeps them."""

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from tunesmith_api import API_VERSION

Object = dict[str, Any]
"""A Kubernetes object as JSON. Only kube/ and resources/ look inside."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind and its place in the API."""

    name: str
    api_version: str
    plural: str

    def path(self, namespace: str | None, name: str = "", subresource: str = "") -> str:
        """Give the path of one object, of a collection, or of all namespaces (None)."""
        prefix = "/apis" if "/" in self.api_version else "/api"
        parts = [prefix, self.api_version]
        if namespace is not None:
            parts += ["namespaces", quote(namespace, safe="")]
        parts.append(self.plural)
        parts += [quote(part, safe="") for part in (name, subresource) if part]
        return "/".join(parts)


KINDS = {
    kind.name: kind
    for kind in (
        Kind("FineTuneJob", API_VERSION, "finetunejobs"),
        Kind("ModelVersion", API_VERSION, "modelversions"),
        Kind("ModelDeployment", API_VERSION, "modeldeployments"),
        Kind("Job", "batch/v1", "jobs"),
        Kind("Deployment", "apps/v1", "deployments"),
        Kind("Pod", "v1", "pods"),
        Kind("ConfigMap", "v1", "configmaps"),
        Kind("Service", "v1", "services"),
        Kind("PodDisruptionBudget", "policy/v1", "poddisruptionbudgets"),
        Kind("NetworkPolicy", "networking.k8s.io/v1", "networkpolicies"),
        Kind("HorizontalPodAutoscaler", "autoscaling/v2", "horizontalpodautoscalers"),
        Kind("HTTPRoute", "gateway.networking.k8s.io/v1", "httproutes"),
        Kind("PersistentVolumeClaim", "v1", "persistentvolumeclaims"),
        Kind("Event", "v1", "events"),
        Kind("Lease", "coordination.k8s.io/v1", "leases"),
    )
}
