"""Adapters on shared pods against a real API server, with real measuring over HTTP."""

from contextlib import suppress
from typing import Any

import pytest

from deploy.native.apiserver import ControlPlane
from tests.integration.operators import operator, until
from tests.integration.rollouts import (
    ANALYSIS,
    BY_HAND,
    approve,
    change,
    deployment,
    read,
    until_canary_has,
    until_rolled_back,
    until_stable,
    until_status,
    weights,
)
from tests.integration.serving import Behaviour, ServingCluster
from tunesmith_operator.kube.client import KubeClient
from tunesmith_operator.kube.errors import Conflict
from tunesmith_operator.kube.kinds import KINDS, Object
from tunesmith_sidecar.metrics import Failure

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


def version(namespace: str, letter: str) -> Object:
    files = {
        "format": "Adapter",
        "uri": f"s3://bucket/{letter}/",
        "digest": "sha256:" + letter * 64,
        "sizeBytes": 1,
    }
    base = {"uri": "hf://org/base", "revision": "abc"}
    return {
        "apiVersion": KINDS["ModelVersion"].api_version,
        "kind": "ModelVersion",
        "metadata": {"namespace": namespace, "name": f"m-{letter}"},
        "spec": {"model": "m", "version": letter, "artifacts": [files], "baseModel": base},
    }


async def begin(kube: KubeClient, namespace: str, **more: Any) -> None:
    """Make two versions and a deployment of the first, on two pods."""
    for letter in "ab":
        await kube.create(version(namespace, letter))
    spec = {
        "source": {"modelVersion": "m-a"},
        "delivery": "Adapter",
        "engine": {"type": "VLLM", "image": "registry/vllm:1"},
        "replicas": 2,
        **more,
    }
    await kube.create(deployment(namespace, **spec))


async def pods_of(kube: KubeClient, namespace: str) -> set[str]:
    """Names of the pods that serve."""
    selector = "app.kubernetes.io/component=engine"
    return {p["metadata"]["name"] for p in await kube.list("Pod", namespace, selector)}


def adapter(letter: str) -> Object:
    return {"modelVersion": f"m-{letter}"}


async def test_an_adapter_takes_over_on_the_same_pods(
    control_plane: ControlPlane, namespace: str, kube: KubeClient, cluster: ServingCluster
) -> None:
    await begin(kube, namespace)
    async with operator(control_plane, namespace):
        first = await until_stable(kube, namespace, 1)
        before = await pods_of(kube, namespace)
        await change(kube, namespace, source=adapter("b"))
        second = await until_stable(kube, namespace, 2)
        assert await pods_of(kube, namespace) == before
        selector = "tunesmith.dev/adapter-host"
        (host,) = await kube.list("Deployment", namespace, selector)
        service = await kube.get("Service", namespace, second["status"]["stable"]["name"])
        new = second["status"]["stable"]["name"]
        await until_status(
            kube,
            namespace,
            lambda _: all(pod.loaded == {new} for pod in cluster.network.hosts.values()),
            "the first adapter to be unloaded",
        )
    assert service is not None
    assert service["spec"]["ports"][0]["targetPort"] == 10_002
    labels = host["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    old = first["status"]["stable"]["name"]
    assert second["status"]["replicas"] == 2
    for pod in {put.pod for put in cluster.network.puts}:
        assert weights(cluster.network, pod) == [
            (old, "", 0),
            (old, new, 20),
            (old, new, 50),
            (new, "", 0),
        ]
    assert cluster.network.lost == 0


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        pytest.param(Behaviour(error_share=0.8), "AnalysisFailed", id="bad answers"),
        pytest.param(Behaviour(refusal="ModelRefused: no"), "ModelRefused", id="wrong digest"),
    ],
)
async def test_a_bad_adapter_leaves_the_pods_as_they_were(
    control_plane: ControlPlane,
    namespace: str,
    kube: KubeClient,
    cluster: ServingCluster,
    behaviour: Behaviour,
    reason: str,
) -> None:
    cluster.behaviour[namespace, 2] = behaviour
    await begin(kube, namespace)
    async with operator(control_plane, namespace):
        first = await until_stable(kube, namespace, 1)
        stable = first["status"]["stable"]["name"]
        before = await pods_of(kube, namespace)
        await change(kube, namespace, source=adapter("b"))
        back = await until_rolled_back(kube, namespace)
        await until_status(
            kube,
            namespace,
            lambda _: all(
                [a.revision for a in pod.wanted] == [stable]
                for pod in cluster.network.hosts.values()
            ),
            "the canary to be unloaded",
        )
        assert await pods_of(kube, namespace) == before
    assert back["status"]["lastRollback"]["reason"] == reason
    assert weights(cluster.network)[-1] == (stable, "", 0)
    assert cluster.network.lost == 0


