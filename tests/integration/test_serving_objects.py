"""Objects beside a ModelDeployment's roll-outs: they follow its spec and come back."""

import pytest

from deploy.native.apiserver import ControlPlane
from tests.integration.operators import (
    operator,
    until,
)
from tests.integration.rollouts import (
    change,
    deployment,
    patch,
    source,
    until_all_told,
    until_stable,
    until_status,
    weights,
)
from tests.integration.serving import ServingCluster
from tunesmith_operator.config import RouterConfig, ServingConfig
from tunesmith_operator.kube.client import KubeClient
from tunesmith_operator.kube.kinds import Object
from tunesmith_operator.kube.transport import Request, Response, Send

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


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


async def test_what_somebody_takes_over_before_it_is_deleted_is_theirs(
    control_plane: ControlPlane, namespace: str, kube: KubeClient, cluster: ServingCluster
) -> None:
    kind, refused = "HorizontalPodAutoscaler", []

    async def take_over(request: Request, send: Send) -> Response:
        """Take the owner off between the operator's look and its delete."""
        is_it = (request.verb, request.kind) == ("delete", kind)
        if is_it:
            await patch(kube, kind, namespace, "demo", {"metadata": {"ownerReferences": None}})
        answer = await send(request)
        if is_it:
            refused.append(answer.status)
        return answer

    autoscaling = {"maxReplicas": 3, "targetCpuPercent": 70}
    await kube.create(deployment(namespace, autoscaling=autoscaling))
    async with operator(control_plane, namespace, [take_over], resync_seconds=5):
        await until_stable(kube, namespace, 1)
        await change(kube, namespace, autoscaling=None)

        async def was_refused() -> bool:
            return bool(refused)

        await until(was_refused, what="the delete")
        await change(kube, namespace, revisionHistoryLimit=5)
        body = await until_stable(kube, namespace, 1)
        generation = body["metadata"]["generation"]
        await until_status(
            kube, namespace, lambda s: s["observedGeneration"] == generation, "a pass after that"
        )
    assert refused == [409]
    left = await kube.get(kind, namespace, "demo")
    assert left is not None
    assert "deletionTimestamp" not in left["metadata"]


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
