"""The operator dies, loses answers and meets errors at every write; the end state is the same."""

import asyncio
import random

import pytest

from deploy.native.apiserver import ControlPlane
from tests.integration.operators import (
    QUICK_ELECTION,
    Errors,
    Killer,
    LosesAnswers,
    Recorder,
    client_of,
    differences,
    end_state,
    fake_cluster,
    job,
    make_namespace,
    operator,
    run_until_killed,
    until_ended,
)
from tests.integration.rollouts import passes, until_quiet
from tunesmith_operator.kube.kinds import Object
from tunesmith_operator.kube.transport import Interceptor, Request, Response, Send

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

Reference = tuple[Object, list[str]]


async def run_to_the_end(
    plane: ControlPlane, interceptor: Interceptor, spec: Object | None = None, **more
) -> Object:
    namespace = make_namespace(plane)
    async with client_of(plane) as kube, fake_cluster(kube, namespace):
        await kube.create(job(namespace, **(spec or {})))
        async with operator(plane, namespace, [interceptor], **more):
            return await end_state(kube, namespace)


async def run_with_a_kill(plane: ControlPlane, killer: Killer, **spec) -> Object:
    """Run until the operator is killed, and give the end state that another one comes to."""
    namespace = make_namespace(plane)
    async with client_of(plane) as kube, fake_cluster(kube, namespace):
        await kube.create(job(namespace, **spec))
        await run_until_killed(plane, kube, namespace, killer)
        async with operator(plane, namespace):
            return await end_state(kube, namespace)


@pytest.fixture(scope="module")
def reference(control_plane: ControlPlane) -> Reference:
    """The undisturbed run: its end state and its writes."""
    recorder = Recorder()
    state = asyncio.run(run_to_the_end(control_plane, recorder))
    return state, recorder.writes


def test_the_undisturbed_run_makes_a_version(reference: Reference) -> None:
    state, writes = reference
    assert state["versions"] == ["demo-v1"]
    assert state["jobs"] == ["demo-prepare-1", "demo-train-2"]
    assert state["status"]["stage"] == "Complete"
    assert writes.count("create Job") == 2
    assert len(writes) <= 16


async def test_killed_before_and_after_every_write(
    control_plane: ControlPlane, reference: Reference
) -> None:
    expected, writes = reference
    for at in range(1, len(writes) + 1):
        for is_after in (False, True):
            state = await run_with_a_kill(control_plane, Killer(at, is_after))
            where = f"killed {'after' if is_after else 'before'} write {at}: {writes[at - 1]}"
            assert differences(expected, state) == [], where


async def test_killed_before_and_after_each_object_that_a_job_of_two_nodes_needs(
    control_plane: ControlPlane,
) -> None:
    spec = {"compute": {"gpusPerNode": 0, "nodes": 2}}
    expected = await run_to_the_end(control_plane, Recorder(), spec)
    assert expected["services"] == ["demo-train"]
    for of, at in (("create Service", 1), ("create Job", 2)):
        for is_after in (False, True):
            killer = Killer(at, is_after, of)
            state = await run_with_a_kill(control_plane, killer, **spec)
            assert killer.dead.is_set()
            where = f"killed {'after' if is_after else 'before'} {of} {at}"
            assert differences(expected, state) == [], where


async def test_every_answer_is_lost_once(control_plane: ControlPlane, reference: Reference) -> None:
    loses = LosesAnswers()
    assert differences(reference[0], await run_to_the_end(control_plane, loses)) == []
    assert loses.lost >= 4


@pytest.mark.parametrize("seed", range(3))
async def test_a_fifth_of_all_calls_fails(
    control_plane: ControlPlane, reference: Reference, seed: int
) -> None:
    errors = Errors(0.2, random.Random(seed))
    assert differences(reference[0], await run_to_the_end(control_plane, errors)) == []


FEWEST = 6
"""Calls that meet an outage, however little a busy machine lets the operator do meanwhile."""


class Outage:
    """From the first Job on, nothing answers for some seconds, and for some calls."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.until = 0.0
        self.refused = 0

    async def __call__(self, request: Request, send: Send) -> Response:
        now = asyncio.get_running_loop().time()
        if request.verb == "create" and request.kind == "Job" and not self.until:
            self.until = now + self.seconds
        if now < self.until or (self.until and self.refused < FEWEST):
            self.refused += 1
            raise ConnectionRefusedError
        return await send(request)


async def test_an_api_server_that_is_away_for_longer_than_the_lease(
    control_plane: ControlPlane, reference: Reference
) -> None:
    outage = Outage(5)
    state = await run_to_the_end(control_plane, outage, election=QUICK_ELECTION)
    assert differences(reference[0], state) == []
    assert FEWEST <= outage.refused < 100


async def test_nothing_is_written_when_all_is_quiet(control_plane: ControlPlane) -> None:
    recorder = Recorder()
    namespace = make_namespace(control_plane)
    async with client_of(control_plane) as kube, fake_cluster(kube, namespace):
        await kube.create(job(namespace))
        async with operator(control_plane, namespace, [recorder]) as running:
            await until_ended(kube, namespace)
            await until_quiet(running, recorder, "FineTuneJob")
            recorder.writes.clear()
            await passes(running, 3, "FineTuneJob")
            await asyncio.sleep(1)
    assert recorder.writes == []
