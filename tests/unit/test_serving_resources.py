"""Manifests of a ModelDeployment: what engines, the router and Kubernetes are asked for."""

import json
import subprocess
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tests.unit.deployments import (
    MODEL_DIGEST,
    SERVING,
    make_adapter,
    make_deployment,
    make_revision,
)
from tunesmith_api.engine import Engine, EngineType
from tunesmith_api.modeldeployment import Delivery
from tunesmith_api.revision import ModelFiles
from tunesmith_api.router import RouterSplit
from tunesmith_api.sidecar import Access
from tunesmith_operator.planning.hosting import host_of
from tunesmith_operator.resources.serving.autoscaling import build_autoscaler
from tunesmith_operator.resources.serving.engines.plan import UnservableError
from tunesmith_operator.resources.serving.gateway import build_route
from tunesmith_operator.resources.serving.names import engine_selector
from tunesmith_operator.resources.serving.record import (
    RecordError,
    Revision,
    build_record,
    read_record,
)
from tunesmith_operator.resources.serving.router import TOKEN_VARIABLE, build_router
from tunesmith_operator.resources.serving.sidecar import Tokens
from tunesmith_operator.resources.serving.workload import build_host, build_service, build_workload
from tunesmith_sidecar.access import Keys
from tunesmith_sidecar.fetch.settings import parse_fetch_settings
from tunesmith_sidecar.settings import parse_settings

RECORD_UID = "99999999-cccc"
LONGEST = "m" * 45
TOKEN = "of-the-analysis"
ENGINES: list[dict[str, Any]] = [
    {"type": "LlamaCpp"},
    {"type": "VLLM", "gpus": 2, "gpuType": "L4"},
    {"type": "Ollama"},
    {"type": "Custom", "image": "r/own:1"},
]


def workload(engine: dict[str, Any], **more: Any) -> dict[str, Any]:
    deployment = make_deployment(engine=engine, **more)
    revision = make_revision(deployment)
    return build_workload(deployment, revision, 3, RECORD_UID, SERVING, tokens=Tokens(TOKEN))


def pod_of(engine: dict[str, Any], **more: Any) -> dict[str, Any]:
    pod: dict[str, Any] = workload(engine, **more)["spec"]["template"]["spec"]
    return pod


