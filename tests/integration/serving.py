"""Plays what stands around a ModelDeployment: the Deployment controller, the kubelet, the pods.

There is no node behind the API server, so ``ServingCluster`` makes the pods that each Deployment
asks for and says of them what a kubelet would. Behind every pod's address there is a real server
(all of 127.0.0.0/8 is this machine): engines answer /metrics with what the real sidecar would say,
routers take states as the real agent does. Clients are played too, so what is measured is real.
"""

import asyncio
import contextlib
import itertools
import os
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from hashlib import sha256

from aiohttp import web

from deploy.load import CHAT, REVISION_HEADER
from tests.integration.adapters import HostPod, token_digest
from tests.integration.operators import patch_status, until
from tunesmith_api.adapters import ADAPTERS_PATH, WantedAdapters
from tunesmith_api.labels import LABEL_HOST, LABEL_MANAGED_BY, LABEL_REVISION, MANAGED_BY
from tunesmith_api.router import (
    AGENT_PORT,
    ROUTER_STATE_PATH,
    RouterCounts,
    RouterReport,
    RouterState,
)
from tunesmith_operator.kube.client import KubeClient
from tunesmith_operator.kube.errors import AlreadyExists, Gone, Unavailable
from tunesmith_operator.kube.kinds import Object
from tunesmith_sidecar.metrics import Failure, Metrics, Route

ENGINE_PORT = 8000
TURN_SECONDS = 0.15
REQUESTS_PER_TURN = 10
_SELECTOR = f"{LABEL_MANAGED_BY}={MANAGED_BY}"
# Processes of tests run side by side on this machine: those that are started together have
# addresses of their own, 4,000 each.
_addresses = itertools.count(os.getpid() % 3125 * 4000)


def _new_address(first: int) -> str:
    number = next(_addresses)
    return f"{first}.{16 + number // 62_500 % 200}.{number // 250 % 250}.{1 + number % 250}"


@dataclass
class Behaviour:
    """What the pods of a revision do."""

    error_share: float = 0.0
    failure: Failure = Failure.ENGINE_ERROR
    """What those are."""
    is_ready: bool = True
    restarts: int = 0
    refusal: str = ""
    is_stuck: bool = False
    """Whether their node starts none of its containers, and its status says nothing of why."""


@dataclass(frozen=True)
class Put:
    """A state that a router pod took."""

    time: float
    """Seconds since 1970."""
    pod: str
    operator: str
    """Header X-Operator, for tests with two of them."""
    state: RouterState


@dataclass
class RouterPod:
    """HAProxy and its agent."""

    name: str
    token_digest: str
    state: RouterState | None = None
    answered: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    failed_in_a_row: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    is_silent: bool = False
    _owed: float = 0.0

    def take(self, state: RouterState) -> None:
        """Do what is wanted; a revision that is taken in counts from zero."""
        known = {r.name for r in self.state.revisions} if self.state else set()
        for revision in state.revisions:
            if revision.name not in known:
                self.answered[revision.name] = self.failed_in_a_row[revision.name] = 0
        self.state = state

    def restart(self) -> None:
        """Lose all memory."""
        self.state = None
        self.answered.clear()
        self.failed_in_a_row.clear()

    def report(self) -> RouterReport:
        counts = tuple(
            RouterCounts(name=name, requests=number, consecutive_errors=self.failed_in_a_row[name])
            for name, number in sorted(self.answered.items())
        )
        return RouterReport(split=self.state.split if self.state else None, counts=counts)

    def shares(self, requests: int) -> list[tuple[str, int]]:
        """Give how many of the next requests each revision gets, exactly over time."""
        if self.state is None:
            return []
        split = self.state.split
        if split.canary is None:
            return [(split.main, requests)]
        self._owed += requests * split.weight / 100
        canary = int(self._owed)
        self._owed -= canary
        return [(split.main, requests - canary), (split.canary, canary)]

    def endpoints(self, revision: str) -> list[tuple[str, int]]:
        found = self.state.revisions if self.state else ()
        return [(e.address, e.port) for r in found if r.name == revision for e in r.endpoints]


@dataclass
class EnginePod:
    """An engine and its sidecar."""

    revision: str
    metrics: Metrics
    behaviour: Behaviour
    answered: int = 0
    _owed: float = 0.0

    def answer(self) -> bool:
        """Answer one request; whether well."""
        self.answered += 1
        self._owed += self.behaviour.error_share
        is_good = self._owed < 1
        self._owed -= 0 if is_good else 1
        self.metrics.answered(Route.CHAT, 200 if is_good else 500, 0.05)
        if not is_good:
            self.metrics.failed(self.behaviour.failure)
        return is_good


