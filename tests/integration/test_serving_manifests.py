"""Every manifest that ModelDeployments are made of, before the real API server and admission."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from deploy.native.apiserver import ControlPlane
from deploy.native.binaries import ensure_binaries
from deploy.shell import StepError
from tests.integration.calls import try_to_create
from tests.unit.deployments import (
    MODEL_DIGEST,
    SERVING,
    make_adapter,
    make_deployment,
    make_revision,
)
from tests.unit.jobs import CONFIG, make_job
from tests.unit.test_surroundings import owned
from tunesmith_api.attempts import StageName
from tunesmith_api.deploymentstatus import RevisionStatus
from tunesmith_operator.planning.hosting import host_of
from tunesmith_operator.planning.runs import build_run
from tunesmith_operator.resources.attempt import build_job
from tunesmith_operator.resources.serving.autoscaling import build_autoscaler
from tunesmith_operator.resources.serving.budget import build_budget
from tunesmith_operator.resources.serving.record import build_record
from tunesmith_operator.resources.serving.router import build_router
from tunesmith_operator.resources.serving.sidecar import Tokens
from tunesmith_operator.resources.serving.workload import build_host, build_service, build_workload

pytestmark = pytest.mark.integration

NAMESPACE = "restricted"
CHART = Path(__file__).parents[2] / "charts" / "tunesmith"
ENGINES: list[dict[str, Any]] = [
    {
        "type": "LlamaCpp",
        "resources": {"requests": {"cpu": "1"}, "limits": {"memory": "2Gi"}},
        "env": [{"name": "A", "secretKeyRef": {"name": "s", "key": "k"}}],
    },
    {"type": "VLLM", "gpus": 1, "gpuType": "L4"},
    {"type": "Ollama", "args": ["PARAMETER num_ctx 8192"]},
    {"type": "Custom", "image": "r/own:1", "serviceAccountName": "reader"},
]
SCALING = [
    {"maxReplicas": 3, "targetCpuPercent": 70},
    {"maxReplicas": 3, "targetInFlightRequests": 40},
]


@pytest.fixture(scope="module")
def restricted(control_plane: ControlPlane) -> ControlPlane:
    """Give a control plane with a namespace that enforces the strictest pod security."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    metadata = {"name": NAMESPACE, "labels": labels}
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}
    control_plane.kubectl("apply", "-f", "-", stdin=json.dumps(body))
    return control_plane


def built(engine: dict[str, Any], autoscaling: dict[str, Any]) -> list[dict[str, Any]]:
    router = SERVING.serving.router.model_copy(update={"agent_namespace": "system"})
    serving = SERVING.serving.model_copy(update={"router": router})
    config = SERVING.model_copy(update={"serving": serving})
    deployment = make_deployment(
        "m" * 45,
        engine=engine,
        autoscaling=autoscaling,
        access={"apiKeySecretRef": {"name": "keys", "key": "clients"}},
        conversationLog={"uri": "s3://acme/logs/"},
    )
    assert deployment.spec.autoscaling is not None
    revision = make_revision(deployment)
    return [
        build_record(deployment, revision),
        build_workload(deployment, revision, 2, "record-uid", config, tokens=Tokens("t")),
        build_service(deployment, revision, "record-uid"),
        *build_router(deployment, config, "t0ken"),
        build_budget(deployment, RevisionStatus(revision=7, name="m", digest=MODEL_DIGEST)),
        build_autoscaler(deployment, deployment.spec.autoscaling),
    ]


def pod_of(workload: dict[str, Any]) -> dict[str, Any]:
    """Give a pod of a Deployment: admission warns about templates, but refuses only pods."""
    template = workload["spec"]["template"]
    metadata = template["metadata"] | {"name": workload["metadata"]["name"]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}


def ask(plane: ControlPlane, manifest: dict[str, Any]) -> None:
    body = manifest | {"metadata": manifest["metadata"] | {"namespace": NAMESPACE}}
    try_to_create(plane, body)


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: str(engine["type"]))
def test_the_api_server_takes_every_manifest_in_a_restricted_namespace(
    restricted: ControlPlane, engine: dict[str, Any]
) -> None:
    manifests = built(engine, SCALING[0])
    assert len(manifests) == 9
    pods = [pod_of(m) for m in manifests if m["kind"] == "Deployment"]
    for manifest in [*manifests, *pods]:
        ask(restricted, manifest)


def test_the_api_server_takes_the_pods_that_adapters_share(restricted: ControlPlane) -> None:
    deployment = make_deployment("m" * 45, engine=ENGINES[1], delivery="Adapter")
    revision = make_adapter(deployment, "hf://org/base")
    name = host_of(deployment.metadata.name, revision.template)
    tokens = Tokens("t", "u")
    host = build_host(deployment, name, revision.template, 2, SERVING, tokens=tokens)
    service = build_service(deployment, revision, "record-uid", name)
    for manifest in (host, pod_of(host), service):
        ask(restricted, manifest)


def classless(pod: dict[str, Any]) -> dict[str, Any]:
    """Give a pod without the classes that this cluster lacks, and that admission looks for."""
    spec = pod["spec"]
    assert spec.pop("priorityClassName") == "low"
    spec.pop("runtimeClassName", None)
    return pod


@pytest.mark.parametrize("stage", list(StageName))
def test_the_api_server_takes_what_a_clusters_owner_adds_to_jobs(
    restricted: ControlPlane, stage: StageName
) -> None:
    config, job = owned(CONFIG), make_job(compute={"gpuType": "L4"})
    made = build_job(job, "support-1", build_run(job, stage, 1, config), config)
    for manifest in (made, classless(pod_of(made))):
        ask(restricted, manifest)


def test_the_api_server_takes_what_a_clusters_owner_adds_to_deployments(
    restricted: ControlPlane,
) -> None:
    config, deployment = owned(SERVING), make_deployment("m" * 45, engine=ENGINES[1])
    revision = make_revision(deployment)
    served = build_workload(deployment, revision, 2, "record-uid", config, tokens=Tokens("t"))
    router = build_router(deployment, config, "t0ken")[0]
    for workload in (served, router):
        ask(restricted, workload)
        ask(restricted, classless(pod_of(workload)))


def test_the_namespace_would_refuse_what_is_not_restricted(restricted: ControlPlane) -> None:
    pod = pod_of(built(ENGINES[0], SCALING[0])[1])
    pod["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True
    with pytest.raises(StepError, match="allowPrivilegeEscalation"):
        ask(restricted, pod)


def test_the_autoscaler_may_go_by_requests_in_flight(restricted: ControlPlane) -> None:
    ask(restricted, built(ENGINES[0], SCALING[1])[-1])


def test_an_upgrade_keeps_the_routers_key(control_plane: ControlPlane) -> None:
    helm = ensure_binaries(["helm"])["helm"]

    def install(workers: int) -> str:
        where = ["--kubeconfig", str(control_plane.kubeconfig), "-n", "keyed", "--create-namespace"]
        values = ["--set", f"crds.install=false,workers={workers}"]
        subprocess.run(
            [str(helm), "upgrade", "--install", "tunesmith", str(CHART), *where, *values],
            check=True,
            capture_output=True,
            timeout=200,
        )
        path = "jsonpath={.data.key}"
        return control_plane.kubectl(
            "get", "-n", "keyed", "secret/tunesmith-router-key", "-o", path
        )

    first = install(4)
    assert len(first) == 64
    assert install(5) == first