def container(pod: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = [c for c in [*pod["initContainers"], *pod["containers"]] if c["name"] == name]
    return dict(found)


def engine_of(engine: dict[str, Any], **more: Any) -> dict[str, Any]:
    return container(pod_of(engine, **more), "engine")


def variables(part: dict[str, Any]) -> dict[str, str]:
    named = [v["name"] for v in part.get("env", [])]
    assert len(named) == len(set(named))
    return {v["name"]: v.get("value", "") for v in part.get("env", [])}


def option(part: dict[str, Any], name: str) -> str:
    args: list[str] = part["args"]
    return args[args.index(name) + 1]


def engine_id(engine: dict[str, Any]) -> str:
    return str(engine["type"])


# --- every engine ---------------------------------------------------------------------------


def test_every_engine_is_in_these_tests() -> None:
    assert {e["type"] for e in ENGINES} == set(EngineType)


@pytest.mark.parametrize("engine", ENGINES, ids=engine_id)
def test_the_sidecar_understands_what_it_is_told(engine: dict[str, Any]) -> None:
    engine = engine | {"maxConcurrentRequests": 12, "requestTimeoutSeconds": 40}
    settings = parse_settings(variables(container(pod_of(engine), "sidecar")), [])
    assert settings.revision == "support-aaaaaaaaaa"
    assert settings.model_name == "support"
    assert settings.model_digest == MODEL_DIGEST
    assert settings.max_concurrent_requests == 12
    assert settings.request_timeout_seconds == 40
    assert settings.drain_timeout_seconds == 60
    assert settings.log_uri is None
    assert settings.api_key_file is None
    assert Keys(settings).is_analysis(TOKEN)


@pytest.mark.parametrize("engine", ENGINES, ids=engine_id)
def test_the_fetcher_understands_what_it_is_told(engine: dict[str, Any]) -> None:
    pod = pod_of(engine, s3={"region": "eu", "secretRef": {"name": "own-s3"}})
    fetcher = container(pod, "fetch")
    settings = parse_fetch_settings(variables(fetcher))
    assert settings.uri == "s3://acme/models/support/gguf/attempt-2/"
    assert settings.digest == MODEL_DIGEST
    assert (settings.endpoint, settings.region) == ("http://chart:9000", "eu")
    assert settings.path_style is True
    assert (settings.gguf_link is not None) == (engine["type"] in ("LlamaCpp", "Ollama"))
    # What it writes is where the others look, and only it may write there.
    sidecar = parse_settings(variables(container(pod, "sidecar")), [])
    assert settings.digest_file == sidecar.model_digest_file
    mounts = {
        name: [m for m in container(pod, name)["volumeMounts"] if m["name"] == "models"]
        for name in ("fetch", "engine", "sidecar")
    }
    assert [m.get("readOnly", False) for ms in mounts.values() for m in ms] == [False, True, True]
    # The keys are the fetcher's alone.
    (volume,) = [v for v in pod["volumes"] if v["name"] == "credentials"]
    assert volume["secret"] == {"secretName": "own-s3", "optional": True}
    assert settings.secret == "own-s3"
    users = [
        c["name"]
        for c in [*pod["initContainers"], *pod["containers"]]
        if any(m["name"] == "credentials" for m in c["volumeMounts"])
    ]
    assert users == ["fetch"]
    assert str(settings.credentials_dir) in [m["mountPath"] for m in fetcher["volumeMounts"]]


def test_without_a_secret_the_pods_own_identity_is_used() -> None:
    config = SERVING.model_copy(update={"s3": SERVING.s3.model_copy(update={"secret_name": ""})})
    deployment = make_deployment(engine={"serviceAccountName": "reader"})
    built = build_workload(
        deployment, make_revision(deployment), 1, RECORD_UID, config, tokens=Tokens(TOKEN)
    )
    pod = built["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == "reader"
    assert parse_fetch_settings(variables(container(pod, "fetch"))).credentials_dir is None
    assert not [v for v in pod["volumes"] if "secret" in v]


@pytest.mark.parametrize("engine", ENGINES, ids=engine_id)
def test_requests_reach_the_sidecar_and_the_sidecar_the_engine(engine: dict[str, Any]) -> None:
    deployment = make_deployment(engine=engine)
    revision = make_revision(deployment)
    built = build_workload(deployment, revision, 1, RECORD_UID, SERVING, tokens=Tokens(TOKEN))
    pod = built["spec"]["template"]["spec"]
    sidecar = container(pod, "sidecar")
    port = sidecar["ports"][0]["containerPort"]
    assert parse_settings(variables(sidecar), []).port == port
    service = build_service(deployment, revision, RECORD_UID)
    assert service["spec"]["ports"][0]["port"] == 80
    assert service["spec"]["ports"][0]["targetPort"] == port
    assert (
        service["spec"]["selector"].items()
        <= built["spec"]["template"]["metadata"]["labels"].items()
    )
    assert port != int(parse_settings(variables(sidecar), []).engine_url.rpartition(":")[2])
    probes = ("readinessProbe", "livenessProbe", "startupProbe")
    asked = [c[p]["httpGet"] for c in pod["containers"] for p in probes if p in c]
    assert {(a["path"], a["port"]) for a in asked} == {
        ("/readyz", port),
        ("/livez", port),
        ("/enginez", port),
    }


@pytest.mark.parametrize("engine", ENGINES, ids=engine_id)
def test_the_engine_outlives_its_requests(engine: dict[str, Any]) -> None:
    pod = pod_of(engine | {"requestTimeoutSeconds": 300})
    sidecar = parse_settings(variables(container(pod, "sidecar")), [])
    assert sidecar.drain_timeout_seconds == 300
    hook = container(pod, "engine")["lifecycle"]["preStop"]["httpGet"]
    assert hook == {"path": "/drained", "port": sidecar.port}
    ending = sidecar.pre_stop_seconds + sidecar.drain_timeout_seconds
    assert pod["terminationGracePeriodSeconds"] > ending + 12


def assert_restricted(pod: dict[str, Any]) -> None:
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["imagePullSecrets"] == [{"name": "pull"}]
    for part in [*pod["initContainers"], *pod["containers"]]:
        assert part["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert part["image"]
        mounted = {m["name"] for m in part["volumeMounts"]}
        assert mounted <= {v["name"] for v in pod["volumes"]}


@pytest.mark.parametrize("engine", ENGINES, ids=engine_id)
def test_serving_pods_are_restricted(engine: dict[str, Any]) -> None:
    assert_restricted(pod_of(engine))


@pytest.mark.parametrize("engine", ENGINES, ids=engine_id)
def test_what_the_user_says_comes_last_and_wins(engine: dict[str, Any]) -> None:
    own = [
        {"name": "HOME", "value": "/mine"},
        {"name": "HF_TOKEN", "secretKeyRef": {"name": "hub", "key": "token"}},
    ]
    part = engine_of(engine | {"args": ["--of-mine", "7"], "env": own, "image": "r/mine:2"})
    assert part["image"] == "r/mine:2"
    assert variables(part)["HOME"] == "/mine"
    assert part["env"][-1] == {
        "name": "HF_TOKEN",
        "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}},
    }
    if engine["type"] == "Ollama":
        assert variables(part)["TUNESMITH_MODELFILE"].endswith("\n--of-mine\n7")
    else:
        assert part["args"][-2:] == ["--of-mine", "7"]


# --- keys and the conversation log ----------------------------------------------------------


def secret_volume(pod: dict[str, Any], part: str, folder: Path | None) -> dict[str, Any]:
    """Give the Secret that a container finds in a folder."""
    mounts = container(pod, part)["volumeMounts"]
    (mount,) = [m for m in mounts if m["mountPath"] == str(folder)]
    assert mount["readOnly"] is True
    # A file that is mounted alone never changes.
    assert "subPath" not in mount
    (volume,) = [v for v in pod["volumes"] if v["name"] == mount["name"]]
    return dict(volume["secret"])


def test_the_sidecar_alone_gets_the_clients_keys() -> None:
    access = {"apiKeySecretRef": {"name": "keys", "key": "clients"}}
    pod = pod_of({"type": "LlamaCpp"}, access=access)
    file = parse_settings(variables(container(pod, "sidecar")), []).api_key_file
    assert file is not None
    source = secret_volume(pod, "sidecar", file.parent)
    items = [{"key": "clients", "path": file.name}]
    assert source == {"secretName": "keys", "items": items, "optional": True}
    for other in ("fetch", "engine"):
        assert "api-keys" not in [m["name"] for m in container(pod, other)["volumeMounts"]]
    assert_restricted(pod)


def test_the_log_is_written_where_and_as_the_model_is_read() -> None:
    pod = pod_of(
        {"type": "LlamaCpp"},
        conversationLog={"uri": "s3://acme/logs/", "flushSeconds": 5},
        s3={"region": "eu", "secretRef": {"name": "own-s3"}},
    )
    settings = parse_settings(variables(container(pod, "sidecar")), [])
    fetch = parse_fetch_settings(variables(container(pod, "fetch")))
    assert (settings.log_uri, settings.log_flush_seconds) == ("s3://acme/logs/", 5)
    assert (settings.log_endpoint, settings.log_region) == (fetch.endpoint, fetch.region)
    assert settings.log_path_style is fetch.path_style is True
    assert settings.log_credentials_dir == fetch.credentials_dir
    source = secret_volume(pod, "sidecar", settings.log_credentials_dir)
    assert source["secretName"] == "own-s3"
    assert len(pod["volumes"]) == len({v["name"] for v in pod["volumes"]})
    assert "credentials" not in [m["name"] for m in container(pod, "engine")["volumeMounts"]]


def test_a_log_without_a_secret_uses_the_pods_own_identity() -> None:
    config = SERVING.model_copy(update={"s3": SERVING.s3.model_copy(update={"secret_name": ""})})
    deployment = make_deployment(conversationLog={"uri": "s3://acme/logs/"})
    revision = make_revision(deployment)
    built = build_workload(deployment, revision, 1, RECORD_UID, config, tokens=Tokens(TOKEN))
    sidecar = container(built["spec"]["template"]["spec"], "sidecar")
    settings = parse_settings(variables(sidecar), [])
    assert (settings.log_uri, settings.log_credentials_dir) == ("s3://acme/logs/", None)
    assert settings.log_flush_seconds == 60


def test_who_reads_a_pod_learns_no_token() -> None:
    assert TOKEN not in json.dumps(workload({"type": "LlamaCpp"}))
    without = build_workload(
        make_deployment(),
        make_revision(make_deployment()),
        1,
        RECORD_UID,
        SERVING,
        tokens=Tokens(),
    )
    sidecar = container(without["spec"]["template"]["spec"], "sidecar")
    settings = parse_settings(variables(sidecar), [])
    assert not Keys(settings).is_analysis("")


# --- one by one -----------------------------------------------------------------------------


def test_llama_cpp_reads_the_link_and_stays_in_the_pod() -> None:
    pod = pod_of({"resources": {"limits": {"cpu": "1500m"}}, "maxConcurrentRequests": 100})
    part = container(pod, "engine")
    fetch = parse_fetch_settings(variables(container(pod, "fetch")))
    assert option(part, "--model") == str(fetch.gguf_link)
    assert option(part, "--host") == "127.0.0.1"
    assert option(part, "--alias") == "support"
    assert option(part, "--threads") == "2"
    assert (option(part, "--parallel"), option(part, "--ctx-size")) == ("8", "32768")
    # A probe that waited for a thread would restart a busy engine.
    assert int(option(part, "--threads-http")) > 100
    assert "command" not in part
    sidecar = parse_settings(variables(container(pod, "sidecar")), [])
    assert sidecar.engine_ready_path == "/health"
    assert sidecar.engine_url.endswith(":" + option(part, "--port"))


def test_llama_cpp_alone_gets_the_whole_context_and_with_gpus_another_image() -> None:
    one = engine_of({"maxConcurrentRequests": 1})
    assert (option(one, "--parallel"), option(one, "--ctx-size")) == ("1", "8192")
    assert "--threads" not in one["args"]
    assert "cuda" not in one["image"]
    # Its cache of old prompts would grow beyond any limit that was sized for model and context.
    assert option(one, "--cache-ram") == "0"
    gpu = engine_of({"gpus": 1})
    assert "cuda" in gpu["image"]
    assert option(gpu, "--n-gpu-layers") == "999"


def test_vllm_uses_all_gpus_shared_memory_and_no_network() -> None:
    pod = pod_of(ENGINES[1])
    part = container(pod, "engine")
    assert part["command"] == ["vllm", "serve"]
    assert part["args"][0] == "/models/files"
    assert {
        "--served-model-name=support",
        "--tensor-parallel-size=2",
        "--host=127.0.0.1",
        "--shutdown-timeout=60",
        "--enable-force-include-usage",
    } <= set(part["args"])
    assert variables(part)["HF_HUB_OFFLINE"] == "1"
    assert part["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert pod["nodeSelector"] == {"nvidia.com/gpu.product": "NVIDIA-L4"}
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in pod[
        "tolerations"
    ]
    (shm,) = [v for v in pod["volumes"] if v["name"] == "shm"]
    assert shm["emptyDir"] == {"medium": "Memory", "sizeLimit": "2Gi"}
    assert (
        parse_settings(variables(container(pod, "sidecar")), []).engine_ready_path == "/v1/models"
    )


def test_vllm_serves_an_adapter_on_its_base_model_under_the_models_name() -> None:
    deployment = make_deployment(engine={"type": "VLLM", "gpus": 1}, delivery="Adapter")
    revision = make_adapter(deployment, "hf://org/base")
    tokens = Tokens(TOKEN, "of-the-adapters")
    built = build_host(deployment, "host", revision.template, 1, SERVING, tokens=tokens)
    pod = built["spec"]["template"]["spec"]
    part, sidecar = container(pod, "engine"), container(pod, "sidecar")
    assert part["args"][:2] == ["org/base", "--revision=abc"]
    wanted = {"--enable-lora", "--max-loras=2", "--served-model-name=support-base"}
    assert wanted <= set(part["args"])
    assert variables(part)["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "True"
    assert "HF_HUB_OFFLINE" not in variables(part)
    assert pod["initContainers"] == []
    assert_restricted(pod)
    settings = parse_settings(variables(sidecar), [])
    assert (settings.served_model, settings.model_name) == ("support", "")
    assert settings.model_digest is None
    assert settings.adapters_endpoint == "http://chart:9000"
    assert "of-the-adapters" not in json.dumps(built)
    writers = [
        c["name"]
        for c in pod["containers"]
        for mount in c["volumeMounts"]
        if mount["name"] == "models" and not mount.get("readOnly")
    ]
    assert writers == ["sidecar"]
    paths = {mount["mountPath"] for mount in sidecar["volumeMounts"]}
    assert str(settings.adapters_credentials_dir) in paths


def test_two_adapters_are_served_by_the_same_pods_on_ports_of_their_own() -> None:
    deployment = make_deployment(engine={"type": "VLLM"}, delivery="Adapter")
    first = make_adapter(deployment, "hf://org/base")
    files = ModelFiles(uri="s3://acme/other/", digest="sha256:" + "c" * 64)
    second = Revision(
        "support-other", 8, "sha256:" + "d" * 64, first.template.model_copy(update={"model": files})
    )
    name = host_of("support", first.template)
    assert name == host_of("support", second.template)
    one, other = (
        build_host(deployment, name, r.template, 1, SERVING, tokens=Tokens())
        for r in (first, second)
    )
    assert one == other, "whichever asks for the pods first"
    services = [build_service(deployment, r, RECORD_UID, name)["spec"] for r in (first, second)]
    labels = one["spec"]["template"]["metadata"]["labels"]
    for service in services:
        assert service["selector"].items() <= labels.items()
    assert [s["ports"][0]["targetPort"] for s in services] == [10_007, 10_008]


KEYS = Access.model_validate({"apiKeySecretRef": {"name": "keys", "key": "clients"}})


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"base_model_uri": "hf://org/other"}, id="another base model"),
        pytest.param({"base_model_revision": "def"}, id="another commit of it"),
        pytest.param({"engine": Engine(type=EngineType.VLLM, args=("-x",))}, id="other arguments"),
        pytest.param(
            {
                "access": Access.model_validate(
                    {"apiKeySecretRef": {"name": "keys", "key": "clients"}}
                )
            },
            id="other keys for clients",
        ),
    ],
)
def test_what_differs_in_more_than_the_adapter_has_other_pods(change: dict[str, Any]) -> None:
    deployment = make_deployment(engine={"type": "VLLM"}, delivery="Adapter")
    template = make_adapter(deployment, "hf://org/base").template
    assert host_of("support", template) != host_of("support", template.model_copy(update=change))
    whole = template.model_copy(update={"delivery": Delivery.MERGED})
    assert host_of("support", whole) == ""


@pytest.mark.parametrize("base", ["", "pvc://claim/base", "builtin://tiny"])
def test_a_base_model_that_pods_cannot_reach_is_told(base: str) -> None:
    deployment = make_deployment(engine={"type": "VLLM", "gpus": 1}, delivery="Adapter")
    with pytest.raises(UnservableError, match="Use Merged"):
        build_workload(
            deployment, make_adapter(deployment, base), 1, RECORD_UID, SERVING, tokens=Tokens(TOKEN)
        )


def test_a_gpu_type_that_the_chart_does_not_know_is_told() -> None:
    with pytest.raises(UnservableError, match="Known: L4"):
        workload({"gpus": 1, "gpuType": "B200"})


def run_ollama(tmp_path: Path, create_fails: bool = False) -> tuple[int, list[str]]:
    """Run the engine's real command with a program that notes how it is called."""
    part = engine_of({"type": "Ollama", "args": ["PARAMETER num_ctx 8192"]})
    home, notes = tmp_path / "home", tmp_path / "notes"
    home.mkdir()
    program = tmp_path / "ollama"
    program.write_text(
        f"""#!/bin/sh
case "$1" in
  serve) trap 'exit 3' TERM; touch {home}/up; for _ in 1 2 3 4 5 6 7 8 9 10; do
    sleep 0.2; grep -q "create support" {notes} 2>/dev/null && sleep 0.3 && exit 0; done;;
  list) test -e {home}/up;;
  create) echo "$1 $2" "$(tr '\\n' ';' <"$4")" >>{notes}; exit {int(create_fails)};;
  *) echo "$*" >>{notes};;
esac
"""
    )
    program.chmod(0o755)
    env = variables(part) | {"HOME": str(home), "PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run(part["command"], env=env, timeout=20, check=False)
    return done.returncode, notes.read_text().splitlines()


def test_ollama_names_the_model_only_when_it_is_loaded(tmp_path: Path) -> None:
    code, calls = run_ollama(tmp_path)
    modelfile = "FROM /models/model.gguf;PARAMETER num_ctx 8192;"
    assert calls == [
        f"create tunesmith-first {modelfile}PARAMETER num_predict 1;",
        "run tunesmith-first hello",
        f"create support {modelfile}",
    ]
    assert code == 0
    sidecar = container(pod_of({"type": "Ollama"}), "sidecar")
    assert parse_settings(variables(sidecar), []).engine_ready_path == "/v1/models/support"


def test_an_ollama_that_cannot_take_the_model_ends(tmp_path: Path) -> None:
    code, calls = run_ollama(tmp_path, create_fails=True)
    assert code == 3
    assert [call.split()[:2] for call in calls] == [["create", "tunesmith-first"]]


def test_ollama_listens_in_the_pod_only_and_keeps_the_model() -> None:
    environment = variables(engine_of({"type": "Ollama"}))
    assert environment["OLLAMA_HOST"] == "127.0.0.1:11434"
    assert environment["OLLAMA_KEEP_ALIVE"] == "-1"


@pytest.mark.parametrize(("given", "engine", "sidecar"), [(None, 8000, 8001), (9000, 9000, 8000)])
def test_a_custom_engine_and_the_sidecar_do_not_collide(
    given: int | None, engine: int, sidecar: int
) -> None:
    pod = pod_of(ENGINES[3] | ({"port": given} if given else {}))
    settings = parse_settings(variables(container(pod, "sidecar")), [])
    assert (settings.engine_url, settings.port) == (f"http://127.0.0.1:{engine}", sidecar)
    part = container(pod, "engine")
    assert variables(part)["TUNESMITH_MODEL_PATH"] == "/models/files"
    assert "command" not in part
    assert "args" not in part


# --- the revision's objects ------------------------------------------------------------------


def test_a_record_reads_back_as_what_it_was_made_of() -> None:
    deployment = make_deployment(engine={"type": "LlamaCpp", "args": ["--x"]})
    revision = make_revision(deployment)
    record = build_record(deployment, revision)
    assert record["immutable"] is True
    assert read_record(record["metadata"]["name"], record["data"]) == revision
    (owner,) = record["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"]) == ("ModelDeployment", "12345678-dddd")


BROKEN = [
    pytest.param("template.json", None, id="no template"),
    pytest.param("template.json", "{}", id="a template without a model"),
    pytest.param("number", "seven", id="no number"),
    pytest.param("digest", None, id="no digest"),
]


@pytest.mark.parametrize(("key", "value"), BROKEN)
def test_a_configmap_that_is_no_record_is_told(key: str, value: str | None) -> None:
    deployment = make_deployment()
    data = build_record(deployment, make_revision(deployment))["data"]
    changed = {k: v for k, v in data.items() if k != key} | ({key: value} if value else {})
    with pytest.raises(RecordError, match="ConfigMap support-x"):
        read_record("support-x", changed)


def test_all_of_a_revision_goes_with_its_record() -> None:
    deployment = make_deployment()
    revision = make_revision(deployment)
    built = build_workload(deployment, revision, 3, RECORD_UID, SERVING, tokens=Tokens(TOKEN))
    for manifest in (built, build_service(deployment, revision, RECORD_UID)):
        assert manifest["metadata"]["name"] == revision.name
        (owner,) = manifest["metadata"]["ownerReferences"]
        assert owner == {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "name": revision.name,
            "uid": RECORD_UID,
            "controller": True,
            "blockOwnerDeletion": True,
        }
        assert manifest["metadata"]["labels"]["tunesmith.dev/revision"] == "7"
    assert built["spec"]["replicas"] == 3
    assert built["spec"]["revisionHistoryLimit"] == 0
    labels = built["spec"]["template"]["metadata"]["labels"]
    assert built["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert engine_selector(deployment).items() <= labels.items()


def test_only_the_template_decides_about_pods() -> None:
    one = make_deployment(replicas=1, engine={"type": "VLLM"})
    other = make_deployment(replicas=9, paused=True)
    revision = make_revision(one)
    assert build_workload(
        one, revision, 2, RECORD_UID, SERVING, tokens=Tokens(TOKEN)
    ) == build_workload(other, revision, 2, RECORD_UID, SERVING, tokens=Tokens(TOKEN))


# --- router, route, autoscaler ----------------------------------------------------------------


def everything(config: Any = SERVING, **spec: Any) -> list[dict[str, Any]]:
    """All that a ModelDeployment with the longest name can be made of."""
    deployment = make_deployment(LONGEST, **spec)
    revision = make_revision(deployment)
    autoscaling = deployment.spec.autoscaling
    return [
        build_record(deployment, revision),
        build_workload(deployment, revision, 1, RECORD_UID, config, tokens=Tokens(TOKEN)),
        build_service(deployment, revision, RECORD_UID),
        *build_router(deployment, config, "t0ken"),
        *([build_autoscaler(deployment, autoscaling)] if autoscaling else []),
    ]


def test_names_and_labels_fit_and_no_two_objects_share_a_name() -> None:
    built = everything(autoscaling={"maxReplicas": 3, "targetCpuPercent": 70})
    names = [(m["kind"], m["metadata"]["name"]) for m in built]
    assert len(names) == len(set(names))
    for manifest in built:
        labels = manifest["metadata"]["labels"]
        assert max(len(v) for v in [manifest["metadata"]["name"], *labels.values()]) <= 63
        assert labels["tunesmith.dev/deployment"] == LONGEST
        assert labels["app.kubernetes.io/managed-by"] == "tunesmith"


def router_parts(config: Any = SERVING) -> dict[str, dict[str, Any]]:
    return {m["kind"]: m for m in build_router(make_deployment(), config, "t0ken")}


def test_the_router_is_restricted_spread_and_reached_by_the_deployments_name() -> None:
    parts = router_parts()
    assert set(parts) == {"Deployment", "Service", "PodDisruptionBudget"}
    spec = parts["Deployment"]["spec"]
    pod = spec["template"]["spec"]
    assert_restricted(pod)
    assert spec["replicas"] == 2
    assert pod["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    service = parts["Service"]
    assert service["metadata"]["name"] == "support"
    labels = spec["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    assert not engine_selector(make_deployment()).items() <= labels.items()
    assert (service["spec"]["ports"][0]["port"], service["spec"]["ports"][0]["targetPort"]) == (
        80,
        8000,
    )
    budget = parts["PodDisruptionBudget"]["spec"]
    assert budget["maxUnavailable"] == 1
    assert budget["selector"]["matchLabels"] == spec["selector"]["matchLabels"]


def test_haproxy_has_what_the_agent_wrote_and_the_agent_alone_the_token() -> None:
    pod = router_parts()["Deployment"]["spec"]["template"]["spec"]
    init, haproxy, agent = (container(pod, name) for name in ("init", "haproxy", "agent"))
    assert init["command"] == ["python", "-m", "tunesmith_router", "init"]
    assert haproxy["command"] == ["haproxy", "-W", "-db", "-f", "/run/tunesmith-router/haproxy.cfg"]
    assert agent["command"] == ["python", "-m", "tunesmith_router"]
    assert variables(agent) == {TOKEN_VARIABLE: f"sha256:{sha256(b't0ken').hexdigest()}"}
    assert "t0ken" not in json.dumps(pod), "whoever may read pods must not move traffic"
    assert agent["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": 8404}
    assert init["volumeMounts"] == haproxy["volumeMounts"] == agent["volumeMounts"]
    stop = haproxy["lifecycle"]["preStop"]["exec"]["command"][-1]
    assert stop.startswith("sleep 5; kill -USR1 1;")
    assert pod["terminationGracePeriodSeconds"] > 5 + 60


def test_only_the_operators_namespace_reaches_the_agent_where_that_is_wanted() -> None:
    router = SERVING.serving.router.model_copy(update={"agent_namespace": "system"})
    serving = SERVING.serving.model_copy(update={"router": router})
    config = SERVING.model_copy(update={"serving": serving})
    clients, operator = router_parts(config)["NetworkPolicy"]["spec"]["ingress"]
    assert clients == {"ports": [{"protocol": "TCP", "port": 8000}]}
    assert operator["ports"] == [{"protocol": "TCP", "port": 8404}]
    (peer,) = operator["from"]
    assert peer["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "system"}


GATEWAY = {
    "router": "GatewayAPI",
    "gateway": {"parentRefs": [{"name": "public", "sectionName": "web"}], "hostname": "m.example"},
}


def route(split: RouterSplit) -> dict[str, Any]:
    deployment = make_deployment(routing=GATEWAY)
    assert deployment.spec.routing.gateway is not None
    spec: dict[str, Any] = build_route(deployment, deployment.spec.routing.gateway, split)["spec"]
    return spec


OURS = {
    "type": "RequestHeaderModifier",
    "requestHeaderModifier": {"remove": ["x-tunesmith-analysis", "x-tunesmith-mirror"]},
}


def test_a_route_has_both_weights() -> None:
    spec = route(RouterSplit(main="a-1", canary="a-2", weight=10))
    assert spec["parentRefs"] == [{"name": "public", "sectionName": "web"}]
    assert spec["hostnames"] == ["m.example"]
    (rule,) = spec["rules"]
    assert rule == {
        "filters": [OURS],
        "timeouts": {"request": "0s"},
        "backendRefs": [
            {"name": "a-1", "port": 80, "weight": 90},
            {"name": "a-2", "port": 80, "weight": 10},
        ],
    }


def test_a_route_without_a_canary_has_one_backend() -> None:
    (rule,) = route(RouterSplit(main="a-1"))["rules"]
    backend = {"name": "a-1", "port": 80, "weight": 100}
    assert rule["backendRefs"] == [backend]
    assert rule["filters"] == [OURS]


def test_a_dark_canary_gets_copies() -> None:
    (rule,) = route(RouterSplit(main="a-1", canary="a-2", mirror_percent=5))["rules"]
    assert rule["filters"] == [
        OURS,
        {
            "type": "RequestMirror",
            "requestMirror": {"backendRef": {"name": "a-2", "port": 80}, "percent": 5},
        },
    ]
    assert [b["weight"] for b in rule["backendRefs"]] == [100, 0]


SCALED = [
    pytest.param(
        {"targetCpuPercent": 70},
        "ContainerResource",
        {"type": "Utilization", "averageUtilization": 70},
        id="by the engine's CPU",
    ),
    pytest.param(
        {"targetInFlightRequests": 40},
        "Pods",
        {"type": "AverageValue", "averageValue": "40"},
        id="by requests in flight",
    ),
]


@pytest.mark.parametrize(("target", "kind", "expected"), SCALED)
def test_an_autoscaler_scales_the_model_deployment(
    target: dict[str, Any], kind: str, expected: dict[str, Any]
) -> None:
    deployment = make_deployment(autoscaling={"minReplicas": 2, "maxReplicas": 8, **target})
    assert deployment.spec.autoscaling is not None
    spec = build_autoscaler(deployment, deployment.spec.autoscaling)["spec"]
    assert spec["scaleTargetRef"] == {
        "apiVersion": "tunesmith.dev/v1alpha1",
        "kind": "ModelDeployment",
        "name": "support",
    }
    assert (spec["minReplicas"], spec["maxReplicas"]) == (2, 8)
    (metric,) = spec["metrics"]
    assert metric["type"] == kind
    assert metric[kind[0].lower() + kind[1:]]["target"] == expected
