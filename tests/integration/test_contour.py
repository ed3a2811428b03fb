"""The router GatewayAPI with a real Gateway: what our routes do to requests, not what we wrote.

Contour and Envoy are real, the operator is, and so are the requests; pods are played. Run by
``make test-gateway``, which gets both, and by whoever has them. The sole parts of a route that an
implementation may leave out are mirroring and its percent; see ADR 0017.
"""

import asyncio
import contextlib
import json
import signal
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from deploy.load import Answer, Load, ask, by_revision, failures, question
from deploy.rollout_status import parse_status
from tests.integration.gateways import (
    FIRST,
    PARENT,
    URL,
    Gateway,
    play_endpoints,
    real_gateway,
    wait_until_programmed,
)
from tests.integration.operators import client_of, make_namespace, operator, until
from tests.integration.rollouts import (
    ROLLOUT,
    change,
    condition_of,
    deployment,
    patch,
    read,
    source,
    until_rolled_back,
    until_stable,
    until_status,
)
from tests.integration.serving import ServingCluster, serving_cluster
from tunesmith_operator.kube.client import KubeClient
from tunesmith_operator.kube.kinds import Object
from tunesmith_operator.planning import waking

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

ROUTING = {"router": "GatewayAPI", "gateway": {"parentRefs": [PARENT]}}
QUESTION = question("What is 2 and 2?")
RATE = 80
LOOK_SECONDS = 4
ENVOY_LIMIT_SECONDS = 15
SETTLE_SECONDS = 0.5
"""From a route that is accepted to an Envoy that does it; Contour tells both at once."""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with real_gateway(tmp_path_factory.mktemp("contour")) as running:
        wait_until_programmed(running.plane)
        yield running


@dataclass
class Stage:
    """A deployment whose first revision answers through the Gateway."""

    kube: KubeClient
    namespace: str
    cluster: ServingCluster
    stable: str
    load: Load

    async def status(self) -> Object:
        found: Object = (await read(self.kube, self.namespace))["status"]
        return found

    async def at_weight(self, weight: int) -> str:
        """Wait for a step to have begun; give the canary's name."""

        def has_begun(status: Object) -> bool:
            rollout = status.get("rollout") or {}
            return rollout.get("weight") == weight and "stepStartTime" in rollout

        body = await until_status(self.kube, self.namespace, has_begun, f"the step to {weight} %")
        return str(body["status"]["canary"]["name"])

    async def answers(self, seconds: float = LOOK_SECONDS) -> list[Answer]:
        """Give the answers to what is sent in the next seconds."""
        await asyncio.sleep(SETTLE_SECONDS)
        since = time.monotonic()
        await asyncio.sleep(seconds)
        return self.load.since(since)

    def asked(self, revision: str) -> int:
        """Say how many requests the pods of a revision got."""
        engines = self.cluster.network.engines.values()
        return sum(engine.answered for engine in engines if engine.revision == revision)


@contextlib.asynccontextmanager
async def stage(gateway: Gateway, *steps: Object, **rollout: Any) -> AsyncIterator[Stage]:
    """Bring a deployment up and keep asking it."""
    plane, namespace = gateway.plane, make_namespace(gateway.plane)
    spec = {"routing": ROUTING, "rollout": {**ROLLOUT, **rollout, "steps": list(steps)}}
    async with (
        client_of(plane) as kube,
        serving_cluster(kube, namespace, first=FIRST) as cluster,
        played_endpoints(kube, namespace),
    ):
        try:
            async with operator(plane, namespace):
                await kube.create(deployment(namespace, **spec))
                stable = (await until_stable(kube, namespace, 1))["status"]["stable"]["name"]
                await until(is_answered, what="the first answer through the Gateway")
                async with asking() as load:
                    yield Stage(kube, namespace, cluster, stable, load)
        finally:
            # The next test's is for the same requests.
            plane.kubectl("delete", "httproute", "demo", "-n", namespace)


@contextlib.asynccontextmanager
async def played_endpoints(kube: KubeClient, namespace: str) -> AsyncIterator[None]:
    task = asyncio.create_task(play_endpoints(kube, namespace))
    try:
        yield
    finally:
        if task.done():
            task.result()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@contextlib.asynccontextmanager
async def asking() -> AsyncIterator[Load]:
    load = Load(URL, RATE, lambda _: QUESTION)
    load.__enter__()
    try:
        yield load
    finally:
        # It waits for answers, which come from this loop.
        await asyncio.to_thread(load.__exit__, None, None, None)


async def is_answered() -> bool:
    """Ask once: Envoy opens its port with the first route."""
    answer, _ = await asyncio.to_thread(ask, URL, QUESTION)
    return answer.is_good


def share(answers: list[Answer], revision: str) -> float:
    """Give the percentage that a revision answered."""
    return 100 * by_revision(answers).get(revision, 0) / len(answers)


