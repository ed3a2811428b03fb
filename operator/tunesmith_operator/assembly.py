"""The parts of the operator, made once and connected: watches, cache, queue, leadership, probes.

Everything is handed down as arguments. When ``stop`` is set the passes in flight finish and the
Lease is given back, within ten seconds; a part that dies ends all, because half an operator looks
alive and does nothing. Started by ``main`` and, with other interceptors, by tests.
"""

import asyncio
import os
import signal
import socket
import time
import uuid
from collections import Counter
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import kopf
import structlog
from aiohttp import web

from tunesmith_api import API_VERSION
from tunesmith_operator import telemetry
from tunesmith_operator.config import Config
from tunesmith_operator.handlers import PLURALS, WATCHED, build_registry, take_in_written
from tunesmith_operator.handlers.probes import Health, build_app
from tunesmith_operator.handlers.spawning import spawn_kopf
from tunesmith_operator.kube.cache import Cache
from tunesmith_operator.kube.client import KubeClient
from tunesmith_operator.kube.connection import Connection, own_namespace
from tunesmith_operator.kube.errors import KubeError
from tunesmith_operator.kube.events import EventRecorder
from tunesmith_operator.kube.kinds import Object
from tunesmith_operator.kube.known import Key
from tunesmith_operator.kube.lease import AlwaysLeader, Leadership
from tunesmith_operator.kube.resync import resync
from tunesmith_operator.kube.transport import Interceptor, Request, Wire, chain
from tunesmith_operator.kube.watches import Watches
from tunesmith_operator.metrics.answers import PodAnswers
from tunesmith_operator.metrics.notify import notify
from tunesmith_operator.metrics.sampling import Sampler
from tunesmith_operator.metrics.trainer import TrainerClient
from tunesmith_operator.reconcile.finetunejob import FineTuneJobReconciler
from tunesmith_operator.reconcile.modeldeployment import ModelDeploymentReconciler
from tunesmith_operator.reconcile.modelversion import reconcile_modelversion
from tunesmith_operator.reconcile.queue import WorkQueue
from tunesmith_operator.reconcile.world import Reconcile, ServingWorld, World
from tunesmith_operator.resources.serving.sidecar import SIDECAR_PORT
from tunesmith_operator.routing.agents import RouterAgents
from tunesmith_operator.routing.sidecars import AdapterSidecars
from tunesmith_operator.routing.tokens import analysis_token

log = structlog.get_logger(__name__)

DRAIN_SECONDS = 5.0
START_RETRY_SECONDS = 2.0


def _reconcilers() -> dict[str, Reconcile]:
    return {
        "FineTuneJob": FineTuneJobReconciler(),
        "ModelVersion": reconcile_modelversion,
        "ModelDeployment": ModelDeploymentReconciler(),
    }


