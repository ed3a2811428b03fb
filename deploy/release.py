"""Installs the operator with Helm: CRDs first, then the chart with the demo's values."""

from __future__ import annotations

import json
from typing import Any

from deploy.cluster import Cluster
from deploy.images import reference
from deploy.kubectl import Kubectl
from deploy.settings import REPOSITORY
from deploy.shell import Log, StepError
from deploy.storage import CREDENTIALS, ENDPOINT, REGION

RELEASE = "tunesmith"
NAMESPACE = "tunesmith-system"
TIMEOUT_SECONDS = 180


def install_crds(cluster: Cluster, log: Log) -> None:
    """Apply ``crds/`` and wait until the API server serves them.

    Server-side, because they are larger than the annotation that a client-side apply leaves. They
    carry Helm's marks of ownership, so that the chart's copy takes them over instead of failing.
    """
    kubectl = Kubectl(cluster, log)
    files = [arg for file in _crds() for arg in ("-f", file)]
    if not files:
        raise StepError("crds/ is empty", "run: make generate")
    kubectl.run("apply", "--server-side", "--force-conflicts", *files)
    kubectl.run("label", "--overwrite", *files, "app.kubernetes.io/managed-by=Helm")
    marks = (
        f"meta.helm.sh/release-name={RELEASE}",
        f"meta.helm.sh/release-namespace={NAMESPACE}",
    )
    kubectl.run("annotate", "--overwrite", *files, *marks)
    kubectl.run("wait", "--for=condition=Established", *files, "--timeout=30s")


def install_operator(cluster: Cluster, log: Log) -> None:
    """Install or upgrade the chart and wait until the operator is ready."""
    kubectl = Kubectl(cluster, log)
    registry = cluster.builder.registry
    values: dict[str, Any] = {
        "image": _image(reference("operator", registry)),
        "trainerImage": _image(reference("trainer", registry)),
        "s3": {
            "endpoint": ENDPOINT,
            "region": REGION,
            "pathStyle": True,
            "secretName": CREDENTIALS,
        },
    }
    values["serving"] = _serving(cluster)
    options = [
        arg for key, value in values.items() for arg in ("--set-json", f"{key}={json.dumps(value)}")
    ]
    chart = str(REPOSITORY / "charts" / "tunesmith")
    where = ["-n", NAMESPACE, "--create-namespace"]
    kubectl.helm("upgrade", "--install", RELEASE, chart, *where, *options)
    kubectl.wait_for_rollout(RELEASE, NAMESPACE, TIMEOUT_SECONDS)


def _serving(cluster: Cluster) -> dict[str, Any]:
    """Return values for what serves: small enough for two cores, and enough beside a trainer."""
    little = {"requests": {"cpu": "50m", "memory": "64Mi"}}
    images = {name: _image(full) for name, full in cluster.serving_images().items()}
    router: dict[str, Any] = {"resources": little, "agentResources": little}
    if "haproxy" in images:
        router["image"] = images.pop("haproxy")
    return {
        "engineImages": images,
        "router": router,
        "sidecarResources": little,
        "fetchResources": little,
    }


def uninstall(cluster: Cluster, log: Log) -> None:
    """Remove the demo from a cluster that stays: release, namespaces, CRDs."""
    kubectl = Kubectl(cluster, log)
    gone = ["--ignore-not-found", "--wait", "--timeout=120s"]
    # Jobs first, while their operator can still see to their end.
    kubectl.run("delete", "namespace", "tunesmith-demo", *gone)
    kubectl.helm("uninstall", RELEASE, "-n", NAMESPACE, "--ignore-not-found", "--wait")
    kubectl.run("delete", "namespace", NAMESPACE, "s3", *gone)
    for file in _crds():
        kubectl.run("delete", "-f", file, *gone)


def _crds() -> list[str]:
    return [str(file) for file in sorted((REPOSITORY / "crds").glob("*.yaml"))]


def _image(full_name: str) -> dict[str, str]:
    name, _, tag = full_name.rpartition(":")
    return {"repository": name, "tag": tag}
