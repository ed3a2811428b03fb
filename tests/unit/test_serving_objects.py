"""Objects around the pods: records, Services, the router, the route, the autoscaler."""

import json
from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest

from tests.unit.deployments import (
    MODEL_DIGEST,
    SERVING,
    make_adapter,
    make_deployment,
    make_revision,
)
from tests.unit.manifests import (
    LONGEST,
    RECORD_UID,
    TOKEN,
    assert_restricted,
    container,
    variables,
)
from tunesmith_api.deploymentstatus import RevisionStatus
from tunesmith_api.router import RouterSplit
from tunesmith_operator.resources.serving.autoscaling import build_autoscaler
from tunesmith_operator.resources.serving.budget import build_budget
from tunesmith_operator.resources.serving.gateway import build_route
from tunesmith_operator.resources.serving.names import engine_selector
from tunesmith_operator.resources.serving.record import (
    RecordError,
    build_record,
    read_record,
)
from tunesmith_operator.resources.serving.router import TOKEN_VARIABLE, build_router
from tunesmith_operator.resources.serving.sidecar import Tokens
from tunesmith_operator.resources.serving.workload import build_host, build_service, build_workload


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


def test_drained_nodes_take_the_pods_of_stable_one_after_the_other() -> None:
    deployment = make_deployment()
    stable = RevisionStatus(revision=7, name="support-a", digest=MODEL_DIGEST)
    budget = build_budget(deployment, stable)
    assert budget["spec"]["maxUnavailable"] == 1
    assert budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
    guarded = budget["spec"]["selector"]["matchLabels"].items()

    def labels_of(number: int) -> dict[str, str]:
        revision = replace(make_revision(deployment), number=number)
        made = build_workload(deployment, revision, 1, RECORD_UID, SERVING, tokens=Tokens())
        return dict(made["spec"]["template"]["metadata"]["labels"])

    assert guarded <= labels_of(7).items()
    assert not guarded <= labels_of(8).items(), "a canary that never starts holds nothing up"
    router = build_router(deployment, SERVING, "t")[0]["spec"]["template"]["metadata"]["labels"]
    assert not guarded <= router.items()


def test_a_budget_is_that_of_the_pods_which_adapters_share() -> None:
    deployment = make_deployment(engine={"type": "VLLM", "gpus": 1}, delivery="Adapter")
    stable = RevisionStatus(revision=7, name="support-a", digest=MODEL_DIGEST)
    guarded = build_budget(deployment, stable)["spec"]["selector"]["matchLabels"].items()
    template = make_adapter(deployment, "s3://acme/base/").template
    host = build_host(deployment, "host", template, 1, SERVING, tokens=Tokens())
    assert guarded <= host["spec"]["template"]["metadata"]["labels"].items()


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