class Network:
    """Answers on the addresses of pods."""

    def __init__(self) -> None:
        self.routers: dict[str, RouterPod] = {}
        self.engines: dict[tuple[str, int], EnginePod] = {}
        """By address and port."""
        self.hosts: dict[str, HostPod] = {}
        self.puts: list[Put] = []
        self.complaints: list[str] = []
        """What should never have been asked of a router."""
        self.lost = 0
        """Requests for which a router had no pod that lives."""
        app = web.Application()
        app.router.add_get("/metrics", self._metrics)
        app.router.add_post(CHAT, self._chat)
        app.router.add_route("*", ROUTER_STATE_PATH, self._state)
        app.router.add_route("*", ADAPTERS_PATH, self._adapters)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        self._sites: dict[tuple[str, int], web.TCPSite] = {}

    async def open(self, address: str, port: int) -> None:
        if not self._sites:
            await self._runner.setup()
        site = self._sites[address, port] = web.TCPSite(self._runner, address, port)
        await site.start()

    async def close(self, address: str) -> None:
        self.routers.pop(address, None)
        self.hosts.pop(address, None)
        for where in [where for where in self._sites if where[0] == address]:
            self.engines.pop(where, None)
            await self._sites.pop(where).stop()

    async def load_adapters(self, address: str) -> None:
        """Serve what a host's pod was asked for, each adapter on its own port."""
        host = self.hosts[address]
        for adapter in host.load():
            behaviour = host.behaviour(adapter.port - 10_000)
            name = adapter.revision
            self.engines[address, adapter.port] = EnginePod(name, Metrics(name), behaviour)
            if (address, adapter.port) not in self._sites:
                await self.open(address, adapter.port)
        wanted = {adapter.port for adapter in host.wanted} | {ENGINE_PORT}
        for gone in [w for w in self.engines if w[0] == address and w[1] not in wanted]:
            del self.engines[gone]

    async def shut_down(self) -> None:
        await self._runner.cleanup()

    def serve(self, requests: int) -> None:
        """Play the clients of every router."""
        for router in list(self.routers.values()):
            for revision, number in router.shares(requests):
                self._serve(router, revision, number)

    def _serve(self, router: RouterPod, revision: str, number: int) -> None:
        alive = [e for e in router.endpoints(revision) if e in self.engines]
        for turn in range(number):
            is_good = bool(alive) and self.engines[alive[turn % len(alive)]].answer()
            self.lost += not alive
            router.answered[revision] += 1
            in_a_row = router.failed_in_a_row[revision]
            router.failed_in_a_row[revision] = 0 if is_good else in_a_row + 1

    async def _metrics(self, request: web.Request) -> web.Response:
        engine = self.engines.get(_where(request))
        if engine is None:
            raise web.HTTPNotFound
        return web.Response(body=engine.metrics.render())

    async def _chat(self, request: web.Request) -> web.Response:
        engine = self.engines.get(_where(request))
        if engine is None:
            raise web.HTTPNotFound
        await asyncio.sleep((await request.json()).get("test", {}).get("delay", 0))
        status = 200 if engine.answer() else 500
        return web.Response(status=status, headers={REVISION_HEADER: engine.revision})

    async def _state(self, request: web.Request) -> web.Response:
        router = self.routers.get(_where(request)[0])
        if router is None:
            raise web.HTTPNotFound
        if _digest(request.headers.get("Authorization", "")) != router.token_digest:
            raise web.HTTPUnauthorized
        while router.is_silent:  # noqa: ASYNC110 - a test says when
            await asyncio.sleep(0.05)
        if request.method == "PUT":
            state = RouterState.model_validate_json(await request.read())
            self._check(state)
            router.take(state)
            sender = request.headers.get("X-Operator", "")
            self.puts.append(Put(time.time(), router.name, sender, state))
        return web.Response(body=router.report().model_dump_json(by_alias=True))

    async def _adapters(self, request: web.Request) -> web.Response:
        host = self.hosts.get(_where(request)[0])
        if host is None:
            raise web.HTTPNotFound
        if not host.allows(request.headers.get("Authorization", "")):
            raise web.HTTPUnauthorized
        if request.method == "PUT":
            host.take(WantedAdapters.model_validate_json(await request.read()))
        return web.Response(body=host.report().model_dump_json(by_alias=True, exclude_none=True))

    def _check(self, state: RouterState) -> None:
        split = state.split
        wanted = {split.main} | ({split.canary} if split.canary and split.weight else set())
        served = {r.name for r in state.revisions if r.endpoints}
        if not wanted <= served:
            self.complaints.append(f"no endpoints for {sorted(wanted - served)}: {state}")


