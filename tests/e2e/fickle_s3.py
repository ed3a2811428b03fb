"""An S3 that works, refuses or is away, as a test wants: a proxy pod before the real one.

``Service`` selectors would not do: connections that are open stay with their old pod.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deploy.kubectl import Kubectl
from deploy.release import NAMESPACE as OPERATOR_NAMESPACE
from deploy.release import RELEASE

NAMESPACE = "s3"
PROXY = (Path(__file__).parent / "fickle_proxy.py").read_text()


@dataclass(frozen=True)
class FickleS3:
    """The proxy of one test."""

    kubectl: Kubectl
    name: str

    @property
    def endpoint(self) -> str:
        return f"http://{self.name}.{NAMESPACE}.svc.cluster.local:9000"

    def works(self) -> int:
        return self._become("works")

    def refuses(self) -> int:
        """Answer every request with 403 AccessDenied."""
        return self._become("refuses")

    def away(self) -> int:
        """Close every connection, open or new."""
        return self._become("away")

    def _become(self, mode: str) -> int:
        """Give how many connections the mode before this one has turned away."""
        path = f"/api/v1/namespaces/{NAMESPACE}/pods/{self.name}:9001/proxy/{mode}"
        return int(self.kubectl.proxy_get(path))


@contextmanager
def fickle_s3(kubectl: Kubectl, name: str) -> Iterator[FickleS3]:
    """Run a proxy of that name, which works until told otherwise."""
    operator = kubectl.get("deployment", RELEASE, OPERATOR_NAMESPACE)
    assert operator is not None
    container = {
        "name": "proxy",
        "image": operator["spec"]["template"]["spec"]["containers"][0]["image"],
        "command": ["python", "-c", PROXY],
        "readinessProbe": {"tcpSocket": {"port": 9000}, "periodSeconds": 1},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    meta = {"name": name, "namespace": NAMESPACE, "labels": {"app": name}}
    spec = {"containers": [container], "terminationGracePeriodSeconds": 0}
    ports = {"selector": {"app": name}, "ports": [{"port": 9000}]}
    for kind, what in (("Pod", spec), ("Service", ports)):
        body = {"apiVersion": "v1", "kind": kind, "metadata": meta, "spec": what}
        kubectl.run("create", "-f", "-", stdin=json.dumps(body))
    try:
        kubectl.run(
            "wait", "--for=condition=Ready", f"pod/{name}", "-n", NAMESPACE, "--timeout=200s"
        )
        yield FickleS3(kubectl, name)
    finally:
        kubectl.run("delete", f"pod/{name}", f"service/{name}", "-n", NAMESPACE, "--wait=false")
