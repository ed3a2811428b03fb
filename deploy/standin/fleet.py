"""ModelDeployments of the stand-in: its image, their manifests, load on them.

A revision with other variables is another canary. Knows nothing of statuses: whoever waits for
something reads it from ``body``. Used by the e2e tests of roll-outs and ``bench_rollback``.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deploy.cluster import Cluster
from deploy.images import content_digest, is_pushed
from deploy.kubectl import Kubectl, Manifest
from deploy.load import Load, ask, question
from deploy.shell import Log, StepError
from deploy.storage import CREDENTIALS, DEMO_NAMESPACE

ENGINE = Path(__file__).parent / "engine"
REACHABLE_SECONDS = 20
SETTLING_SECONDS = 1.0
# Thousandths of a core, or a deployment of several pods would not fit on two cores.
FEW = {"requests": {"cpu": "50m", "memory": "32Mi"}, "limits": {"memory": "256Mi"}}
ROLLOUT: Manifest = {
    "readyTimeoutSeconds": 90,
    "steps": [{"weight": 25, "holdSeconds": 10}],
    "analysis": {
        "intervalSeconds": 5,
        "window": 5,
        "failureLimit": 2,
        "minRequests": 20,
        "dataTimeoutSeconds": 60,
        "metrics": [
            {"name": "error-rate", "builtin": "ErrorRate", "max": "0.05"},
            {"name": "latency-p95", "builtin": "LatencyP95", "max": "1"},
        ],
    },
    "failFast": {"consecutiveErrors": 20, "restarts": 2},
    "rollback": {"keepStableWarmSeconds": 5},
}


def merged(base: Manifest, change: Manifest) -> Manifest:
    """Give ``base`` with ``change`` laid over it, all the way down."""
    result = copy.deepcopy(base)
    for key, value in change.items():
        old = result.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            result[key] = merged(old, value)
        else:
            result[key] = value
    return result


def ensure_engine(cluster: Cluster, log: Log) -> str:
    """Build and push the stand-in's image unless it is there; return its name."""
    builder = cluster.builder
    full = f"{builder.registry}/tunesmith/standin:{content_digest(ENGINE / 'Dockerfile')}"
    if not is_pushed(full, insecure=builder.insecure):
        builder.build(ENGINE / "Dockerfile", full, log, context=ENGINE)
    return full


def make_namespace(kubectl: Kubectl, name: str) -> None:
    """Make a namespace with the strictest Pod Security Standard and the keys of the S3 server."""
    kubectl.run("create", "namespace", name)
    level = "pod-security.kubernetes.io/enforce=restricted"
    kubectl.run("label", "namespace", name, level)
    secret = kubectl.get("secret", CREDENTIALS, DEMO_NAMESPACE)
    if secret is None:
        raise StepError(f"there is no Secret {CREDENTIALS} in {DEMO_NAMESPACE}", "run: make demo")
    kept = {"name": CREDENTIALS, "namespace": name}
    kubectl.run("create", "-f", "-", stdin=json.dumps({**secret, "metadata": kept}))


@dataclass
class Fleet:
    """ModelDeployments of one namespace that serve the same files with the stand-in."""

    kubectl: Kubectl
    namespace: str
    image: str
    source: Manifest

    def apply(
        self, name: str, misbehaviour: Mapping[str, str] | None = None, **spec: object
    ) -> None:
        """Apply a deployment whose engine has these variables, with ``spec`` laid over it."""
        text = json.dumps(self.manifest(name, misbehaviour or {}, spec))
        self.kubectl.run("apply", "-f", "-", stdin=text)

    def manifest(self, name: str, variables: Mapping[str, str], spec: Manifest) -> Manifest:
        """Give what ``apply`` applies."""
        env = [{"name": n, "value": v} for n, v in variables.items()]
        engine = {"type": "Custom", "image": self.image, "env": env, "resources": FEW}
        basis = {"source": self.source, "engine": engine, "replicas": 1, "rollout": ROLLOUT}
        return {
            "apiVersion": "tunesmith.dev/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": merged(basis, spec),
        }

    def patch(self, name: str, spec: Manifest) -> None:
        """Change what is in ``spec`` and nothing else."""
        change = json.dumps({"spec": spec})
        self.kubectl.run("patch", "mdep", name, "-n", self.namespace, "--type=merge", "-p", change)

    def body(self, name: str) -> Manifest:
        """Give a deployment as it is now. Raises ``StepError`` when it is gone."""
        found = self.kubectl.get("modeldeployment", name, self.namespace)
        if found is None:
            raise StepError(f"modeldeployment/{name} is gone from {self.namespace}")
        return found

    def url(self, name: str) -> str:
        """Give the address of a deployment's Service; a native cluster's machine reaches it.

        Raises ``StepError`` when there is none.
        """
        service = self.kubectl.get("service", name, self.namespace)
        if service is None:
            raise StepError(f"modeldeployment/{name} has no Service")
        return f"http://{service['spec']['clusterIP']}"

    @contextmanager
    def load(self, name: str, rate: float = 40) -> Iterator[Load]:
        """Send requests through the router for as long as the block lasts."""
        url = self.url(name)
        # The node learns of a Service's first endpoints a moment after everybody else.
        deadline = time.monotonic() + REACHABLE_SECONDS
        while not ask(url, question("Hi?"))[0].is_good and time.monotonic() < deadline:
            time.sleep(0.1)
        with Load(url, rate, lambda _: question("Hi?")) as it:
            time.sleep(SETTLING_SECONDS)
            yield it
