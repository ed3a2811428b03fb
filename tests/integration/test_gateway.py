"""The router GatewayAPI: an HTTPRoute before the real CRDs, and a stand-in for their controller.

The CRDs come from the Go module of the Gateway API, checked by Go against its public database.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from deploy.native.apiserver import ControlPlane
from tests.integration.gateways import GATEWAY_API, fetch_crds
from tests.integration.operators import (
    client_of,
    make_namespace,
    operator,
    patch_status,
    until,
)
from tests.integration.rollouts import (
    ROLLOUT,
    change,
    condition_of,
    deployment,
    patch,
    read,
    source,
    until_events,
    until_rolled_back,
    until_stable,
    until_status,
)
from tests.integration.serving import (
    Behaviour,
    Network,
    RouterPod,
    ServingCluster,
    serving_cluster,
)
from tunesmith_api.router import RouterEndpoint, RouterRevision, RouterSplit, RouterState
from tunesmith_operator.kube.client import KubeClient
from tunesmith_operator.kube.errors import Gone, Unavailable
from tunesmith_operator.kube.kinds import KINDS, Object
from tunesmith_operator.planning import waking
from tunesmith_operator.reconcile import former_router

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

CRD = "config/crd/standard/gateway.networking.k8s.io_httproutes.yaml"
ROUTING = {"router": "GatewayAPI", "gateway": {"parentRefs": [{"name": "edge"}]}}
Backends = list[tuple[str, int]]


@pytest.fixture(scope="module")
def crds(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> ControlPlane:
    """Give a control plane that knows HTTPRoutes."""
    folder = tmp_path_factory.mktemp("gateway-api")
    control_plane.install_crds(fetch_crds(folder, GATEWAY_API, CRD))
    return control_plane


class Gateway:
    """Plays a Gateway's controller, and the Gateway itself."""

    def __init__(self, kube: KubeClient, namespace: str, network: Network) -> None:
        self.answer: Object | None = {"status": "True", "reason": "Accepted", "message": ""}
        """What it says of routes; None: nothing."""
        self.taken: list[Backends] = []
        """What it has done."""
        self._kube = kube
        self._namespace = namespace
        self._network = network
        self._router = network.routers["gateway"] = RouterPod("gateway", "")
        self._split: RouterSplit | None = None

    async def run(self) -> None:
        while True:
            # As every controller does: what fails is tried again.
            with contextlib.suppress(Unavailable, Gone):
                route = await self._kube.get("HTTPRoute", self._namespace, "demo")
                if route is not None and self.answer is not None:
                    await self._look_at(route)
            self._serve()
            await asyncio.sleep(0.1)

    async def _look_at(self, route: Object) -> None:
        generation = route["metadata"]["generation"]
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        condition = {"type": "Accepted", "lastTransitionTime": now, **(self.answer or {})}
        condition["observedGeneration"] = generation
        said = (route.get("status") or {}).get("parents") or [{"conditions": [{}]}]
        same = ("status", "reason", "observedGeneration")
        if all(said[0]["conditions"][0].get(key) == condition[key] for key in same):
            return
        parents = [
            {"parentRef": ref, "controllerName": "test/gateway", "conditions": [condition]}
            for ref in route["spec"]["parentRefs"]
        ]
        await patch_status(self._kube, "HTTPRoute", self._namespace, "demo", {"parents": parents})
        if condition["status"] == "True":
            self._take(backends_of(route))

    def _take(self, backends: Backends) -> None:
        if not self.taken or self.taken[-1] != backends:
            self.taken.append(backends)
        (main, _), *others = backends
        canary, weight = others[0] if others else (None, 0)
        self._split = RouterSplit(main=main, canary=canary, weight=weight)

    def answered_besides(self, stable: str) -> int:
        """Requests that other revisions have answered."""
        return sum(n for name, n in self._router.answered.items() if name != stable)

    def _serve(self) -> None:
        """Know the pods behind the Services."""
        if self._split is None:
            return
        engines = self._network.engines.items()
        names = sorted({engine.revision for _, engine in engines})
        revisions = tuple(
            RouterRevision(
                name=name,
                endpoints=tuple(
                    RouterEndpoint(address=address, port=port)
                    for (address, port), engine in engines
                    if engine.revision == name
                ),
            )
            for name in names
        )
        self._router.take(RouterState(split=self._split, revisions=revisions))


def backends_of(route: Object) -> Backends:
    return [(b["name"], b["weight"]) for b in route["spec"]["rules"][0]["backendRefs"]]


