"""Pods of a ModelDeployment, whatever the engine: what fetcher, sidecar and engine are told."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.deployments import (
    MODEL_DIGEST,
    SERVING,
    make_deployment,
    make_revision,
)
from tests.unit.manifests import (
    ENGINES,
    RECORD_UID,
    TOKEN,
    assert_restricted,
    container,
    engine_id,
    engine_of,
    pod_of,
    variables,
    workload,
)
from tunesmith_api.engine import EngineType
from tunesmith_operator.resources.serving.sidecar import Tokens
from tunesmith_operator.resources.serving.workload import build_service, build_workload
from tunesmith_sidecar.access import Keys
from tunesmith_sidecar.fetch.settings import parse_fetch_settings
from tunesmith_sidecar.settings import parse_settings


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
        assert variables(part)["TUNESMITH_MODELFILE_LINES"] == "--of-mine\n7"
    else:
        assert part["args"][-2:] == ["--of-mine", "7"]


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
        conversationLog={"uri": "s3://acme/logs/", "flushSeconds": 5, "sessionHeader": "x-chat"},
        s3={"region": "eu", "secretRef": {"name": "own-s3"}},
    )
    settings = parse_settings(variables(container(pod, "sidecar")), [])
    fetch = parse_fetch_settings(variables(container(pod, "fetch")))
    assert (settings.log_uri, settings.log_flush_seconds) == ("s3://acme/logs/", 5)
    assert settings.session_header == "x-chat"
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
    assert (settings.log_flush_seconds, settings.session_header) == (60, "x-conversation-id")


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
