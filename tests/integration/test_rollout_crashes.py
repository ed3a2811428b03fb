"""The operator of a roll-out dies, loses answers and meets errors; the end state is the same.

Of three lives: a first revision alone, then a canary that takes over, or one that is rolled back.
"""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import pytest

from deploy.native.apiserver import ControlPlane
from tests.integration.operators import (
    Errors,
    Killer,
    LosesAnswers,
    Recorder,
    client_of,
    differences,
    operator,
)
from tests.integration.rollouts import (
    ROLLOUT,
    Tells,
    change,
    deployment,
    end_state,
    make_namespace,
    read,
    source,
    until_pods,
    until_rolled_back,
    until_stable,
)
from tests.integration.serving import Behaviour, ServingCluster, serving_cluster
from tunesmith_operator.assembly import Operator
from tunesmith_operator.config import LeaderElection
from tunesmith_operator.kube.client import KubeClient
from tunesmith_operator.kube.kinds import Object
from tunesmith_operator.kube.transport import Interceptor, Request, Response, Send

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

QUICK = ROLLOUT | {"steps": [{"weight": 30, "holdSeconds": 0}]}
SERVING = {"router": {"replicas": 1}}
SIDE_BY_SIDE = 6
# Runs out while a test waits.
ELECTION = LeaderElection(
    lease_duration_seconds=6, renew_deadline_seconds=4.5, retry_period_seconds=0.4
)
LIVES = ("first", "good", "bad")


@dataclass
class Reference:
    """An undisturbed run."""

    state: Object
    writes: list[str]


async def live(kube: KubeClient, namespace: str) -> Object:
    """Lead a deployment through its life, from wherever it is."""
    life = namespace.partition("-")[0]
    if (await read(kube, namespace))["spec"]["source"] == source("a"):
        await until_stable(kube, namespace, 1)
        if life != "first":
            await change(kube, namespace, source=source("b"))
    if life == "good":
        await until_stable(kube, namespace, 2)
    elif life == "bad":
        await until_rolled_back(kube, namespace)
    await until_pods(kube, namespace, 1)
    return await end_state(kube, namespace)


@contextlib.asynccontextmanager
async def prepared(kube: KubeClient, cluster: ServingCluster, name: str) -> AsyncIterator[None]:
    """Make a namespace with a deployment."""
    await make_namespace(kube, name)
    if name.startswith("bad"):
        cluster.behaviour[name, 2] = Behaviour(error_share=0.5)
    await kube.create(deployment(name, rollout=QUICK))
    cluster.namespaces.add(name)
    yield
    cluster.namespaces.remove(name)


@contextlib.asynccontextmanager
async def watched(
    plane: ControlPlane, name: str, interceptor: Interceptor
) -> AsyncIterator[Operator]:
    """Run an operator whose every write, those to routers too, passes the interceptor."""
    async with operator(plane, name, [interceptor], serving=SERVING) as running:
        Tells(running, interceptor)
        yield running


@contextlib.asynccontextmanager
async def played(plane: ControlPlane) -> AsyncIterator[tuple[KubeClient, ServingCluster]]:
    async with client_of(plane) as kube, serving_cluster(kube) as cluster:
        yield kube, cluster


@pytest.fixture(scope="module")
def references(control_plane: ControlPlane) -> dict[str, Reference]:
    async def run(life: str) -> Reference:
        recorder = Recorder()
        async with (
            played(control_plane) as (kube, cluster),
            prepared(kube, cluster, life),
            watched(control_plane, life, recorder),
        ):
            return Reference(await live(kube, life), recorder.writes)

    async def run_all() -> list[Reference]:
        return await asyncio.gather(*(run(life) for life in LIVES))

    return dict(zip(LIVES, asyncio.run(run_all()), strict=True))


def test_the_undisturbed_lives(references: dict[str, Reference]) -> None:
    outcomes = {
        life: [h["outcome"] for h in r.state["status"]["history"]] for life, r in references.items()
    }
    assert outcomes == {
        "first": ["Promoted"],
        "good": ["Promoted", "Promoted"],
        "bad": ["Promoted", "RolledBack"],
    }
    pods = {life: sorted(r.state["workloads"].values()) for life, r in references.items()}
    assert pods == {"first": [1, 1], "good": [0, 1, 1], "bad": [0, 1, 1]}
    assert max(len(r.writes) for r in references.values()) <= 32


