"""An operator restarts onto an older view of the API server (F3): its lists and events are behind.

Reads of one object are never old: the API server answers them from etcd. Lists and watches may come
from the cache of an API server that lags. The wrong things to do then: make a child a second time,
or delete something that only has the name of what was seen.
"""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from deploy.native.apiserver import ControlPlane
from tests.integration.operators import (
    Killer,
    Recorder,
    client_of,
    condition,
    differences,
    end_state,
    fake_cluster,
    job,
    make_namespace,
    operator,
    run_until_killed,
    until,
)
from tunesmith_operator.assembly import Operator
from tunesmith_operator.kube.client import KubeClient
from tunesmith_operator.kube.kinds import Object
from tunesmith_operator.kube.known import Key
from tunesmith_operator.kube.transport import Request, Response, Send

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

BEHIND_SECONDS = 1.5


def version_of(body: Object) -> int:
    return int(body["metadata"]["resourceVersion"])


def lag(running: Operator, newest: int) -> Callable[[], None]:
    """Hide everything newer than ``newest`` from the operator's cache; the result ends that."""
    cache = running.cache
    saw, deleted = cache.saw, cache.deleted

    def saw_old(kind: str, body: Object) -> object:
        return saw(kind, body) if version_of(body) <= newest else None

    cache.saw = saw_old  # type: ignore[method-assign, assignment]
    cache.deleted = lambda *_: None  # type: ignore[method-assign, assignment]

    def catch_up() -> None:
        cache.saw, cache.deleted = saw, deleted  # type: ignore[method-assign]

    return catch_up


async def run(plane: ControlPlane, killed_at: int) -> Object:
    """Kill an operator after a write, start another that sees only the beginning for a while."""
    namespace = make_namespace(plane)
    async with client_of(plane) as kube, fake_cluster(kube, namespace):
        made = await kube.create(job(namespace))
        await run_until_killed(plane, kube, namespace, Killer(killed_at, is_after=True))
        async with operator(plane, namespace) as running:
            catch_up = lag(running, version_of(made))
            await asyncio.sleep(BEHIND_SECONDS)
            catch_up()
            await running._resync()
            return await end_state(kube, namespace)


async def test_an_older_view_makes_nothing_twice(control_plane: ControlPlane) -> None:
    recorder = Recorder()
    namespace = make_namespace(control_plane)
    async with client_of(control_plane) as kube, fake_cluster(kube, namespace):
        await kube.create(job(namespace))
        async with operator(control_plane, namespace, [recorder]):
            expected = await end_state(kube, namespace)
    creates = [n for n, what in enumerate(recorder.writes, 1) if what.startswith("create")]
    assert len(creates) == 3, "two Jobs and a version"
    for at in creates:
        state = await run(control_plane, at)
        assert differences(expected, state) == [], f"killed after {recorder.writes[at - 1]}"


async def test_a_namesake_of_what_an_older_view_shows_is_left_alone(
    control_plane: ControlPlane,
) -> None:
    """The Job we saw is gone, and somebody has made another one of its name."""
    namespace = make_namespace(control_plane)
    async with client_of(control_plane) as kube:
        await kube.create(job(namespace))
        async with operator(control_plane, namespace) as running:

            async def first_job() -> list[Object]:
                return await kube.list("Job", namespace)

            (ours,) = await until(first_job, what="the first Job")
            await settled(kube, namespace)
            catch_up = lag(running, 0)
            namesake = await replace_by_a_stranger(kube, ours)
            edit(control_plane, namespace, {"suspend": True})
            running.queue.add(Key("FineTuneJob", namespace, "demo"))
            await asyncio.sleep(BEHIND_SECONDS)

            async def is_idle() -> bool:
                return running.queue.is_idle

            await until(is_idle, what="the pass over the older view")
            catch_up()
            await running._resync()

            async def is_suspended() -> bool:
                body = await kube.get("FineTuneJob", namespace, "demo")
                return condition(body, "Suspended") == "True"

            await until(is_suspended, what="the job to be suspended")
            left = await kube.get("Job", namespace, ours["metadata"]["name"])
    assert left is not None
    assert left["metadata"]["uid"] == namesake["metadata"]["uid"]
    assert "deletionTimestamp" not in left["metadata"]