async def test_requests_follow_the_weights_and_none_fails(gateway: Gateway) -> None:
    hold = LOOK_SECONDS + 2
    steps = [{"weight": weight, "holdSeconds": hold} for weight in (20, 70)]
    async with stage(gateway, *steps) as it:
        await change(it.kube, it.namespace, source=source("b"))
        shares = []
        for weight in (20, 70):
            canary = await it.at_weight(weight)
            shares.append(share(await it.answers(), canary))
        await until_stable(it.kube, it.namespace, 2)
        last = await it.answers(1)
    print("shares of the canary:", [f"{s:.1f} %" for s in shares])
    # Four standard deviations of a fair draw of as many.
    assert shares == pytest.approx([20, 70], abs=400 * (0.25 / (RATE * LOOK_SECONDS)) ** 0.5)
    assert by_revision(last) == {canary: len(last)}
    assert failures(it.load.answers) == []


async def test_a_step_counts_only_once_contour_has_accepted_it(gateway: Gateway) -> None:
    async with stage(gateway, {"weight": 50, "holdSeconds": 1}) as it:
        gateway.signal_contour(signal.SIGSTOP)
        try:
            await change(it.kube, it.namespace, source=source("b"))
            await until_status(
                it.kube,
                it.namespace,
                lambda s: s.get("rollout", {}).get("weight") == 50,
                "the grant",
            )
            meanwhile = await it.answers(2)
            held = await it.status()
        finally:
            gateway.signal_contour(signal.SIGCONT)
        canary = await it.at_weight(50)
        await until_stable(it.kube, it.namespace, 2)
    assert "stepStartTime" not in held["rollout"]
    assert condition_of(held, "Progressing")[1] == "WaitingForRouter"
    assert by_revision(meanwhile) == {it.stable: len(meanwhile)}
    assert canary in by_revision(it.load.answers)
    assert failures(it.load.answers) == []


async def test_what_somebody_edits_is_put_right(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waking, "_ROUTE_LOOK", timedelta(seconds=1))
    async with stage(gateway, {"weight": 50, "holdSeconds": 1}) as it:
        theirs = [{"backendRefs": [{"name": "theirs", "port": 80}]}]
        await patch(it.kube, "HTTPRoute", it.namespace, "demo", {"spec": {"rules": theirs}})

        async def is_broken() -> bool:
            return bool(failures(it.load.answers))

        await until(is_broken, what="the edit to take effect")

        async def is_right() -> bool:
            newest = it.load.answers[-RATE // 2 :]
            return not failures(newest) and by_revision(newest) == {it.stable: len(newest)}

        await until(is_right, what="the edit to be undone")
        bad = failures(it.load.answers)
        lasted = bad[-1].sent - bad[0].sent
    print(f"an edited route failed requests for {lasted:.1f} s, looked at each second")
    assert lasted < 10


async def test_a_rejected_canary_is_soon_asked_no_more(gateway: Gateway) -> None:
    async with stage(gateway, {"weight": 25, "holdSeconds": 60}) as it:
        it.cluster.behaviour[it.namespace, 2].error_share = 1.0
        await change(it.kube, it.namespace, source=source("b"))
        canary = await it.at_weight(25)
        body = await until_rolled_back(it.kube, it.namespace)
        await asyncio.sleep(1)
    rollback = parse_status(body).last_rollback
    assert rollback is not None
    # One machine, two clocks: the operator's is the wall's.
    verdict = rollback.time.timestamp() - time.time() + time.monotonic()
    bad = failures(it.load.answers)
    detected = verdict - bad[0].sent
    restored = max(a.sent + a.seconds for a in bad) - verdict
    said = body["status"]["lastRollback"]
    print(
        f"{len(bad)} bad answers; verdict {detected:.2f} s after the first; last one"
        f" {1000 * restored:.0f} ms after the verdict; route accepted after"
        f" {said['restoredAfterMilliseconds']} ms; {said['requestsServedByRejected']} requests"
    )
    assert {a.revision for a in bad} == {canary}
    assert restored < 2


async def test_a_dark_canary_gets_copies_and_answers_nobody(gateway: Gateway) -> None:
    dark = {"weight": 0, "mirrorPercent": 100, "holdSeconds": LOOK_SECONDS + 2}
    async with stage(gateway, dark) as it:
        await change(it.kube, it.namespace, source=source("b"))
        canary = await it.at_weight(0)
        before = it.asked(canary)
        answers = await it.answers()
        copies = it.asked(canary) - before
        await until_stable(it.kube, it.namespace, 2)
    print(f"{len(answers)} requests, {copies} copies")
    assert by_revision(answers) == {it.stable: len(answers)}
    # The copies of half a second before are among them.
    assert copies >= len(answers)
    assert failures(it.load.answers) == []


async def test_an_answer_may_take_longer_than_envoys_own_limit(gateway: Gateway) -> None:
    question = {"messages": [], "test": {"delay": ENVOY_LIMIT_SECONDS + 1}}
    async with stage(gateway, {"weight": 50, "holdSeconds": 0}):
        answer, _ = await asyncio.to_thread(ask, URL, json.dumps(question).encode())
    assert answer.is_good, answer
