"""A HorizontalPodAutoscaler's part is played: somebody writes the scale subresource mid-way."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from math import ceil

import pytest

from deploy.native.apiserver import ControlPlane
from tests.integration.operators import operator, until
from tests.integration.rollouts import (
    KIND,
    ROLLOUT,
    change,
    deployment,
    source,
    until_stable,
    until_status,
)
from tests.integration.serving import ServingCluster
from tunesmith_operator.kube.client import KubeClient
from tunesmith_operator.kube.kinds import KINDS, Object
from tunesmith_operator.kube.transport import Request

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

WEIGHT = 50


async def scale(kube: KubeClient, namespace: str, replicas: int | None = None) -> Object:
    """Read the scale subresource, or write it as an autoscaler would."""
    path = KINDS[KIND].path(namespace, "demo", "scale")
    request = Request("get", KIND, "GET", path)
    if replicas is not None:
        body = {"spec": {"replicas": replicas}}
        request = Request("patch", KIND, "PATCH", path, {}, body, "application/merge-patch+json")
    return kube._shown(KIND, await kube._exchange(request))


async def sizes(kube: KubeClient, namespace: str) -> dict[str, int]:
    """Give the pods that are asked for of each revision, by name."""
    workloads = await kube.list("Deployment", namespace)
    return {
        w["metadata"]["name"]: w["spec"]["replicas"]
        for w in workloads
        if w["metadata"]["name"] != "demo-router"
    }


@contextlib.asynccontextmanager
async def watched(
    kube: KubeClient, cluster: ServingCluster, namespace: str, stable: str, least: int, spare: int
) -> AsyncIterator[None]:
    """Fail if stable is ever asked for fewer pods than its share of ``least`` needs."""
    short: list[str] = []

    async def look() -> None:
        while True:
            weight = cluster.network.puts[-1].state.split.weight
            asked = (await sizes(kube, namespace))[stable]
            if asked < ceil(least * (100 - weight) / 100) - spare:
                short.append(f"{asked} pods of stable carry {100 - weight} % of what {least} do")
            await asyncio.sleep(0.02)

    task = asyncio.create_task(look())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    assert short == []


@pytest.mark.parametrize(
    ("mode", "spare", "expected"),
    [
        pytest.param("Surge", 0, {2: (2, 1), 6: (6, 3), 3: (3, 2)}, id="stable keeps all its pods"),
        # Pods change hands: traffic runs on up to one pod less.
        pytest.param("NoSurge", 1, {2: (1, 1), 6: (3, 3), 3: (1, 2)}, id="both share the pods"),
    ],
)
async def test_both_revisions_follow_the_scale_in_the_middle_of_a_roll_out(
    control_plane: ControlPlane,
    namespace: str,
    kube: KubeClient,
    cluster: ServingCluster,
    mode: str,
    spare: int,
    expected: dict[int, tuple[int, int]],
) -> None:
    steps = [{"weight": WEIGHT, "holdSeconds": 600}]
    rollout = {**ROLLOUT, "steps": steps, "capacity": {"mode": mode}}
    await kube.create(deployment(namespace, replicas=2, rollout=rollout))
    async with operator(control_plane, namespace):
        stable = (await until_stable(kube, namespace, 1))["status"]["stable"]["name"]
        await change(kube, namespace, source=source("b"))
        body = await until_status(
            kube, namespace, lambda s: "stepStartTime" in s.get("rollout", {}), "the step"
        )
        canary = body["status"]["canary"]["name"]
        before = 2
        for replicas, (of_stable, of_canary) in expected.items():
            async with watched(kube, cluster, namespace, stable, min(before, replicas), spare):
                await scale(kube, namespace, replicas)
                wanted = {stable: of_stable, canary: of_canary}

                async def has_followed(wanted: dict[str, int] = wanted) -> bool:
                    said = (await scale(kube, namespace))["status"]
                    is_told = said.get("replicas") == sum(wanted.values())
                    return is_told and await sizes(kube, namespace) == wanted

                await until(has_followed, what=f"{wanted} for {replicas} replicas")
            before = replicas
        selector = (await scale(kube, namespace))["status"]["selector"]
        pods = await kube.list("Pod", namespace, selector)
    owners = {pod["metadata"]["ownerReferences"][0]["name"] for pod in pods}
    assert owners == {stable, canary}, "an autoscaler measures both, and no router"
    assert cluster.network.lost == 0