async def test_an_attempt_that_has_ended_in_the_meantime_is_judged_and_not_stopped(
    control_plane: ControlPlane,
) -> None:
    namespace = make_namespace(control_plane)
    async with client_of(control_plane) as kube:
        await kube.create(job(namespace))
        async with operator(control_plane, namespace) as running:
            await settled(kube, namespace)
            catch_up = lag(running, 0)

            async def ended() -> Object | None:
                (found,) = await kube.list("Job", namespace)
                return found if condition(found, "Complete") else None

            async with fake_cluster(kube, namespace):
                name = (await until(ended, what="the end of the attempt"))["metadata"]["name"]
            edit(control_plane, namespace, {"suspend": True})
            running.queue.add(Key("FineTuneJob", namespace, "demo"))

            async def is_idle() -> bool:
                return running.queue.is_idle

            await until(is_idle, what="the pass over the older view")
            left = await kube.get("Job", namespace, name)
            assert left is not None
            assert "deletionTimestamp" not in left["metadata"]
            catch_up()
            await running._resync()

            async def is_suspended() -> Object | None:
                body = await kube.get("FineTuneJob", namespace, "demo")
                return body if condition(body, "Suspended") == "True" else None

            body = await until(is_suspended, what="the job to be suspended")
    assert [a["reason"] for a in body["status"]["attempts"]] == ["Succeeded"]


@dataclass
class EditsBeforeDeletion:
    """Somebody gives the job a longer time to live right before it is deleted for the old one."""

    plane: ControlPlane
    namespace: str
    edited: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, request: Request, send: Send) -> Response:
        is_expired = (request.verb, request.kind) == ("delete", "FineTuneJob")
        if not is_expired or self.edited.is_set():
            return await send(request)
        longer = {"runPolicy": {"ttlSecondsAfterFinished": 3600}}
        await asyncio.to_thread(edit, self.plane, self.namespace, longer)
        answer = await send(request)
        self.edited.set()
        return answer


async def test_a_job_whose_time_to_live_was_raised_in_the_meantime_stays(
    control_plane: ControlPlane,
) -> None:
    namespace = make_namespace(control_plane)
    somebody = EditsBeforeDeletion(control_plane, namespace)
    async with client_of(control_plane) as kube, fake_cluster(kube, namespace):
        await kube.create(job(namespace, runPolicy={"ttlSecondsAfterFinished": 0}))
        async with operator(control_plane, namespace, [somebody]):
            await asyncio.wait_for(somebody.edited.wait(), 120)
            left = await kube.get("FineTuneJob", namespace, "demo")
    assert left is not None
    assert condition(left, "Complete") == "True"


def edit(plane: ControlPlane, namespace: str, spec: Object) -> None:
    patch = json.dumps({"spec": spec})
    plane.kubectl("patch", "ftj", "demo", "-n", namespace, "--type=merge", "-p", patch)


async def settled(kube: KubeClient, namespace: str) -> None:
    async def has_active() -> bool:
        body = await kube.get("FineTuneJob", namespace, "demo")
        return bool(body and body.get("status", {}).get("active"))

    await until(has_active, what="the status to name the attempt")


async def replace_by_a_stranger(kube: KubeClient, ours: Object) -> Object:
    meta = ours["metadata"]
    namespace, name = meta["namespace"], meta["name"]
    await kube.delete("Job", namespace, name, uid=meta["uid"], propagation="Background")

    async def is_gone() -> bool:
        return await kube.get("Job", namespace, name) is None

    await until(is_gone, what="the Job to go")
    container = {"name": "c", "image": "i"}
    template = {"spec": {"restartPolicy": "Never", "containers": [container]}}
    return await kube.create(
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"namespace": namespace, "name": name},
            "spec": {"template": template},
        }
    )