def _where(request: web.Request) -> tuple[str, int]:
    assert request.transport is not None
    address, port = request.transport.get_extra_info("sockname")[:2]
    return str(address), int(port)


class ServingCluster:
    """The Deployment controller and the kubelet of some namespaces."""

    def __init__(self, kube: KubeClient, *namespaces: str, first: int = 127) -> None:
        """Give pods addresses that begin with ``first``; all of them must be this machine's."""
        self.network = Network()
        self.namespaces = set(namespaces)
        self.behaviour: dict[tuple[str, int], Behaviour] = defaultdict(Behaviour)
        """By namespace and number of the revision."""
        self.agents_come = True
        """Whether agents of new router pods start."""
        self.halted: set[tuple[str, int]] = set()
        """Revisions, as above, whose new pods do not start: no node takes them."""
        self._kube = kube
        self._first = first
        self._addresses: dict[str, str] = {}
        self._said: dict[str, Object] = {}
        self._numbers = itertools.count()
        self._turns = 0
        self._lock = asyncio.Lock()
        """Held by who changes pods: a turn must not bring back what a test has just ended."""

    async def run(self) -> None:
        while True:
            for namespace in sorted(self.namespaces):
                # As every controller does: what fails is tried again.
                with contextlib.suppress(Unavailable, Gone):
                    async with self._lock:
                        await self._turn(namespace)
            self.network.serve(REQUESTS_PER_TURN)
            self._turns += 1
            await asyncio.sleep(TURN_SECONDS)

    async def turn(self) -> None:
        """Wait until a turn is over that has begun after now."""
        # The next to end may have begun before.
        enough = self._turns + 2

        async def is_over() -> bool:
            return self._turns >= enough

        await until(is_over, what="a turn of the cluster")

    def routers(self) -> list[RouterPod]:
        return list(self.network.routers.values())

    async def lose_pods(self, namespace: str, number: int) -> None:
        """Take all pods of a revision, or of the router (0), away; others come."""
        async with self._lock:
            for pod in await self._kube.list("Pod", namespace, _SELECTOR):
                if _number(pod) == number:
                    await self._delete(pod)

    async def lose_pod(self, pod: Object) -> None:
        """Take one pod away; another comes."""
        async with self._lock:
            await self._delete(pod)

    async def evict(self, pod: Object) -> None:
        """End a pod as a node does that is short of memory: it stays, as Failed."""
        meta = pod["metadata"]
        async with self._lock:
            await self.network.close(self._addresses.pop(meta["uid"], ""))
            status = {"phase": "Failed", "reason": "Evicted", "conditions": []}
            await patch_status(self._kube, "Pod", meta["namespace"], meta["name"], status)

    async def _turn(self, namespace: str) -> None:
        """Do what a Deployment controller and a kubelet would do next."""
        workloads = await self._kube.list("Deployment", namespace, _SELECTOR)
        pods = await self._kube.list("Pod", namespace, _SELECTOR)
        for workload in workloads:
            uid = workload["metadata"]["uid"]
            mine = [
                p
                for p in pods
                if p["metadata"]["ownerReferences"][0]["uid"] == uid
                and p["status"]["phase"] != "Failed"
            ]
            wanted = workload["spec"]["replicas"]
            for _ in range(wanted - len(mine)):
                await self._create(workload)
            for pod in mine[wanted:]:
                await self._delete(pod)
            for pod in mine[:wanted]:
                await self._say(pod)
        alive = {w["metadata"]["uid"] for w in workloads}
        for pod in pods:
            if pod["metadata"]["ownerReferences"][0]["uid"] not in alive:
                await self._delete(pod)

    async def _create(self, workload: Object) -> None:
        meta, template = workload["metadata"], workload["spec"]["template"]
        owner = {"apiVersion": "apps/v1", "kind": "Deployment", "controller": True}
        behaviour = self.behaviour[meta["namespace"], _number(template)]
        node = {"nodeName": "node-1"} if behaviour.is_stuck else {}
        with contextlib.suppress(AlreadyExists):
            await self._kube.create(
                {
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "metadata": {
                        "namespace": meta["namespace"],
                        "name": f"{meta['name']}-{next(self._numbers)}",
                        "labels": template["metadata"]["labels"],
                        "ownerReferences": [owner | {"name": meta["name"], "uid": meta["uid"]}],
                    },
                    "spec": template["spec"] | node,
                }
            )

    async def _delete(self, pod: Object) -> None:
        meta = pod["metadata"]
        where = ("Pod", meta["namespace"], meta["name"])
        await self._kube.delete(*where, uid=meta["uid"], propagation="Background")
        address = self._addresses.pop(meta["uid"], "")
        await self.network.close(address)

    async def _say(self, pod: Object) -> None:
        """Say of a pod what a kubelet would: first its address, when it answers that it is ready.

        What is in it starts a turn after it got its address, as in a real cluster.
        """
        meta = pod["metadata"]
        uid = meta["uid"]
        address = self._addresses.get(uid)
        if address is None:
            address = self._addresses[uid] = _new_address(self._first)
        elif uid in self._said:
            await self._start(pod, address)
        status = self._status(pod, address)
        if self._said.get(uid) != status:
            with contextlib.suppress(Gone):
                await patch_status(self._kube, "Pod", meta["namespace"], meta["name"], status)
            self._said[uid] = status

    async def _start(self, pod: Object, address: str) -> None:
        network, number = self.network, _number(pod)
        if address in network.hosts:
            await network.load_adapters(address)
            return
        if address in network.routers or (address, ENGINE_PORT) in network.engines:
            return
        if (pod["metadata"]["namespace"], number) in self.halted or _is_stuck(pod):
            return
        if LABEL_HOST in pod["metadata"]["labels"]:
            namespace = pod["metadata"]["namespace"]
            network.hosts[address] = HostPod(
                pod["metadata"]["name"],
                token_digest(pod),
                lambda number: self.behaviour[namespace, number],
            )
            await network.open(address, ENGINE_PORT)
        elif number:
            name = pod["metadata"]["ownerReferences"][0]["name"]
            behaviour = self.behaviour[pod["metadata"]["namespace"], number]
            network.engines[address, ENGINE_PORT] = EnginePod(name, Metrics(name), behaviour)
            await network.open(address, ENGINE_PORT)
        elif self.agents_come:
            network.routers[address] = RouterPod(pod["metadata"]["name"], _token_digest(pod))
            await network.open(address, AGENT_PORT)

    def _status(self, pod: Object, address: str) -> Object:
        if _is_stuck(pod):
            return _STUCK
        number, network = _number(pod), self.network
        behaviour = self.behaviour[pod["metadata"]["namespace"], number]
        host = network.hosts.get(address)
        if LABEL_HOST in pod["metadata"]["labels"]:
            is_ready = host is not None and host.is_ready
        elif number:
            is_ready = (
                (address, ENGINE_PORT) in network.engines
                and behaviour.is_ready
                and not behaviour.refusal
            )
        else:
            router = network.routers.get(address)
            is_ready = router is not None and router.state is not None
        container = {"image": "i", "imageID": "i", "ready": is_ready, "restartCount": 0}
        containers = [container | {"name": c["name"]} for c in pod["spec"]["containers"]]
        containers[0]["restartCount"] = behaviour.restarts
        ended = {"exitCode": 1, "message": behaviour.refusal}
        init = container | {"name": "fetch", "state": {"terminated": ended}}
        return {
            "phase": "Running",
            "podIP": address,
            "podIPs": [{"ip": address}],
            "conditions": [{"type": "Ready", "status": str(is_ready)}],
            "containerStatuses": containers,
            "initContainerStatuses": [init] if behaviour.refusal else [],
        }


