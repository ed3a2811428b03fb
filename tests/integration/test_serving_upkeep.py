"""What a ModelDeployment needs beside its roll-outs: routers, their state, and objects by name."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

import pytest

from deploy.native.apiserver import ControlPlane, free_ports
from deploy.shell import StepError
from tests.integration.operators import (
    Recorder,
    client_of,
    make_namespace,
    operator,
    patch_status,
    until,
)
from tests.integration.rollouts import (
    ANALYSIS,
    KIND,
    ROLLOUT,
    change,
    condition_of,
    deployment,
    passes,
    patch,
    read,
    source,
    until_canary_has,
    until_events,
    until_quiet,
    until_rolled_back,
    until_stable,
    until_status,
    weights,
)
from tests.integration.serving import Behaviour, ServingCluster, serving_cluster
from tunesmith_api.modeldeployment import ModelDeployment
from tunesmith_api.revision import RevisionTemplate
from tunesmith_operator.config import RouterConfig, ServingConfig
from tunesmith_operator.kube.client import KubeClient
from tunesmith_operator.kube.kinds import KINDS, Object
from tunesmith_operator.kube.transport import Request, Response, Send
from tunesmith_operator.planning.revisions import revision_digest, revision_name
from tunesmith_operator.planning.sources import resolve
from tunesmith_operator.reconcile import refusals
from tunesmith_operator.routing import agents

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

PASSES = 10


async def test_nothing_is_written_and_no_router_told_when_all_is_quiet(
    control_plane: ControlPlane,
) -> None:
    recorder, namespace = Recorder(), make_namespace(control_plane)
    async with client_of(control_plane) as kube, serving_cluster(kube, namespace) as cluster:
        await kube.create(deployment(namespace))
        async with operator(control_plane, namespace, [recorder]) as running:
            await until_stable(kube, namespace, 1)
            await until_quiet(running, recorder)
            recorder.writes.clear()
            told = len(cluster.network.puts)
            await passes(running, 3)
            await asyncio.sleep(1)
    assert recorder.writes == []
    assert len(cluster.network.puts) == told


async def test_routers_that_come_late_or_forget_are_told(
    control_plane: ControlPlane, namespace: str, kube: KubeClient, cluster: ServingCluster
) -> None:
    await kube.create(deployment(namespace))
    async with operator(control_plane, namespace):
        await until_stable(kube, namespace, 1)
        await asyncio.sleep(0.5)
        cluster.agents_come = False
        await cluster.lose_pods(namespace, 0)
        await until_status(
            kube,
            namespace,
            lambda s: condition_of(s, "Available")[1] == "RouterUnavailable",
            "the routers to be missed",
        )
        await asyncio.sleep(1)
        cluster.agents_come = True
        await until_all_told(cluster)
        await until_stable(kube, namespace, 1)

        # One alone, while the other goes on: its agent is up long after its address is known.
        cluster.agents_come = False
        one = next(
            p for p in await kube.list("Pod", namespace) if "router" in p["metadata"]["name"]
        )
        await cluster.evict(one)
        await asyncio.sleep(1.5)
        cluster.agents_come = True
        await until_all_told(cluster)


async def test_routers_that_forget_while_a_pod_of_stable_is_missing_are_told(
    control_plane: ControlPlane, namespace: str, kube: KubeClient, cluster: ServingCluster
) -> None:
    """A node is lost with both routers and half of stable: what is left must serve."""
    await kube.create(deployment(namespace, replicas=2))
    async with operator(control_plane, namespace):
        await until_stable(kube, namespace, 1)
        cluster.halted.add((namespace, 1))
        engines = [
            p for p in await kube.list("Pod", namespace) if "router" not in p["metadata"]["name"]
        ]
        await cluster.lose_pod(engines[0])
        await cluster.lose_pods(namespace, 0)
        await until_all_told(cluster)


async def test_a_silent_router_holds_the_roll_out(
    control_plane: ControlPlane, namespace: str, kube: KubeClient, cluster: ServingCluster
) -> None:
    await kube.create(deployment(namespace))
    async with operator(control_plane, namespace) as running:
        await until_stable(kube, namespace, 1)
        silent, other = cluster.routers()
        silent.is_silent = True
        await change(kube, namespace, source=source("b"))
        await until_status(
            kube, namespace, lambda s: "rollout" in s and s["rollout"]["weight"], "the grant"
        )
        await asyncio.sleep(3)
        held = await read(kube, namespace)
        began = time.monotonic()
        await passes(running, PASSES)
        took = time.monotonic() - began
        silent.is_silent = False
        await until_stable(kube, namespace, 2)
    assert "stepStartTime" not in held["status"]["rollout"]
    # Half of the time that they would wait, and much more than they need.
    assert took < PASSES * agents.ASK_SECONDS / 2, "no pass waits for who did not answer before"
    for kind in ("Available", "Progressing"):
        assert f"router pod {silent.name}: no answer" in condition_of(held["status"], kind)[2]
    assert condition_of(held["status"], "Progressing")[1] == "WaitingForRouter"
    steps = [w for _, _, w in weights(cluster.network, other.name)]
    assert steps == [0, 20, 50, 0]


async def test_an_operator_that_was_away_finds_other_pods(
    control_plane: ControlPlane, namespace: str, kube: KubeClient, cluster: ServingCluster
) -> None:
    await kube.create(deployment(namespace))
    async with operator(control_plane, namespace):
        await until_stable(kube, namespace, 1)
        await change(kube, namespace, source=source("b"))
        await until_canary_has(kube, namespace, 50)
    for number in (0, 1, 2):
        await cluster.lose_pods(namespace, number)
    before = set(cluster.network.engines)

    async def are_new() -> bool:
        return len(cluster.network.engines) == 2 and not before & set(cluster.network.engines)

    await until(are_new, what="other pods")
    async with operator(control_plane, namespace):
        await until_stable(kube, namespace, 2)
    new = {r.name: set(r.endpoints(r.state.split.main)) for r in cluster.routers() if r.state}
    assert all(endpoints <= set(cluster.network.engines) for endpoints in new.values())
    assert len(new) == 2


async def test_an_operator_that_was_away_longer_than_data_may_lack_rejects_nothing(
    control_plane: ControlPlane, namespace: str, kube: KubeClient, cluster: ServingCluster
) -> None:
    await kube.create(deployment(namespace))
    async with operator(control_plane, namespace):
        await until_stable(kube, namespace, 1)
        await change(kube, namespace, source=source("b"))
        await until_canary_has(kube, namespace, 50)
    rollout = (await read(kube, namespace))["status"]["rollout"]
    assert {"dataTime", "stepStartTime"} <= rollout.keys()
    before = {"rollout": earlier(rollout, timedelta(hours=1))}
    await patch_status(kube, KIND, namespace, "demo", before)
    async with operator(control_plane, namespace):
        body = await until_stable(kube, namespace, 2)
    assert "lastRollback" not in body["status"]


def earlier(status: Object, by: timedelta) -> Object:
    """Give part of a status as if it had been written that much earlier."""
    times = {name: str(value) for name, value in status.items() if name.endswith("Time")}
    return {name: (datetime.fromisoformat(t) - by).isoformat() for name, t in times.items()}


async def test_somebody_elses_object_with_a_revisions_name_is_left_alone(
    control_plane: ControlPlane,
    namespace: str,
    kube: KubeClient,
    cluster: ServingCluster,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(refusals, "_RETRY", timedelta(seconds=1))
    await kube.create(deployment(namespace))
    async with operator(control_plane, namespace):
        await until_stable(kube, namespace, 1)
        name = name_of(deployment(namespace, source=source("b")))
        foreign = await kube.create(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"namespace": namespace, "name": name},
                "data": {"theirs": "yes"},
            }
        )
        await change(kube, namespace, source=source("b"))
        (event,) = await until_events(kube, namespace, "ChildRefused")
        stalled = await until_status(
            kube,
            namespace,
            lambda s: condition_of(s, "Stalled")[1] == "ChildRefused",
            "the condition",
        )
        assert "Delete or rename that object" in condition_of(stalled["status"], "Stalled")[2]
        assert f"ConfigMap {namespace}/{name}" in event["message"]
        left = await kube.get("ConfigMap", namespace, name)
        assert left == foreign
        uid = foreign["metadata"]["uid"]
        await kube.delete("ConfigMap", namespace, name, uid=uid, propagation="Background")
        await until_stable(kube, namespace, 2)


async def test_what_a_quota_refuses_is_a_condition_and_stable_goes_on(
    control_plane: ControlPlane,
    namespace: str,
    kube: KubeClient,
    cluster: ServingCluster,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(refusals, "_RETRY", timedelta(seconds=1))
    await kube.create(deployment(namespace))
    async with operator(control_plane, namespace):
        before = await until_stable(kube, namespace, 1)
        quota = ["quota", "few", "-n", namespace]
        control_plane.kubectl("create", *quota, "--hard=count/deployments.apps=2")
        # Nobody plays its controller.
        used = {key: {"count/deployments.apps": "2"} for key in ("hard", "used")}
        said = ["--subresource=status", "--type=merge", "-p", json.dumps({"status": used})]
        control_plane.kubectl("patch", *quota, *said)
        trial = ["create", "deployment", "trial", "-n", namespace, "--image=i", "--dry-run=server"]

        async def is_in_force() -> bool:
            try:
                control_plane.kubectl(*trial)
            except StepError as error:
                return "exceeded quota" in str(error)
            return False

        await until(is_in_force, what="the quota")
        await change(kube, namespace, source=source("b"))
        refused = await until_status(
            kube,
            namespace,
            lambda s: condition_of(s, "Stalled")[:2] == ("True", "ChildRefused"),
            "the refusal",
        )
    # Nobody knows at first what was refused before; it is not taken back for that.
    async with operator(control_plane, namespace) as running:
        await passes(running, 2)
        again = await read(kube, namespace)
        control_plane.kubectl("delete", *quota)
        after = await until_stable(kube, namespace, 2)
    message = condition_of(refused["status"], "Stalled")[2]
    assert "few" in message
    assert "Change the quota" in message
    assert condition_of(refused["status"], "Ready")[0] == "True"
    assert refused["status"]["stable"]["digest"] == before["status"]["stable"]["digest"]
    stalled = [c for c in again["status"]["conditions"] if c["type"] == "Stalled"]
    assert stalled == [c for c in refused["status"]["conditions"] if c["type"] == "Stalled"]
    assert condition_of(after["status"], "Stalled")[0] == "False"
    assert cluster.network.lost == 0


@asynccontextmanager
async def broken_webhook(
    plane: ControlPlane, kube: KubeClient, namespace: str
) -> AsyncIterator[None]:
    """Have the API server ask a webhook, which nobody answers, about autoscalers."""
    (port,) = free_ports(1)
    rule = {"apiGroups": ["autoscaling"], "apiVersions": ["*"], "operations": ["*"]}
    webhook = {
        "name": "guard.example.com",
        "clientConfig": {"url": f"https://127.0.0.1:{port}/"},
        "rules": [rule | {"resources": ["horizontalpodautoscalers"]}],
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
        "sideEffects": "None",
        "timeoutSeconds": 1,
        "admissionReviewVersions": ["v1"],
    }
    configuration = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": namespace},
        "webhooks": [webhook],
    }
    plane.kubectl("create", "-f", "-", stdin=json.dumps(configuration))
    trial = json.dumps(autoscaler(namespace))

    async def is_in_force() -> bool:
        try:
            plane.kubectl("create", "-f", "-", "--dry-run=server", stdin=trial)
        except StepError as error:
            return "failed calling webhook" in str(error)
        return False

    try:
        await until(is_in_force, what="the webhook")
        yield
    finally:
        plane.kubectl("delete", "validatingwebhookconfiguration", namespace)


async def test_a_webhook_that_fails_is_told_of_and_holds_up_neither_analysis_nor_rollback(
    control_plane: ControlPlane,
    namespace: str,
    kube: KubeClient,
    cluster: ServingCluster,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(refusals, "_RETRY", timedelta(seconds=1))
    cluster.behaviour[namespace, 2] = Behaviour(error_share=0.8)
    await kube.create(deployment(namespace))
    async with operator(control_plane, namespace):
        await until_stable(kube, namespace, 1)
        async with broken_webhook(control_plane, kube, namespace):
            scaling = {"maxReplicas": 3, "targetCpuPercent": 70}
            await change(kube, namespace, source=source("b"), autoscaling=scaling)
            (event,) = await until_events(kube, namespace, "ChildRefused")
            assert "failed calling webhook" in event["message"]
            assert "where it does not answer, mend or remove it" in event["message"]
            back = await until_rolled_back(kube, namespace)
        assert back["status"]["lastRollback"]["reason"] == "AnalysisFailed"

        async def is_made() -> Object | None:
            return await kube.get("HorizontalPodAutoscaler", namespace, "demo")

        await until(is_made, 60, "the autoscaler, once the webhook is gone")
    assert cluster.network.lost == 0


async def test_somebody_elses_autoscaler_stands_in_nobodys_way(
    control_plane: ControlPlane, namespace: str, kube: KubeClient, cluster: ServingCluster
) -> None:
    foreign = await kube.create(autoscaler(namespace))
    scaling = {"maxReplicas": 3, "targetCpuPercent": 70}
    await kube.create(deployment(namespace, autoscaling=scaling))
    async with operator(control_plane, namespace):
        await until_stable(kube, namespace, 1)
        await until_events(kube, namespace, "ChildRefused")
        await change(kube, namespace, source=source("b"))
        await until_stable(kube, namespace, 2)
    assert await kube.get("HorizontalPodAutoscaler", namespace, "demo") == foreign


async def test_the_budget_follows_what_is_stable(
    control_plane: ControlPlane, namespace: str, kube: KubeClient, cluster: ServingCluster
) -> None:
    async def guards(number: int) -> bool:
        body = await kube.get("PodDisruptionBudget", namespace, "demo-engines")
        labels = body["spec"]["selector"]["matchLabels"] if body else {}
        return labels.get("tunesmith.dev/revision") == str(number)

    await kube.create(deployment(namespace))
    async with operator(control_plane, namespace):
        await until_stable(kube, namespace, 1)
        await until(lambda: guards(1), what="a budget")
        await change(kube, namespace, source=source("b"))
        await until_stable(kube, namespace, 2)
        await until(lambda: guards(2), what="the budget to move on")


async def test_a_policy_that_the_chart_asks_for_no_longer_keeps_nobody_out(
    control_plane: ControlPlane, namespace: str, kube: KubeClient, cluster: ServingCluster
) -> None:
    async def policy() -> Object | None:
        return await kube.get("NetworkPolicy", namespace, "demo-router")

    async def is_gone() -> bool:
        left = await policy()
        # No garbage collector is here to take what was deleted in the foreground.
        return left is None or "deletionTimestamp" in left["metadata"]

    await kube.create(deployment(namespace))
    guarded = ServingConfig(router=RouterConfig(agent_namespace="system"))
    async with operator(control_plane, namespace, serving=guarded):
        await until(policy, what="the policy")
    async with operator(control_plane, namespace):
        await until(is_gone, what="its end")


async def test_objects_by_the_side_follow_the_spec_and_are_put_right(
    control_plane: ControlPlane, namespace: str, kube: KubeClient, cluster: ServingCluster
) -> None:
    kind = "HorizontalPodAutoscaler"
    await kube.create(deployment(namespace))
    async with operator(control_plane, namespace, resync_seconds=5):
        await until_stable(kube, namespace, 1)
        await change(kube, namespace, autoscaling={"maxReplicas": 3, "targetCpuPercent": 70})

        async def autoscales() -> Object | None:
            return await kube.get(kind, namespace, "demo")

        made = await until(autoscales, what="the autoscaler")
        assert made["spec"]["maxReplicas"] == 3
        await change(kube, namespace, autoscaling=None)

        async def is_gone() -> bool:
            body = await kube.get(kind, namespace, "demo")
            return body is None or "deletionTimestamp" in body["metadata"]

        await until(is_gone, what="the autoscaler's end")
        astray = {"spec": {"selector": {"app": "other"}}}
        await patch(kube, "Service", namespace, "demo", astray)
        right = {"app.kubernetes.io/component": "router"}

        async def is_right() -> bool:
            service = await kube.get("Service", namespace, "demo")
            selector = service["spec"]["selector"] if service else {}
            return "app" not in selector and right.items() <= selector.items()

        await until(is_right, what="the Service to be put right")


async def test_a_service_of_a_revision_that_somebody_deleted_comes_back(
    control_plane: ControlPlane, namespace: str, kube: KubeClient, cluster: ServingCluster
) -> None:
    """A Gateway sends requests to it; nobody watches it, so the next look finds it missing."""
    await kube.create(deployment(namespace))
    async with operator(control_plane, namespace, resync_seconds=5):
        before = await until_stable(kube, namespace, 1)
        name = before["status"]["stable"]["name"]
        first = await kube.get("Service", namespace, name)
        assert first is not None
        told = weights(cluster.network)
        uid = first["metadata"]["uid"]
        await kube.delete("Service", namespace, name, uid=uid, propagation="Background")

        async def is_back() -> Object | None:
            found = await kube.get("Service", namespace, name)
            return found if found and found["metadata"]["uid"] != uid else None

        second = await until(is_back, 60, "the Service to be made again")
        assert second["metadata"]["ownerReferences"] == first["metadata"]["ownerReferences"]
        assert second["spec"]["selector"] == first["spec"]["selector"]
        assert weights(cluster.network) == told
        after = await until_stable(kube, namespace, 1)
    assert after["status"]["stable"] == before["status"]["stable"]
    assert cluster.network.lost == 0


async def test_a_router_that_somebody_deleted_comes_back(
    control_plane: ControlPlane, namespace: str, kube: KubeClient, cluster: ServingCluster
) -> None:
    await kube.create(deployment(namespace))
    async with operator(control_plane, namespace):
        await until_stable(kube, namespace, 1)
        router = await kube.get("Deployment", namespace, "demo-router")
        assert router is not None
        uid = router["metadata"]["uid"]
        await kube.delete("Deployment", namespace, "demo-router", uid=uid, propagation="Background")

        async def is_back() -> bool:
            body = await kube.get("Deployment", namespace, "demo-router")
            return body is not None and body["metadata"]["uid"] != uid

        await until(is_back, what="the router's Deployment")
        await until_all_told(cluster)
        await until_stable(kube, namespace, 1)


@pytest.mark.parametrize("is_forbidden", [True, False], ids=["forbidden", "missing"])
async def test_golden_prompts_that_cannot_be_read_say_whether_waiting_helps(
    control_plane: ControlPlane,
    namespace: str,
    kube: KubeClient,
    cluster: ServingCluster,
    is_forbidden: bool,
) -> None:
    asked = 0

    async def forbid(request: Request, send: Send) -> Response:
        nonlocal asked
        if request.verb == "get" and request.path.endswith("/configmaps/golden"):
            asked += 1
            if is_forbidden:
                return Response(403, b'{"message": "may not"}')
        return await send(request)

    expected = "ProviderUnavailable" if is_forbidden else "QueryInvalid"
    golden = {"name": "golden", "goldenPrompts": {"configMapRef": {"name": "golden"}}, "min": "1"}
    rollout = ROLLOUT | {"analysis": ANALYSIS | {"metrics": [golden]}}
    await kube.create(deployment(namespace, rollout=rollout))
    async with operator(control_plane, namespace, [forbid]):
        await until_stable(kube, namespace, 1)
        began = time.monotonic()
        await change(kube, namespace, source=source("b"))
        await until_status(
            kube, namespace, lambda s: "stepStartTime" in s.get("rollout", {}), "the step"
        )
        held = await until_status(
            kube,
            namespace,
            lambda s: condition_of(s, "Progressing")[1] == expected,
            expected,
        )
        await asyncio.sleep(3)
        taken = int(time.monotonic() - began) + 1
        assert asked <= taken + 2, "no more often than a sample is due"
        waiting = (await read(kube, namespace))["status"]["rollout"]
        before = {"rollout": earlier({"dataTime": waiting["dataTime"]}, timedelta(hours=1))}
        await patch_status(kube, KIND, namespace, "demo", before)
        back = await until_rolled_back(kube, namespace)
    (metric,) = held["status"]["rollout"]["metrics"]
    assert metric["verdict"] == "ProviderError"
    assert ("may not" if is_forbidden else "there is no ConfigMap golden") in metric["message"]
    assert metric["failures"] == 0
    assert back["status"]["lastRollback"]["reason"] == "ProviderError"


async def until_all_told(cluster: ServingCluster, number: int = 2) -> None:
    """Wait until so many routers serve."""

    async def are_told() -> bool:
        routers = cluster.routers()
        return len(routers) == number and all(router.state for router in routers)

    await until(are_told, what="all routers to be told")


def name_of(body: Object) -> str:
    """Give the name of the revision that a deployment asks for."""
    wanted = ModelDeployment.model_validate(body)
    template = resolve(wanted.spec, ())
    assert isinstance(template, RevisionTemplate)
    return revision_name(wanted, revision_digest(template))


def autoscaler(namespace: str) -> Object:
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "theirs"}
    return {
        "apiVersion": KINDS["HorizontalPodAutoscaler"].api_version,
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"namespace": namespace, "name": "demo"},
        "spec": {"scaleTargetRef": target, "maxReplicas": 2},
    }