@contextlib.asynccontextmanager
async def played(
    plane: ControlPlane, namespace: str, bad: int = 0, **spec: Any
) -> AsyncIterator[tuple[KubeClient, Gateway]]:
    """Give a deployment behind a Gateway; the revision ``bad`` answers nothing well."""
    async with client_of(plane) as kube, serving_cluster(kube, namespace) as cluster:
        cluster.behaviour[namespace, bad] = Behaviour(error_share=1.0)
        gateway = Gateway(kube, namespace, cluster.network)
        task = asyncio.create_task(gateway.run())
        await kube.create(deployment(namespace, routing=ROUTING, **spec))
        try:
            yield kube, gateway
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def test_without_the_crds_an_event_says_so(
    control_plane: ControlPlane, namespace: str, kube: KubeClient, cluster: ServingCluster
) -> None:
    if "gateway.networking" in control_plane.kubectl("api-versions"):
        pytest.skip("the CRDs are there already")
    await kube.create(deployment(namespace, routing=ROUTING))
    async with operator(control_plane, namespace):
        (event,) = await until_events(kube, namespace, "ChildRefused")
    assert "HTTPRoute" in event["message"]


async def test_a_step_counts_once_the_gateway_has_accepted_it(crds: ControlPlane) -> None:
    namespace = make_namespace(crds)
    async with played(crds, namespace) as (kube, gateway), operator(crds, namespace):
        old = (await until_stable(kube, namespace, 1))["status"]["stable"]["name"]
        answer, gateway.answer = gateway.answer, None
        await change(kube, namespace, source=source("b"))
        await until_status(
            kube,
            namespace,
            lambda s: (
                s.get("rollout", {}).get("weight") == 20
                and condition_of(s, "Progressing")[1] == "WaitingForRouter"
            ),
            "the grant",
        )
        await asyncio.sleep(1)
        held = (await read(kube, namespace))["status"]
        gateway.answer = answer
        new = (await until_stable(kube, namespace, 2))["status"]["stable"]["name"]
    assert "stepStartTime" not in held["rollout"]
    assert condition_of(held, "Progressing")[1] == "WaitingForRouter"
    assert condition_of(held, "Available")[0] == "True", "it goes on with what it has"
    assert gateway.taken == [
        [(old, 100)],
        [(old, 100), (new, 0)],
        [(old, 80), (new, 20)],
        [(old, 50), (new, 50)],
        [(new, 100)],
    ]


async def test_a_route_that_is_never_accepted_is_told_and_waited_for(crds: ControlPlane) -> None:
    namespace = make_namespace(crds)
    async with played(crds, namespace) as (kube, gateway), operator(crds, namespace):
        accepts = gateway.answer
        gateway.answer = None
        ignored = await until_status(
            kube,
            namespace,
            lambda s: condition_of(s, "Available")[1] == "RouterUnavailable",
            "the missing Gateway to be told",
        )
        gateway.answer = {
            "status": "False",
            "reason": "NotAllowedByListeners",
            "message": "no listener takes routes of this namespace",
        }
        refused = await until_status(
            kube,
            namespace,
            lambda s: "NotAllowedByListeners" in condition_of(s, "Progressing")[2],
            "the refusal to be told",
        )
        gateway.answer = accepts
        await until_stable(kube, namespace, 1)
    assert "parentRefs" in condition_of(ignored["status"], "Progressing")[2]
    for kind in ("Available", "Ready"):
        assert condition_of(refused["status"], kind)[0] == "False"
        assert "no listener takes routes" in condition_of(refused["status"], kind)[2]
    assert "stable" not in refused["status"]


async def test_an_edited_route_is_put_right(
    crds: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waking, "_ROUTE_LOOK", timedelta(seconds=1))
    namespace = make_namespace(crds)
    async with played(crds, namespace) as (kube, _), operator(crds, namespace):
        name = (await until_stable(kube, namespace, 1))["status"]["stable"]["name"]

        async def is_right(hostnames: list[str]) -> bool:
            route = await kube.get("HTTPRoute", namespace, "demo")
            assert route is not None
            is_ours = backends_of(route) == [(name, 100)]
            return is_ours and route["spec"].get("hostnames", []) == hostnames

        theirs = [{"backendRefs": [{"name": "theirs", "port": 80}]}]
        for edit in ({"rules": theirs}, {"hostnames": ["other.example"]}):
            await patch(kube, "HTTPRoute", namespace, "demo", {"spec": edit})
            await until(lambda: is_right([]), what=f"{edit} to be undone")
        gateway = {"gateway": ROUTING["gateway"] | {"hostname": "chat.example"}}
        await change(kube, namespace, routing=gateway)
        await until(lambda: is_right(["chat.example"]), what="the spec's host name")