_CREATING = {"waiting": {"reason": "ContainerCreating"}}
_STUCK: Object = {
    "phase": "Pending",
    "conditions": [{"type": "PodScheduled", "status": "True"}],
    "containerStatuses": [
        {"name": name, "image": "i", "imageID": "", "ready": False, "restartCount": 0}
        | {"state": _CREATING}
        for name in ("engine", "sidecar")
    ],
}


def _is_stuck(pod: Object) -> bool:
    """Whether it was given to a node; the others are played without any."""
    return "nodeName" in pod["spec"]


def _number(pod: Object) -> int:
    return int(pod["metadata"]["labels"].get(LABEL_REVISION, 0))


def _digest(authorization: str) -> str:
    return f"sha256:{sha256(authorization.removeprefix('Bearer ').encode()).hexdigest()}"


def _token_digest(pod: Object) -> str:
    agent = next(c for c in pod["spec"]["containers"] if c["name"] == "agent")
    return str(next(e["value"] for e in agent["env"] if e["name"].endswith("_TOKEN_DIGEST")))


@contextlib.asynccontextmanager
async def serving_cluster(
    kube: KubeClient, *namespaces: str, first: int = 127
) -> AsyncIterator[ServingCluster]:
    """Play the cluster of some namespaces. Fails if a router was told what it never should be."""
    cluster = ServingCluster(kube, *namespaces, first=first)
    task = asyncio.create_task(cluster.run())
    try:
        yield cluster
        assert cluster.network.complaints == []
    finally:
        if task.done():
            task.result()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await cluster.network.shut_down()
