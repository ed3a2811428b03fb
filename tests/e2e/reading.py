"""Reads a cluster as ``kubectl get`` does, but through one ``kubectl proxy``.

Tests ask again and again until something has happened, and a kubectl for each question takes as
much of a core as what is asked about.
"""

import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote

from deploy.cluster import Cluster
from deploy.kubectl import Kubectl, Manifest
from deploy.shell import Log, StepError

OURS = "/apis/tunesmith.dev/v1alpha1"
KINDS = {
    "pods": ("/api/v1", "Pod"),
    "services": ("/api/v1", "Service"),
    "configmaps": ("/api/v1", "ConfigMap"),
    "events": ("/api/v1", "Event"),
    "jobs": ("/apis/batch/v1", "Job"),
    "deployments": ("/apis/apps/v1", "Deployment"),
    "poddisruptionbudgets": ("/apis/policy/v1", "PodDisruptionBudget"),
    "finetunejobs": (OURS, "FineTuneJob"),
    "modelversions": (OURS, "ModelVersion"),
    "modeldeployments": (OURS, "ModelDeployment"),
}
"""Where kinds are served, by their plurals; kubectl itself is asked for all others."""
PLURALS = {"ftj": "finetunejobs", "mv": "modelversions", "mdep": "modeldeployments"}


class Reader(Kubectl):
    """Kubectl whose questions go through a proxy at ``port`` of this machine."""

    def __init__(self, cluster: Cluster, log: Log, port: int) -> None:
        super().__init__(cluster, log)
        self._port = port

    def get(self, kind: str, name: str, namespace: str) -> Manifest | None:
        plural = PLURALS.get(kind, kind if kind in KINDS else f"{kind}s")
        if plural not in KINDS:
            return super().get(kind, name, namespace)
        text = self._ask(f"{KINDS[plural][0]}/namespaces/{namespace}/{plural}/{name}")
        return None if text is None else json.loads(text)

    def list_all(self, kind: str, namespace: str, selector: str = "") -> list[Manifest]:
        plurals = kind.split(",")
        if not set(plurals) <= KINDS.keys():
            return super().list_all(kind, namespace, selector)
        found = []
        for plural in plurals:
            api, name = KINDS[plural]
            query = f"?labelSelector={quote(selector)}" if selector else ""
            text = self._ask(f"{api}/namespaces/{namespace}/{plural}{query}")
            items = json.loads(text or '{"items": []}')["items"]
            # Of what is in a list the API server does not say again what it is.
            found += [item | {"kind": name} for item in items]
        return found

    def proxy_get(self, path: str) -> str:
        text = self._ask(path)
        if text is None:
            raise StepError(f"{path} is not there")
        return text

    def _ask(self, path: str) -> str | None:
        """Give what the API server answers; None where it knows no such thing."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            text = response.read().decode()
        except (OSError, http.client.HTTPException) as error:
            raise StepError(f"GET {path}: {error!r}") from error
        finally:
            connection.close()
        if response.status == 404:
            return None
        if response.status != 200:
            raise StepError(f"GET {path}: HTTP {response.status} {text[:200]}")
        return text


@contextmanager
def reader(cluster: Cluster, log: Log) -> Iterator[Reader]:
    """Give a Reader, and a proxy for as long as the block lasts."""
    with Kubectl(cluster, log).proxied() as port:
        yield Reader(cluster, log, port)
