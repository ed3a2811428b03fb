"""What each engine is asked for, and pods that adapters share."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from deploy.standin.engine.engine import parse as parse_as_vllm
from tests.unit.deployments import (
    SERVING,
    make_adapter,
    make_deployment,
    make_revision,
)
from tests.unit.manifests import (
    ENGINES,
    RECORD_UID,
    TOKEN,
    assert_restricted,
    container,
    engine_of,
    option,
    pod_of,
    variables,
    workload,
)
from tunesmith_api.engine import Engine, EngineType, engine_type
from tunesmith_api.modeldeployment import Delivery
from tunesmith_api.revision import ModelFiles
from tunesmith_api.sidecar import Access
from tunesmith_operator.planning.hosting import host_of
from tunesmith_operator.planning.revisions import revision_digest
from tunesmith_operator.resources.serving.engines.plan import UnservableError
from tunesmith_operator.resources.serving.record import (
    Revision,
)
from tunesmith_operator.resources.serving.sidecar import Tokens
from tunesmith_operator.resources.serving.workload import build_host, build_service, build_workload
from tunesmith_sidecar.fetch.settings import parse_fetch_settings
from tunesmith_sidecar.settings import parse_settings


@pytest.mark.parametrize(
    ("given", "type_", "image"),
    [
        pytest.param({}, "LlamaCpp", "llama.cpp:server-b", id="without GPUs"),
        pytest.param({"gpus": 0}, "LlamaCpp", "llama.cpp:server-b", id="with none"),
        pytest.param({"gpus": 2}, "VLLM", "vllm-openai:", id="with GPUs"),
        pytest.param({"gpus": 2, "image": "me/vllm:1"}, "VLLM", "me/vllm:1", id="an image"),
        pytest.param({"gpus": 1, "type": "LlamaCpp"}, "LlamaCpp", "server-cuda", id="named"),
        pytest.param({"gpus": 1, "type": "Ollama"}, "Ollama", "ollama:", id="Ollama with GPUs"),
        pytest.param({"type": "VLLM", "image": "me/cpu:1"}, "VLLM", "me/cpu:1", id="on a CPU"),
    ],
)
def test_the_default_engine_is_vllm_with_gpus_and_llama_cpp_without(
    given: dict[str, Any], type_: str, image: str
) -> None:
    deployment = make_deployment(engine=given)
    assert deployment.spec.engine.type == type_
    assert engine_type(given) == type_
    assert image in engine_of(given)["image"]
    spelled_out = make_deployment(engine={**given, "type": type_})
    assert make_revision(spelled_out).name == make_revision(deployment).name, "the same revision"


def test_a_gpu_more_or_less_is_another_engine_only_where_none_is_named() -> None:
    revisions = [
        make_revision(make_deployment(engine=engine)).template
        for engine in ({}, {"gpus": 1}, {"type": "LlamaCpp", "gpus": 1}, {"type": "VLLM"})
    ]
    assert [t.engine.type for t in revisions] == ["LlamaCpp", "VLLM", "LlamaCpp", "VLLM"]
    assert len({revision_digest(t) for t in revisions}) == 4


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
    gpu = engine_of({"type": "LlamaCpp", "gpus": 1})
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
    assert settings.adapters_base_model == "hf://org/base"
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


def test_vllm_is_told_the_way_to_a_base_model_in_s3() -> None:
    engine = {"type": "VLLM", "env": [{"name": "AWS_REGION", "value": "mine"}]}
    deployment = make_deployment(engine=engine, delivery="Adapter")
    template = make_adapter(deployment, "s3://acme/base/").template
    host = build_host(deployment, "host", template, 1, SERVING, tokens=Tokens())
    part = container(host["spec"]["template"]["spec"], "engine")
    told = variables(part)
    assert told["AWS_ENDPOINT_URL"] == "http://chart:9000"
    assert told["RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING"] == "0"
    assert told["AWS_REGION"] == "mine"
    references = [v["valueFrom"]["secretKeyRef"] for v in part["env"] if "valueFrom" in v]
    assert {r["name"] for r in references} == {"chart-s3"}
    assert [r["key"] for r in references] == [
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
    ]
    # Nobody else needs the keys.
    hub = make_adapter(deployment, "hf://org/base").template
    other = build_host(deployment, "host", hub, 1, SERVING, tokens=Tokens())
    engine_part = container(other["spec"]["template"]["spec"], "engine")
    assert not any("valueFrom" in variable for variable in engine_part["env"])


LISTING = "sha256:" + "b" * 64


@pytest.mark.parametrize(
    ("base", "revision", "compared", "is_known"),
    [
        pytest.param("s3://acme/base/", LISTING, LISTING, True, id="S3, by its listing"),
        pytest.param("s3://acme/base/", "v2", None, False, id="S3, with somebody's own name"),
        pytest.param("s3://acme/base/", "", None, False, id="S3, without any"),
        pytest.param("hf://org/base", "abc", None, True, id="the Hub, by a commit"),
        pytest.param("hf://org/base", LISTING, None, True, id="the Hub, which refuses that itself"),
        pytest.param("hf://org/base", "", None, False, id="the Hub, whatever is newest"),
    ],
)
def test_the_base_model_is_compared_where_a_digest_of_it_is_known(
    base: str, revision: str, compared: str | None, is_known: bool
) -> None:
    deployment = make_deployment(engine={"type": "VLLM"}, delivery="Adapter")
    template = make_adapter(deployment, base, revision).template
    host = build_host(deployment, "host", template, 1, SERVING, tokens=Tokens("", "a"))
    sidecar = container(host["spec"]["template"]["spec"], "sidecar")
    assert parse_settings(variables(sidecar), []).adapters_base_digest == compared
    assert template.is_base_known is is_known


@pytest.mark.parametrize("base", ["hf://org/base", "s3://acme/base/"])
def test_vllm_takes_every_flag_of_ours(base: str) -> None:
    """A misspelt one would end the engine, and the stand-in that stands for vLLM elsewhere."""
    engine = {"type": "VLLM", "gpus": 2, "args": ["--max-model-len=4096"]}
    deployment = make_deployment(engine=engine, delivery="Adapter")
    template = make_adapter(deployment, base).template
    host = build_host(deployment, "host", template, 1, SERVING, tokens=Tokens())
    for pod in (pod_of(engine), host["spec"]["template"]["spec"]):
        part = container(pod, "engine")
        taken = parse_as_vllm([*part["command"], *part["args"]][1:])
        assert (taken.command, taken.host, taken.port) == ("serve", "127.0.0.1", 8080)
        assert taken.shutdown_timeout == 60
        with pytest.raises(SystemExit, match="2"):
            parse_as_vllm([*part["args"], "--shutdown-timeouts=60"])


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


def run_ollama(tmp_path: Path, create_fails: bool = False, **more: str) -> tuple[int, list[str]]:
    """Run the engine's real command with a program that notes how it is called."""
    part = engine_of({"type": "Ollama", "args": ["PARAMETER num_ctx 8192"]})
    home, notes = tmp_path / "home", tmp_path / "notes"
    home.mkdir()
    program = tmp_path / "ollama"
    program.write_text(
        f"""#!/bin/sh
case "$1" in
  serve) trap 'exit 3' TERM; touch {home}/up; for _ in $(seq 500); do
    sleep 0.2; grep -q "create support" {notes} 2>/dev/null && sleep 0.3 && exit 0; done;;
  list) test -e {home}/up;;
  create) echo "$1 $2" "$(tr '\\n' ';' <"$4")" >>{notes}; exit {int(create_fails)};;
  *) echo "$*" >>{notes};;
esac
"""
    )
    program.chmod(0o755)
    env = variables(part) | {"HOME": str(home), "PATH": f"{tmp_path}:/usr/bin:/bin"} | more
    done = subprocess.run(part["command"], env=env, timeout=200, check=False)
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
    settings = parse_settings(variables(sidecar), [])
    assert settings.engine_ready_path == "/v1/models/support"
    assert settings.served_model == "support", "the first one is nobody's business"


def test_ollama_takes_the_modelfile_of_the_artifact_and_further_lines_after_it(
    tmp_path: Path,
) -> None:
    files, link = tmp_path / "files", tmp_path / "model.gguf"
    files.mkdir()
    link.symlink_to(files / "model-Q8_0.gguf")
    (files / "model-Q8_0.gguf").touch()
    system = 'SYSTEM """Be kind.\nFROM now on."""\n'
    (files / "Modelfile").write_text(f"FROM ./model-Q8_0.gguf\n{system}")
    _, calls = run_ollama(tmp_path, TUNESMITH_GGUF=str(link))
    told = system.replace("\n", ";")
    expected = f"create support FROM {link};{told}PARAMETER num_ctx 8192;"
    assert calls[-1] == expected


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