@dataclass
class Operator:
    """All parts of a running operator."""

    config: Config
    connection: Connection
    interceptors: Sequence[Interceptor] = ()
    reconcilers: Mapping[str, Reconcile] = field(default_factory=_reconcilers)
    router_key: str = ""
    """What the tokens of router agents and of the analysis are derived from."""
    identity: str = field(default_factory=lambda: f"{socket.gethostname()}_{uuid.uuid4()}")
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    probe_port: int = 0
    """Where the probes are served, once they are."""

    def __post_init__(self) -> None:
        """Make the parts; nothing runs yet."""
        self._api_answered_at = time.monotonic()
        self._synced = asyncio.Event()
        send = chain(Wire(self.connection), self.interceptors)
        self.leadership = self._lead(KubeClient(send, called=self._called))
        self.queue = WorkQueue(self._process, self.leadership, workers=self.config.workers)
        self.cache = Cache(self.queue.add)
        self.kube = KubeClient(
            send,
            fence=self.leadership.fence,
            saw=self._saw,
            called=self._called,
            patiently=self.queue.after_others,
        )
        self.watches = Watches(time.monotonic)
        self.recorder = EventRecorder(
            self.kube, instance=self.identity, now=_now, clock=time.monotonic
        )
        self.trainers = TrainerClient(lambda result: telemetry.TRAINER_POLLS.labels(result).inc())
        self.routers = RouterAgents(self.router_key, self.leadership.fence)
        self.sidecars = AdapterSidecars(self.router_key, SIDECAR_PORT, self.leadership.fence)
        self.sampler = Sampler()
        self.answers = PodAnswers()
        self.world = self._build_world()

    def _build_world(self) -> World:
        """Give what passes may use of all these."""
        return World(
            kube=self.kube,
            cache=self.cache,
            record=self.recorder,
            poll_progress=self.trainers.poll_progress,
            now=_now,
            config=self.config,
            serving=ServingWorld(
                self.routers,
                self.sidecars,
                self.sampler,
                self.answers,
                notify,
                partial(analysis_token, self.router_key),
            ),
            wake=self.queue.add,
            term=lambda: self.leadership.term,
        )

    async def run(self) -> None:
        """Run until ``stop`` is set. Raises what a part died of."""
        probes = await self._serve_probes()
        tasks = [
            asyncio.create_task(part, name=name)
            for name, part in {
                "stop": self.stop.wait(),
                "leadership": self.leadership.run(),
                "queue": self._work(),
                "events": self.recorder.run(),
                "watches": self._watch(),
            }.items()
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            await self._shut_down(tasks)
            await probes.cleanup()

    async def _shut_down(self, tasks: Sequence[asyncio.Task[Any]]) -> None:
        log.info("stopping", running=not self.queue.is_idle)
        # The Lease is kept until the last pass is done.
        await self.queue.drain(DRAIN_SECONDS)
        await _within(1.5, self.recorder.flush())
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=3)
        await self.leadership.release()
        for client in (self.trainers, self.routers, self.sidecars, self.sampler, self.answers):
            await client.close()
        await self.connection.close()
        log.info("stopped")

    async def _work(self) -> None:
        # A pass that sees a Job but not yet its pods would draw wrong conclusions.
        await self._synced.wait()
        await self.queue.run()

    async def _watch(self) -> None:
        """List everything once, then watch, and compare again from time to time."""
        while not self._synced.is_set():
            if await self._is_served() and await self._resync():
                self._synced.set()
            else:
                await asyncio.sleep(START_RETRY_SECONDS)
        self.watches.expect(PLURALS, self.config.namespaces)
        registry = build_registry(self.cache, self.watches, self.queue.add, self._login)
        tasks = await spawn_kopf(registry, self.identity, self.config.namespaces)
        install_signals(self.stop)
        tasks.append(asyncio.create_task(self._resync_forever(), name="resync"))
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            raise RuntimeError("kopf has ended by itself")
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=2)

    async def _is_served(self) -> bool:
        """Say whether the CRDs are there: kopf looks only once."""
        try:
            served = await self.kube.resources(API_VERSION)
        except KubeError as error:
            log.warning("the API server cannot be asked", error=str(error))
            return False
        missing = {plural for _, version, plural in WATCHED.values() if version == "v1alpha1"}
        missing -= served
        if missing:
            log.warning("waiting for the CRDs", missing=sorted(missing))
        return not missing

    def _login(self) -> kopf.AiohttpSession:
        session = self.connection.watch_session(self.watches.answered)
        return kopf.AiohttpSession(server=self.connection.host, aiohttp_session=session)

    async def _resync_forever(self) -> None:
        while True:
            await asyncio.sleep(self.config.resync_seconds)
            await self._resync()

    async def _resync(self) -> bool:
        def differed(kind: str, count: int) -> None:
            if self._synced.is_set() and count:
                telemetry.WATCH_MISSED.labels(kind).inc(count)

        with telemetry.RESYNC_SECONDS.time():
            return await resync(
                self.kube, self.cache, self.config.namespaces, self.queue.add, differed
            )

    async def _process(self, key: Key) -> timedelta | None:
        return await self.reconcilers[key.kind](self.world, key.namespace, key.name)

    def _saw(self, kind: str, body: Object) -> None:
        if kind in WATCHED:
            take_in_written(kind, body, self.cache, self.queue.add)

    def _called(self, request: Request, code: int) -> None:
        telemetry.API_REQUESTS.labels(request.verb, request.kind, str(code)).inc()
        if code:
            self._api_answered_at = time.monotonic()

    def _lead(self, calls: KubeClient) -> Leadership | AlwaysLeader:
        election = self.config.leader_election
        if not election.enabled:
            return AlwaysLeader()
        namespace = os.environ.get("POD_NAMESPACE") or own_namespace()
        return Leadership(calls, election, namespace=namespace, identity=self.identity)

    async def _serve_probes(self) -> web.AppRunner:
        health = Health(
            silent_watches=self.watches.silent,
            queue_oldest_seconds=self.queue.oldest_seconds,
            is_leader=lambda: self.leadership.is_leader,
            api_age_seconds=lambda: time.monotonic() - self._api_answered_at,
            is_synced=self._synced.is_set,
            measure=self._measure,
        )
        runner = web.AppRunner(build_app(health), access_log=None, shutdown_timeout=1)
        await runner.setup()
        site = web.TCPSite(runner, port=self.config.probe_port)
        await site.start()
        self.probe_port = runner.addresses[0][1]
        log.info("serving probes", port=self.probe_port)
        return runner

    def _measure(self) -> None:
        telemetry.IS_LEADER.set(self.leadership.is_leader)
        for plural, age in self.watches.ages().items():
            telemetry.WATCH_AGE_SECONDS.labels(plural).set(age)
        for kind, count in self.cache.counts().items():
            telemetry.CACHED_OBJECTS.labels(kind).set(count)
        telemetry.note_stages(
            *(
                Counter(own.stage for own in self.cache.all_own(kind))
                for kind in ("FineTuneJob", "ModelDeployment")
            )
        )


def install_signals(stop: asyncio.Event) -> None:
    """Make SIGTERM and SIGINT set ``stop``. kopf installs its own, so this comes after it too."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)


def _now() -> datetime:
    return datetime.now(UTC)


async def _within(seconds: float, work: Coroutine[Any, Any, None]) -> None:
    try:
        async with asyncio.timeout(seconds):
            await work
    except TimeoutError:
        log.warning("some Events were not posted any more")
