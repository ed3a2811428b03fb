"""What the e2e tests of roll-outs do: a stand-in engine, deployments of it, steady load.

The stand-in misbehaves as its variables say, so a revision with other variables is another
canary. Everything else is real: fetched model files, sidecar, router, operator.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.images import content_digest, is_pushed
from deploy.load import Load, question
from tests.e2e.lab import Lab, Manifest, merged, until
from tunesmith_api.deploymentstatus import ModelDeploymentStatus
from tunesmith_api.meta import Condition

ENGINE = Path(__file__).parent / "engine"
FEW = {"requests": {"cpu": "100m", "memory": "32Mi"}, "limits": {"memory": "256Mi"}}
# As the peer of the benchmark has it: 25 %, a look every 5 s, the third failed one ends it.
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


def ensure_engine(lab: Lab) -> str:
    """Build and push the stand-in's image unless it is there; return its name."""
    builder = lab.cluster.builder
    tag = content_digest(ENGINE / "Dockerfile")
    full = f"{builder.registry}/tunesmith/standin:{tag}"
    if not is_pushed(full, insecure=builder.insecure):
        builder.build(ENGINE / "Dockerfile", full, lab.log, context=ENGINE)
    return full


@dataclass
class Deployments:
    """ModelDeployments of one namespace that serve the same files with the stand-in."""

    lab: Lab
    namespace: str
    image: str
    source: Manifest

    def apply(self, name: str, misbehaviour: dict[str, str] | None = None, **spec: Any) -> None:
        """Apply a deployment whose engine has these variables, with ``spec`` laid over it."""
        env = [{"name": n, "value": v} for n, v in (misbehaviour or {}).items()]
        engine = {"type": "Custom", "image": self.image, "env": env, "resources": FEW}
        basis = {"source": self.source, "engine": engine, "replicas": 1, "rollout": ROLLOUT}
        manifest = {
            "apiVersion": "tunesmith.dev/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": merged(basis, spec),
        }
        self.lab.kubectl.run("apply", "-f", "-", stdin=json.dumps(manifest))

    def patch(self, name: str, spec: Manifest) -> None:
        self.lab.kubectl.run(
            "patch", "mdep", name, "-n", self.namespace, "--type=merge", "-p",
            json.dumps({"spec": spec}),
        )  # fmt: skip

    def status(self, name: str) -> ModelDeploymentStatus:
        body = self.lab.kubectl.get("modeldeployment", name, self.namespace)
        assert body is not None, f"{name} is gone"
        return ModelDeploymentStatus.model_validate(body.get("status") or {})

    def condition(self, name: str, kind: str) -> Condition | None:
        return next((c for c in self.status(name).conditions if c.type == kind), None)

    def wait_for_phase(self, name: str, *phases: str, seconds: float = 120) -> str:
        def reached() -> str | None:
            phase = self.status(name).phase
            return phase if phase in phases else None

        return until(reached, seconds, f"{name} to be {' or '.join(phases)}", 0.25)

    def wait_until_stable(self, name: str, revision: int, seconds: float = 120) -> None:
        def reached() -> bool | None:
            status = self.status(name)
            is_it = status.stable is not None and status.stable.revision == revision
            return (is_it and status.rollout is None) or None

        until(reached, seconds, f"revision {revision} of {name} to be stable", 0.25)

    @contextmanager
    def load(self, name: str, rate: float = 40) -> Iterator[Load]:
        """Send requests through the router for as long as the block lasts."""
        service = self.lab.kubectl.get("service", name, self.namespace)
        assert service is not None
        with Load(f"http://{service['spec']['clusterIP']}", rate, lambda _: question("Hi?")) as it:
            time.sleep(1)
            yield it
