"""The chart: its values are closed, what it renders parses, and its rights stay small.

Rendering uses the Helm that the demo builds; `make test` builds it first.
"""

import base64
import json
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from deploy.native.binaries import ensure_binaries
from tunesmith_operator.config import Config, ServingConfig, parse_config

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "tunesmith"
NAMESPACE = "tunesmith-system"


@cache
def run_helm(*sets: str) -> subprocess.CompletedProcess[str]:
    helm = ensure_binaries(["helm"])["helm"]
    options = ["--namespace", NAMESPACE, "--kube-version", "1.34.0"]
    for value in sets:
        options += ["--set-json", value]
    return subprocess.run(
        [str(helm), "template", "tunesmith", str(CHART), *options],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )


def render(*sets: str) -> list[dict[str, Any]]:
    done = run_helm(*sets)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def only(documents: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    (found,) = [d for d in documents if d["kind"] == kind]
    return found


def rendered_config(*sets: str) -> Config:
    return parse_config(only(render(*sets), "ConfigMap")["data"]["config.yaml"])


def default_values() -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
    return values


def values_schema() -> dict[str, Any]:
    schema: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
    return schema


# --- without Helm ---------------------------------------------------------------------------


def test_the_default_values_fit_their_schema() -> None:
    jsonschema.validate(default_values(), values_schema())


def test_every_value_in_the_schema_is_in_values_yaml() -> None:
    assert set(values_schema()["properties"]) - {"global"} == set(default_values())


# Free-form: what is below them belongs to Kubernetes or to the user.
FREE = {
    "global",
    "nodeAffinity",
    "podAffinity",
    "podAntiAffinity",
    "topologySpreadConstraints",
    "valueFrom",
    "extraVolumes",
    "extraVolumeMounts",
    "from",
}


def _open_objects(schema: Any, path: str) -> list[str]:
    if isinstance(schema, list):
        return [hit for item in schema for hit in _open_objects(item, path)]
    if not isinstance(schema, dict):
        return []
    hits = []
    if "object" in schema.get("type", "") and "additionalProperties" not in schema:
        hits.append(path)
    for key, value in schema.items():
        if key not in FREE:
            hits += _open_objects(value, f"{path}.{key}")
    return hits


def test_no_object_of_the_schema_takes_unknown_values() -> None:
    assert _open_objects(values_schema(), "values") == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        pytest.param(("s3", "endpont"), "http://s3", id="a misspelled key"),
        pytest.param(("s3", "endpoint"), "s3:9000", id="an endpoint without a scheme"),
        pytest.param(("replica",), 2, id="a key that does not exist"),
        pytest.param(("replicas",), "2", id="a number as text"),
        pytest.param(("log", "level"), "verbose", id="a log level nobody knows"),
        pytest.param(("image", "digest"), "latest", id="a digest that is none"),
        pytest.param(
            ("gpuTypes", "A100"), {"nvidia.com/gpu.product": []}, id="a GPU type of no node"
        ),
        pytest.param(("watchNamespaces",), ["Team A"], id="a namespace that cannot be"),
        pytest.param(("fullnameOverride",), "My_Tunes", id="a name that no Service may have"),
        pytest.param(("resources", "limit"), {}, id="a misspelled key further down"),
        pytest.param(("commonLabels",), {"app.kubernetes.io/name": "x"}, id="a label of ours"),
        pytest.param(("trainerPods", "env"), [{"value": "x"}], id="a variable without a name"),
        pytest.param(("trainerPods", "secrets"), {}, id="something pods cannot be given"),
        pytest.param(("workVolume", "size"), "much", id="a size that is none"),
    ],
)
def test_the_schema_refuses(path: tuple[str, ...], value: Any) -> None:
    values = default_values()
    section = values
    for key in path[:-1]:
        section = section[key]
    section[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(values, values_schema())


def test_the_chart_holds_the_generated_crds() -> None:
    generated = {p.name: p.read_text() for p in (ROOT / "crds").glob("*.yaml")}
    assert {p.name: p.read_text() for p in (CHART / "files" / "crds").glob("*.yaml")} == generated


# --- with Helm ------------------------------------------------------------------------------


def test_an_unknown_value_is_refused_by_its_name() -> None:
    done = run_helm('s3.endpont="http://s3"')
    assert done.returncode != 0
    assert "endpont" in done.stderr


def test_the_default_configuration_parses() -> None:
    config = rendered_config()
    assert config.namespaces == ()
    assert config.trainer_image == "tunesmith-trainer:0.1.0"
    assert config.gpu.types["A100-80GB"] == {
        "nvidia.com/gpu.product": ("NVIDIA-A100-SXM4-80GB", "NVIDIA-A100-80GB-PCIe")
    }
    assert set(config.gpu.memory_gib) == set(config.gpu.types)


def test_all_of_the_operators_settings_can_be_set() -> None:
    config = rendered_config(
        'watchNamespaces=["team-a","team-b"]',
        'trainerImage={"repository":"r/t","digest":"sha256:' + "0" * 64 + '","pullSecrets":["p"]}',
        's3={"endpoint":"http://s3:9000","region":"eu","pathStyle":true,"secretName":"s3"}',
        'kueue={"enabled":true,"defaultQueue":"q"}',
        'allowedServiceAccounts=["trainer"]',
        'gpu.resourceName="amd.com/gpu"',
        "gpuMemoryGiB.MI300=192",
        'gpuTypes.MI300={"amd.com/gpu.product-name":"MI300X"}',
        'log.level="DEBUG"',
        "workers=4",
        "resyncSeconds=30",
        "progressSeconds=2",
        'leaderElection={"leaseDurationSeconds":6,"renewDeadlineSeconds":4,"retryPeriodSeconds":1}',
        'prepareResources={"requests":{"cpu":"1"},"limits":{}}',
        'image={"repository":"r/o","digest":"sha256:' + "1" * 64 + '"}',
        'serving.pullPolicy="Always"',
        'serving.pullSecrets=["s"]',
        'serving.engineImages.llamaCpp={"repository":"r/llama","tag":"7"}',
        'serving.engineImages.vllm={"repository":"r/vllm"}',
        'serving.router={"image":{"repository":"r/ha","tag":"3"},"replicas":3,"networkPolicy":true}',
        'serving.fetchResources={"requests":{"cpu":"2"},"limits":{}}',
        'serving.sharedMemory="8Gi"',
        "serving.preStopSeconds=7",
        "serving.drainSeconds=90",
    )
    assert config.namespaces == ("team-a", "team-b")
    assert config.trainer_image == "r/t@sha256:" + "0" * 64
    assert config.image_pull_secrets == ("p",)
    assert (config.s3.endpoint, config.s3.path_style) == ("http://s3:9000", True)
    assert (config.kueue.enabled, config.kueue.default_queue) == (True, "q")
    assert config.allowed_service_accounts == ("trainer",)
    assert config.gpu.resource_name == "amd.com/gpu"
    assert config.gpu.types["MI300"] == {"amd.com/gpu.product-name": "MI300X"}
    assert (config.workers, config.resync_seconds, config.progress_seconds) == (4, 30, 2)
    assert config.leader_election.lease_duration_seconds == 6
    assert config.prepare_resources.requests["cpu"] == "1"
    serving = config.serving
    assert serving.image == "r/o@sha256:" + "1" * 64
    assert (serving.image_pull_policy, serving.image_pull_secrets) == ("Always", ("s",))
    assert serving.engine_images.llama_cpp == "r/llama:7"
    # A mirror keeps the version.
    assert serving.engine_images.vllm == "r/vllm:v0.26.0"
    assert (serving.router.image, serving.router.replicas) == ("r/ha:3", 3)
    assert serving.router.agent_namespace == NAMESPACE
    assert serving.fetch_resources.requests["cpu"] == "2"
    assert (serving.shared_memory, serving.pre_stop_seconds, serving.drain_seconds) == (
        "8Gi",
        7,
        90,
    )


def test_the_charts_images_are_the_configurations_own() -> None:
    # Two tables of one thing: whoever raises a version must raise it in both.
    rendered, plain = rendered_config().serving, ServingConfig()
    assert rendered.engine_images == plain.engine_images
    assert rendered.router.image == plain.router.image
    assert rendered.router.model_copy(update={"key_file": ""}) == plain.router
    assert rendered.image == "tunesmith-operator:0.1.0"
    unset = {"image": plain.image, "router": plain.router}
    assert rendered.model_copy(update=unset) == plain


def test_the_routers_key_is_made_and_reaches_the_operator_as_a_file() -> None:
    documents = render()
    secret = only(documents, "Secret")
    assert len(base64.b64decode(secret["data"]["key"])) == 48
    assert secret["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    pod = only(documents, "Deployment")["spec"]["template"]["spec"]
    (volume,) = [v for v in pod["volumes"] if "secret" in v]
    assert volume["secret"]["secretName"] == secret["metadata"]["name"]
    (mount,) = [m for m in pod["containers"][0]["volumeMounts"] if m["name"] == volume["name"]]
    assert mount["readOnly"] is True
    assert rendered_config().serving.router.key_file == mount["mountPath"] + "/key"


def test_the_configuration_restarts_the_pod() -> None:
    def checksum(*sets: str) -> str:
        template = only(render(*sets), "Deployment")["spec"]["template"]
        found: str = template["metadata"]["annotations"]["checksum/config"]
        return found

    assert checksum() != checksum('log.level="DEBUG"')


def test_the_pod_meets_the_restricted_pod_security_standard() -> None:
    pod = only(render(), "Deployment")["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "capabilities": {"drop": ["ALL"]},
        }
    kinds = {next(k for k in v if k != "name") for v in pod["volumes"]}
    assert kinds == {"configMap", "emptyDir", "secret"}


def rules(documents: list[dict[str, Any]], *kinds: str) -> list[dict[str, Any]]:
    """Give the rules of the roles that are bound to the operator."""
    bound = {d["roleRef"]["name"] for d in documents if d["kind"].endswith("RoleBinding")}
    return [
        rule
        for d in documents
        if d["kind"] in kinds and d["metadata"]["name"] in bound
        for rule in d["rules"]
    ]


@pytest.mark.parametrize("sets", [(), ('watchNamespaces=["team-a"]',)], ids=["all", "one"])
def test_the_rights_hold_no_secret_no_exec_and_no_wildcard(sets: tuple[str, ...]) -> None:
    for rule in rules(render(*sets), "Role", "ClusterRole"):
        named = {*rule["apiGroups"], *rule["resources"], *rule["verbs"]}
        assert not named & {"*", "secrets", "pods/exec", "pods/log", "escalate", "bind"}


WRITES = {
    ("finetunejobs", "delete"),
    ("finetunejobs/status", "patch"),
    ("finetunejobs/finalizers", "update"),
    ("modelversions", "create"),
    ("modelversions/status", "patch"),
    ("modeldeployments/status", "patch"),
    ("modeldeployments/finalizers", "update"),
    ("jobs", "create"),
    ("jobs", "delete"),
    ("configmaps", "create"),
    ("configmaps", "delete"),
    ("configmaps/finalizers", "update"),
    *(
        (kind, verb)
        for kind in (
            "services",
            "deployments",
            "poddisruptionbudgets",
            "networkpolicies",
            "horizontalpodautoscalers",
            "httproutes",
        )
        for verb in ("create", "patch", "delete")
    ),
    ("events", "create"),
    ("events", "patch"),
    ("leases", "create"),
    ("leases", "update"),
}


def test_the_operator_may_write_this_and_nothing_else() -> None:
    granted = {
        (resource, verb)
        for rule in rules(render(), "Role", "ClusterRole")
        for resource in rule["resources"]
        for verb in rule["verbs"]
        if verb not in {"get", "list", "watch"}
    }
    assert granted == WRITES


@pytest.mark.parametrize("sets", [(), ('watchNamespaces=["team-a"]',)], ids=["all", "one"])
def test_a_job_may_look_at_the_deployment_it_is_offered_to(sets: tuple[str, ...]) -> None:
    granted = [r for r in rules(render(*sets), "Role", "ClusterRole") if "get" in r["verbs"]]
    assert any("modeldeployments" in rule["resources"] for rule in granted)


@pytest.mark.parametrize("sets", [(), ('watchNamespaces=["team-a"]',)], ids=["all", "one"])
def test_only_events_say_why_a_pod_cannot_be_made(sets: tuple[str, ...]) -> None:
    granted = [r for r in rules(render(*sets), "Role", "ClusterRole") if "list" in r["verbs"]]
    assert any("events" in rule["resources"] for rule in granted)


def test_watched_namespaces_need_no_cluster_role() -> None:
    documents = render('watchNamespaces=["team-a","team-b"]')
    assert not [d for d in documents if d["kind"].startswith("ClusterRole")]
    roles = {d["metadata"]["namespace"] for d in documents if d["kind"] == "Role"}
    assert roles == {"team-a", "team-b", NAMESPACE}


def test_the_crds_are_unchanged_but_for_the_annotation_that_keeps_them() -> None:
    rendered = {
        d["metadata"]["name"]: d for d in render() if d["kind"] == "CustomResourceDefinition"
    }
    assert rendered
    for document in rendered.values():
        assert document["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
    for path in (CHART / "files" / "crds").glob("*.yaml"):
        source = yaml.safe_load(path.read_text())
        source["metadata"].pop("annotations", None)
        # Where they differ, Go's YAML read the file otherwise than Python's, as it does an
        # unquoted 2e-4: kubectl would send that as a number, too.
        assert rendered.pop(source["metadata"]["name"]) == source
    assert rendered == {}


def test_crds_can_be_left_to_others() -> None:
    documents = render("crds.install=false")
    assert not [d for d in documents if d["kind"] == "CustomResourceDefinition"]


def test_monitoring_and_network_policy_are_asked_for() -> None:
    kinds = {d["kind"] for d in render()}
    assert not kinds & {"ServiceMonitor", "NetworkPolicy"}
    asked = render("serviceMonitor.enabled=true", "networkPolicy.enabled=true")
    assert {"ServiceMonitor", "NetworkPolicy"} <= {d["kind"] for d in asked}
