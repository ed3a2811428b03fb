"""Manifests of a ModelDeployment for tests, and how to find their parts."""

from typing import Any

from tests.unit.deployments import (
    SERVING,
    make_deployment,
    make_revision,
)
from tunesmith_operator.resources.serving.sidecar import Tokens
from tunesmith_operator.resources.serving.workload import build_workload

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
