"""What the cluster's owner adds to pods: it is in all of them, and never wins over what is said."""

from typing import Any

import pytest

from tests.unit.deployments import SERVING, make_adapter, make_deployment, make_revision
from tests.unit.jobs import CONFIG, make_job
from tunesmith_api.attempts import StageName
from tunesmith_operator.config import Config
from tunesmith_operator.planning.runs import build_run
from tunesmith_operator.resources.attempt import build_job
from tunesmith_operator.resources.serving.engines.plan import UnservableError
from tunesmith_operator.resources.serving.router import build_router
from tunesmith_operator.resources.serving.sidecar import Tokens
from tunesmith_operator.resources.serving.workload import build_host, build_workload

PODS = {
    "labels": {"cost-centre": "7", "app.kubernetes.io/managed-by": "somebody"},
    "annotations": {"example.org/inject": "false"},
    "env": [
        {"name": "NCCL_SOCKET_IFNAME", "value": "eth0"},
        {"name": "TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "value": "1"},
        {"name": "HF_HUB_OFFLINE", "value": "1"},
    ],
    "nodeSelector": {"pool": "ml", "zone": "a"},
    "tolerations": [{"key": "ml", "operator": "Exists"}],
    "priorityClassName": "low",
    "schedulerName": "own",
}


def owned(config: Config) -> Config:
    """Give the configuration of a cluster whose owner has wishes."""
    told = config.model_dump(by_alias=True)
    told |= {
        "trainerPods": PODS,
        "workVolume": {"size": "500Gi", "storageClassName": "fast"},
        "caBundle": {"configMap": "corp-ca", "key": "bundle.pem"},
    }
    told["serving"] |= {"pods": PODS, "modelsVolume": {"size": "80Gi"}}
    told["serving"]["router"] |= {"pods": PODS}
    told["gpu"] |= {"runtimeClassName": "nvidia"}
    return Config.model_validate(told)


def attempt(stage: StageName, config: Config, **spec: Any) -> dict[str, Any]:
    job = make_job(**spec)
    made = build_job(job, "j", build_run(job, stage, 1, config), config)
    template: dict[str, Any] = made["spec"]["template"]
    return template


def engine(config: Config, **spec: Any) -> dict[str, Any]:
    deployment = make_deployment(engine=spec)
    revision = make_revision(deployment)
    made = build_workload(deployment, revision, 1, "uid", config, tokens=Tokens())
    template: dict[str, Any] = made["spec"]["template"]
    return template


def host(config: Config) -> dict[str, Any]:
    deployment = make_deployment(engine={"type": "VLLM", "gpus": 1}, delivery="Adapter")
    base = make_adapter(deployment, "s3://acme/base/").template
    made = build_host(deployment, "host", base, 1, config, tokens=Tokens())
    template: dict[str, Any] = made["spec"]["template"]
    return template


def router(config: Config) -> dict[str, Any]:
    template: dict[str, Any] = build_router(make_deployment(), config, "t")[0]["spec"]["template"]
    return template


def every_template() -> list[Any]:
    jobs, serving = owned(CONFIG), owned(SERVING)
    return [
        pytest.param(attempt(StageName.PREPARE, jobs), id="prepare"),
        pytest.param(attempt(StageName.TRAIN, jobs), id="train"),
        pytest.param(engine(serving, type="LlamaCpp"), id="engine"),
        pytest.param(host(serving), id="shared by adapters"),
        pytest.param(router(serving), id="router"),
    ]


def all_containers(template: dict[str, Any]) -> list[dict[str, Any]]:
    spec = template["spec"]
    return [*spec.get("initContainers", []), *spec["containers"]]


@pytest.mark.parametrize("template", every_template())
def test_all_pods_get_what_the_owner_of_the_cluster_wants(template: dict[str, Any]) -> None:
    metadata, spec = template["metadata"], template["spec"]
    assert metadata["labels"]["cost-centre"] == "7"
    assert metadata["labels"]["app.kubernetes.io/managed-by"] == "tunesmith"
    assert metadata["annotations"]["example.org/inject"] == "false"
    assert spec["nodeSelector"] == {"pool": "ml", "zone": "a"}
    assert {"key": "ml", "operator": "Exists"} in spec["tolerations"]
    assert (spec["priorityClassName"], spec["schedulerName"]) == ("low", "own")
    (source,) = [v["configMap"] for v in spec["volumes"] if "configMap" in v]
    file = {"key": "bundle.pem", "path": "ca.crt"}
    assert source == {"name": "corp-ca", "items": [file], "optional": True}
    for container in all_containers(template):
        names = [v["name"] for v in container["env"]]
        assert len(names) == len(set(names)), "the API server takes a name once only"
        told = {v["name"]: v.get("value") for v in container["env"]}
        assert told["NCCL_SOCKET_IFNAME"] == "eth0"
        (folder,) = [m["mountPath"] for m in container["volumeMounts"] if m["name"] == "ca-bundle"]
        for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE"):
            assert told[name] == f"{folder}/ca.crt"


def test_what_a_spec_says_wins() -> None:
    config = owned(CONFIG)
    compute = {"gpuType": "L4", "nodeSelector": {"zone": "b"}}
    template = attempt(
        StageName.TRAIN, config, compute=compute, runPolicy={"priorityClassName": "urgent"}
    )
    spec = template["spec"]
    assert spec["nodeSelector"] == {
        "pool": "ml",
        "zone": "b",
        "nvidia.com/gpu.product": "NVIDIA-L4",
    }
    assert spec["priorityClassName"] == "urgent"
    env = {v["name"]: v["value"] for v in spec["containers"][0]["env"]}
    assert env["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] == "115"
    own = engine(owned(SERVING), type="LlamaCpp", env=[{"name": "HF_HUB_OFFLINE", "value": "0"}])[
        "spec"
    ]
    (container,) = [c for c in own["containers"] if c["name"] == "engine"]
    assert {"name": "HF_HUB_OFFLINE", "value": "0"} in container["env"]


def test_only_pods_with_gpus_need_their_runtime() -> None:
    jobs, serving = owned(CONFIG), owned(SERVING)
    assert attempt(StageName.TRAIN, jobs)["spec"]["runtimeClassName"] == "nvidia"
    assert host(serving)["spec"]["runtimeClassName"] == "nvidia"
    for template in (
        attempt(StageName.PREPARE, jobs),
        attempt(StageName.TRAIN, jobs, compute={"gpusPerNode": 0}),
        engine(serving, type="LlamaCpp"),
        router(serving),
    ):
        assert "runtimeClassName" not in template["spec"]


def test_large_files_may_have_a_volume_that_goes_with_the_pod() -> None:
    def volume(template: dict[str, Any], name: str) -> dict[str, Any]:
        (found,) = [v for v in template["spec"]["volumes"] if v["name"] == name]
        return dict(found)

    work = volume(attempt(StageName.TRAIN, owned(CONFIG)), "work")
    claim = work["ephemeral"]["volumeClaimTemplate"]["spec"]
    assert claim["storageClassName"] == "fast"
    assert claim["resources"] == {"requests": {"storage": "500Gi"}}
    models = volume(engine(owned(SERVING), type="LlamaCpp"), "models")["ephemeral"]
    assert models["volumeClaimTemplate"]["spec"] == {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "80Gi"}},
    }
    assert volume(attempt(StageName.TRAIN, CONFIG), "work")["emptyDir"] == {}
    assert volume(engine(SERVING, type="LlamaCpp"), "models")["emptyDir"] == {}


def test_without_wishes_nothing_is_added() -> None:
    for template in (attempt(StageName.PREPARE, CONFIG), router(SERVING)):
        added = {"nodeSelector", "tolerations", "schedulerName", "priorityClassName"}
        assert not added & template["spec"].keys()
        assert not [v for v in template["spec"]["volumes"] if "configMap" in v]
    assert "annotations" not in router(SERVING)["metadata"]


@pytest.mark.parametrize("allowed", [True, False])
def test_the_allowed_service_accounts_are_those_of_deployments_too(allowed: bool) -> None:
    """Otherwise who may not train as an account could serve as it."""
    names = ("reader",) if allowed else ("other",)
    config = SERVING.model_copy(update={"allowed_service_accounts": names})
    if allowed:
        spec = engine(config, type="LlamaCpp", serviceAccountName="reader")["spec"]
        assert spec["serviceAccountName"] == "reader"
    else:
        with pytest.raises(UnservableError, match="reader is not allowed here"):
            engine(config, type="LlamaCpp", serviceAccountName="reader")