async def say_who_ends_it(kube: KubeClient, namespace: str, *, is_stable: bool) -> None:
    """Write it into the status in the operator's name: a field of somebody else's would stay."""

    async def is_said() -> bool:
        body = await read(kube, namespace)
        meta, status = body["metadata"], body["status"]
        status["rollout"]["stableCrashLoops"] = is_stable
        with suppress(Conflict):
            await kube.apply_status(
                body["kind"], namespace, "demo", status, resource_version=meta["resourceVersion"]
            )
            return True
        return False

    await until(is_said, what="the status to be written between two passes")


@pytest.mark.parametrize("loops", [False, True], ids=["stable is well", "stable ends it"])
async def test_ends_of_an_engine_that_stable_ends_are_no_errors_of_the_canary(
    control_plane: ControlPlane,
    namespace: str,
    kube: KubeClient,
    cluster: ServingCluster,
    loops: bool,
) -> None:
    cluster.behaviour[namespace, 2] = Behaviour(0.5, Failure.ENGINE_UNAVAILABLE)
    # One sample may come before the status was told whose fault that is.
    patient = {"intervalSeconds": 5, "confirmSeconds": 5, "window": 3, "failureLimit": 3}
    analysis = ANALYSIS | patient
    rollout = BY_HAND | {"analysis": analysis, "failFast": {"consecutiveErrors": 0}}
    await begin(kube, namespace, rollout=rollout)
    async with operator(control_plane, namespace):
        await until_stable(kube, namespace, 1)
        await change(kube, namespace, source=adapter("b"))
        await until_canary_has(kube, namespace, 20)
        await say_who_ends_it(kube, namespace, is_stable=loops)
        if not loops:
            back = await until_rolled_back(kube, namespace)
            assert back["status"]["lastRollback"]["metric"] == "error-rate"
            return
        await until_canary_has(kube, namespace, 50)
        await approve(kube, namespace)
        await until_stable(kube, namespace, 2)


async def test_an_adapter_with_tokens_of_its_own_is_refused_before_any_pod_hears_of_it(
    control_plane: ControlPlane, namespace: str, kube: KubeClient, cluster: ServingCluster
) -> None:
    await begin(kube, namespace)
    extended = version(namespace, "c")
    extended["spec"]["artifacts"][0]["addedTokens"] = 2
    await kube.create(extended)
    async with operator(control_plane, namespace):
        first = await until_stable(kube, namespace, 1)
        told = sum(len(pod.told) for pod in cluster.network.hosts.values())
        await change(kube, namespace, source=adapter("c"))

        def is_refused(status: Object) -> bool:
            stalled = next(c for c in status["conditions"] if c["type"] == "Stalled")
            return (stalled["status"], stalled["reason"]) == ("True", "AdapterAddsTokens")

        refused = await until_status(kube, namespace, is_refused, "the adapter to be refused")
        status = refused["status"]
        assert status["stable"]["name"] == first["status"]["stable"]["name"]
        assert "canary" not in status
        assert sum(len(pod.told) for pod in cluster.network.hosts.values()) == told
        await change(kube, namespace, source=adapter("b"))
        await until_stable(kube, namespace, 2)
    assert cluster.network.lost == 0


async def test_a_new_pod_is_told_all_before_it_serves(
    control_plane: ControlPlane, namespace: str, kube: KubeClient, cluster: ServingCluster
) -> None:
    await begin(kube, namespace)
    async with operator(control_plane, namespace):
        await until_stable(kube, namespace, 1)
    # The operator is away while a pod is lost.
    pod = sorted(await pods_of(kube, namespace))[0]
    body = await kube.get("Pod", namespace, pod)
    assert body is not None
    await cluster.evict(body)
    async with operator(control_plane, namespace):
        await until_stable(kube, namespace, 1)
        await until_status(
            kube,
            namespace,
            lambda s: s["stable"]["readyReplicas"] == 2,
            "the new pod to serve",
        )
    assert cluster.network.lost == 0


async def test_an_adapter_that_can_be_had_no_more_keeps_out_nothing_that_mends_it(
    control_plane: ControlPlane, namespace: str, kube: KubeClient, cluster: ServingCluster
) -> None:
    await begin(kube, namespace)
    async with operator(control_plane, namespace):
        await until_stable(kube, namespace, 1)
        # Its files are gone, and so are the pods that have them.
        cluster.behaviour[namespace, 1] = Behaviour(is_ready=False)
        for name in await pods_of(kube, namespace):
            body = await kube.get("Pod", namespace, name)
            assert body is not None
            await cluster.evict(body)
        await change(kube, namespace, source=adapter("b"))
        mended = await until_stable(kube, namespace, 2)
        assert "lastRollback" not in mended["status"]
        await until_status(
            kube, namespace, lambda s: s["stable"]["readyReplicas"] == 2, "all pods to serve"
        )
    # For a while there was nobody to send requests to.
    cluster.network.complaints.clear()