async def test_another_router_takes_over_before_the_former_goes(
    crds: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(former_router, "_STAYS", timedelta(seconds=1))
    namespace = make_namespace(crds)
    async with client_of(crds) as kube, serving_cluster(kube, namespace) as cluster:
        gateway = Gateway(kube, namespace, cluster.network)
        accepts, gateway.answer = gateway.answer, None
        playing = asyncio.create_task(gateway.run())
        await kube.create(deployment(namespace, replicas=2))
        async with operator(crds, namespace):
            before = (await until_stable(kube, namespace, 1))["status"]

            # A Gateway that takes no notice: HAProxy goes on, and follows the pods.
            await change(kube, namespace, routing=ROUTING)
            waits = await until_status(
                kube,
                namespace,
                lambda s: "former router" in condition_of(s, "Progressing")[2],
                "the former router to be told",
            )
            (pod, *_) = await kube.list("Pod", namespace, "tunesmith.dev/revision=1")
            lost = set(cluster.network.engines)
            await cluster.lose_pod(pod)

            async def follow() -> bool:
                alive = set(cluster.network.engines)
                haproxies = [r for r in cluster.routers() if r.name != "gateway"]
                told = [set(r.endpoints(r.state.split.main)) for r in haproxies if r.state]
                return len(alive) == 2 and alive != lost and told == [alive, alive]

            await until(follow, what="HAProxy to follow the pods")
            await asyncio.sleep(2)
            held = (await read(kube, namespace))["status"]
            for status in (waits["status"], held):
                assert status["url"] == before["url"]
                assert condition_of(status, "Available")[0] == "True"
            assert await owned(kube, namespace) == [
                "Deployment",
                "HTTPRoute",
                "PodDisruptionBudget",
                "Service",
            ]

            gateway.answer = accepts
            await until(lambda: owns(kube, namespace, ["HTTPRoute"]), what="HAProxy's end")
            there = await until_stable(kube, namespace, 1)
            assert there["status"]["url"] != before["url"]

            # And back: the route stays until HAProxy has pods that were told.
            cluster.agents_come = False
            await change(kube, namespace, routing={"router": "HAProxy", "gateway": None})
            await asyncio.sleep(2)
            assert "HTTPRoute" in await owned(kube, namespace)
            held = (await read(kube, namespace))["status"]
            assert condition_of(held, "Available")[0] == "True"
            cluster.agents_come = True
            wanted = ["Deployment", "PodDisruptionBudget", "Service"]
            await until(lambda: owns(kube, namespace, wanted), what="the route's end")
            back = await until_stable(kube, namespace, 1)
            assert back["status"]["url"] == before["url"]
        playing.cancel()


async def owned(kube: KubeClient, namespace: str) -> list[str]:
    """Give the kinds of the router's objects that are there."""
    names = {
        "Deployment": "demo-router",
        "PodDisruptionBudget": "demo-router",
        "Service": "demo",
        "HTTPRoute": "demo",
    }
    found = {kind: await kube.get(kind, namespace, name) for kind, name in names.items()}
    return sorted(kind for kind, body in found.items() if body)


async def owns(kube: KubeClient, namespace: str, kinds: list[str]) -> bool:
    return await owned(kube, namespace) == kinds


async def test_somebody_elses_route_is_left_alone(crds: ControlPlane) -> None:
    namespace = make_namespace(crds)
    route = {
        "apiVersion": KINDS["HTTPRoute"].api_version,
        "kind": "HTTPRoute",
        "metadata": {"namespace": namespace, "name": "demo"},
        "spec": {"rules": [{"backendRefs": [{"name": "theirs", "port": 80}]}]},
    }
    async with client_of(crds) as kube, serving_cluster(kube, namespace):
        foreign = await kube.create(route)
        await kube.create(deployment(namespace, routing=ROUTING))
        async with operator(crds, namespace):
            (event,) = await until_events(kube, namespace, "ChildRefused")
            left = await kube.get("HTTPRoute", namespace, "demo")
    assert left == foreign
    assert "belongs to somebody else" in event["message"]


async def test_pods_count_what_a_route_does_not(crds: ControlPlane) -> None:
    namespace = make_namespace(crds)
    # No sample is ever due: only the answers themselves can end it.
    analysis = {**ROLLOUT["analysis"], "intervalSeconds": 600, "dataTimeoutSeconds": 900}
    rollout = {**ROLLOUT, "analysis": analysis, "failFast": {"consecutiveErrors": 7}}
    async with (
        played(crds, namespace, bad=2, rollout=rollout) as (kube, gateway),
        operator(crds, namespace),
    ):
        await until_stable(kube, namespace, 1)
        await change(kube, namespace, source=source("b"))
        last = (await until_rolled_back(kube, namespace))["status"]["lastRollback"]
        name = (await read(kube, namespace))["status"]["stable"]["name"]
        served = gateway.answered_besides(name)
    assert (last["reason"], last["fromRevision"]) == ("ConsecutiveErrors", 2)
    assert "answers in a row failed" in last["message"]
    assert 7 <= last["requestsServedByRejected"] <= served