async def test_killed_at_every_write(
    control_plane: ControlPlane, references: dict[str, Reference]
) -> None:
    """A process that dies before a write leaves what one leaves that dies after the write before,

    so only those to routers, which the API server does not see, are tried both ways.
    """
    turns = asyncio.Semaphore(SIDE_BY_SIDE)

    async def die(life: str, at: int, *, is_after: bool) -> list[str]:
        how, reference = "after" if is_after else "before", references[life]
        name = f"{life}-{how}-{at}"
        async with turns, prepared(kube, cluster, name):
            await run_until_killed(control_plane, kube, name, Killer(at, is_after))
            async with operator(control_plane, name, serving=SERVING):
                state = await live(kube, name)
        where = f"{life} life, killed {how} write {at}: {reference.writes[at - 1]}"
        return [f"{where}: {d}" for d in differences(reference.state, state)]

    async with played(control_plane) as (kube, cluster):
        found = await asyncio.gather(*(die(*run, is_after=a) for *run, a in deaths(references)))
    assert [difference for differences in found for difference in differences] == []


def deaths(references: dict[str, Reference]) -> Iterator[tuple[str, int, bool]]:
    """Give when to die: the lives begin alike, so what they share is tried with one of them."""
    yield "first", 1, False
    first = len(references["first"].writes)
    exposed = references["bad"].writes.index("tell Router", first)
    for life, shared in (("first", 0), ("good", first), ("bad", exposed)):
        for at, write in enumerate(references[life].writes, 1):
            if at > shared:
                yield life, at, True
                if write.startswith("tell"):
                    yield life, at, False


async def run_until_killed(
    plane: ControlPlane, kube: KubeClient, namespace: str, killer: Killer
) -> None:
    """Run an operator until ``killer`` strikes, or all is done without so many writes."""
    async with watched(plane, namespace, killer):
        ended = asyncio.create_task(live(kube, namespace))
        died = asyncio.create_task(killer.dead.wait())
        await asyncio.wait([ended, died], return_when=asyncio.FIRST_COMPLETED)
        for task in (ended, died):
            task.cancel()
        await asyncio.gather(ended, died, return_exceptions=True)


async def test_answers_are_lost_and_a_fifth_of_all_calls_fails(
    control_plane: ControlPlane, references: dict[str, Reference]
) -> None:
    """No canary is gone back on for it, and no request is lost."""
    async with played(control_plane) as (kube, cluster):

        async def run(name: str, interceptor: Interceptor) -> list[str]:
            async with (
                prepared(kube, cluster, name),
                operator(control_plane, name, [interceptor], serving=SERVING),
            ):
                state = await live(kube, name)
            return differences(references[name.partition("-")[0]].state, state)

        loses = {life: LosesAnswers() for life in LIVES[1:]}
        errors = [Errors(0.2, random.Random(seed)) for seed in range(4)]
        runs = [run(f"{life}-loses", found) for life, found in loses.items()]
        runs += [run(f"{LIVES[1 + n % 2]}-errors-{n}", found) for n, found in enumerate(errors)]
        found = await asyncio.gather(*runs)
    assert found == [[]] * 6
    assert min(each.lost for each in loses.values()) >= 10
    assert min(each.failed for each in errors) >= 10
    assert cluster.network.lost == 0


class CutOff:
    """From the next grant of weight on an operator hears of nothing, and its Lease runs out."""

    def __init__(self) -> None:
        self.is_armed = False
        self.granted = asyncio.Event()
        self.goes_on = asyncio.Event()

    async def __call__(self, request: Request, send: Send) -> Response:
        if request.kind == "Lease" and self.granted.is_set():
            raise TimeoutError("cut off")
        answer = await send(request)
        status = (request.body or {}).get("status", {}) if request.verb == "apply" else {}
        if self.is_armed and status.get("rollout", {}).get("weight"):
            self.granted.set()
            await self.goes_on.wait()
        return answer


async def test_an_operator_that_leads_no_more_tells_no_router(control_plane: ControlPlane) -> None:
    """It stands between the grant, which is written, and the router, which is to be told."""
    name, cut = "followed", CutOff()
    how = {"election": ELECTION, "serving": SERVING}
    async with (
        played(control_plane) as (kube, cluster),
        prepared(kube, cluster, name),
        operator(control_plane, name, [cut], **how) as old,
    ):
        old.routers._session.headers["X-Operator"] = "old"
        await until_stable(kube, name, 1)
        cut.is_armed = True
        await change(kube, name, source=source("b"))
        await asyncio.wait_for(cut.granted.wait(), 240)
        before = len(cluster.network.puts)
        # Only now, so that nobody follows an operator that was slow for a moment.
        async with operator(control_plane, name, **how):
            await until_stable(kube, name, 2)
            cut.goes_on.set()
            await asyncio.sleep(1)
    assert {put.operator for put in cluster.network.puts[:before]} == {"old"}
    assert {put.operator for put in cluster.network.puts[before:]} == {""}
    weights = dict.fromkeys(p.state.split.weight for p in cluster.network.puts[before:])
    assert list(weights) == [30, 0]
