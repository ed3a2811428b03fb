"""Routers that are told, forget, or are silent, and operators that were away, beside roll-outs."""

import asyncio
import time
from datetime import datetime, timedelta

import pytest

from deploy.native.apiserver import ControlPlane
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
    BY_HAND,
    KIND,
    ROLLOUT,
    approve,
    change,
    condition_of,
    deployment,
    passes,
    read,
    source,
    until_all_told,
    until_canary_has,
    until_quiet,
    until_rolled_back,
    until_stable,
    until_status,
    weights,
)
from tests.integration.serving import ServingCluster, serving_cluster
from tunesmith_operator.kube.client import KubeClient
from tunesmith_operator.kube.kinds import Object
from tunesmith_operator.kube.transport import Request, Response, Send
from tunesmith_operator.routing import agents

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

PASSES = 5


async def test_nothing_is_written_and_no_router_told_when_all_is_quiet(
    control_plane: ControlPlane,
) -> None:
    recorder, namespace = Recorder(), make_namespace(control_plane)
    async with client_of(control_plane) as kube, serving_cluster(kube, namespace) as cluster:
        await kube.create(deployment(namespace))
        async with operator(control_plane, namespace, [recorder]) as running:
            await until_stable(kube, namespace, 1)
            await until_quiet(running, recorder, cluster=cluster)
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
    control_plane: ControlPlane,
    namespace: str,
    kube: KubeClient,
    cluster: ServingCluster,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await kube.create(deployment(namespace))
    async with operator(control_plane, namespace) as running:
        await until_stable(kube, namespace, 1)
        silent, other = cluster.routers()
        silent.is_silent = True
        await change(kube, namespace, source=source("b"))
        await until_status(
            kube,
            namespace,
            lambda s: (
                condition_of(s, "Progressing")[1] == "WaitingForRouter"
                and all(
                    f"router pod {silent.name}: no answer" in condition_of(s, kind)[2]
                    for kind in ("Available", "Progressing")
                )
            ),
            "the silence to be told",
        )
        await asyncio.sleep(1)
        held = await read(kube, namespace)
        # No pass waits for who did not answer before: none of them would end in time.
        monkeypatch.setattr(agents, "ASK_SECONDS", 600.0)
        await passes(running, PASSES)
        silent.is_silent = False
        await until_stable(kube, namespace, 2)
    assert "stepStartTime" not in held["status"]["rollout"]
    for kind in ("Available", "Progressing"):
        assert f"router pod {silent.name}: no answer" in condition_of(held["status"], kind)[2]
    assert condition_of(held["status"], "Progressing")[1] == "WaitingForRouter"
    steps = [w for _, _, w in weights(cluster.network, other.name)]
    assert steps == [0, 20, 50, 0]


async def test_an_operator_that_was_away_finds_other_pods(
    control_plane: ControlPlane, namespace: str, kube: KubeClient, cluster: ServingCluster
) -> None:
    await kube.create(deployment(namespace, rollout=BY_HAND))
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
    await approve(kube, namespace)
    async with operator(control_plane, namespace):
        await until_stable(kube, namespace, 2)
    new = {r.name: set(r.endpoints(r.state.split.main)) for r in cluster.routers() if r.state}
    assert all(endpoints <= set(cluster.network.engines) for endpoints in new.values())
    assert len(new) == 2


async def test_an_operator_that_was_away_longer_than_data_may_lack_rejects_nothing(
    control_plane: ControlPlane, namespace: str, kube: KubeClient, cluster: ServingCluster
) -> None:
    # Nobody is so slow that the step is over before he looks.
    rollout = ROLLOUT | {"steps": [{"weight": 50, "holdSeconds": 1800}]}
    await kube.create(deployment(namespace, rollout=rollout))
    async with operator(control_plane, namespace):
        await until_stable(kube, namespace, 1)
        await change(kube, namespace, source=source("b"))
        await until_status(
            kube,
            namespace,
            lambda s: {"dataTime", "stepStartTime"} <= s.get("rollout", {}).keys(),
            "the step",
        )
    rollout = (await read(kube, namespace))["status"]["rollout"]
    before = {"rollout": earlier(rollout, timedelta(hours=1))}
    await patch_status(kube, KIND, namespace, "demo", before)
    async with operator(control_plane, namespace):
        body = await until_stable(kube, namespace, 2)
    assert "lastRollback" not in body["status"]


def earlier(status: Object, by: timedelta) -> Object:
    """Give part of a status as if it had been written that much earlier."""
    times = {name: str(value) for name, value in status.items() if name.endswith("Time")}
    return {name: (datetime.fromisoformat(t) - by).isoformat() for name, t in times.items()}


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
