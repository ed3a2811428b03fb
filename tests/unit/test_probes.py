"""/livez tells what a restart can mend, and only that."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from aiohttp.test_utils import TestClient, TestServer

from tests.unit.bodies import own
from tunesmith_operator.handlers import PLURALS, build_settings, take_in, take_in_written
from tunesmith_operator.handlers.probes import Health, build_app, find_troubles
from tunesmith_operator.kube.cache import Cache
from tunesmith_operator.kube.watches import LIMIT_SECONDS, Watches

GOOD = Health(
    silent_watches=list,
    queue_oldest_seconds=lambda: 0.0,
    is_leader=lambda: True,
    api_age_seconds=lambda: 1.0,
    is_synced=lambda: True,
)


def always(value: object) -> Callable[[], object]:
    return lambda: value


@pytest.mark.parametrize(
    ("change", "troubles"),
    [
        pytest.param({}, 0, id="all is well"),
        pytest.param({"silent_watches": always(["jobs", "pods"])}, 2, id="silent watches"),
        pytest.param({"queue_oldest_seconds": always(400.0)}, 1, id="a stuck queue"),
        pytest.param(
            {"queue_oldest_seconds": always(400.0), "is_leader": always(False)},
            0,
            id="who does not lead may have a full queue",
        ),
        pytest.param(
            {"silent_watches": always(["jobs"]), "api_age_seconds": always(60.0)},
            0,
            id="an API server that is away is not our fault",
        ),
    ],
)
def test_troubles(change, troubles) -> None:
    assert len(find_troubles(replace(GOOD, **change))) == troubles


async def test_the_probes_answer() -> None:
    health = replace(GOOD, silent_watches=always(["jobs"]), is_synced=always(False))
    async with TestClient(TestServer(build_app(health))) as client:
        livez = await client.get("/livez")
        assert livez.status == 500
        assert await livez.text() == "the watch of jobs is silent"
        assert (await client.get("/readyz")).status == 503
        assert "tunesmith_queue_depth" in await (await client.get("/metrics")).text()
    async with TestClient(TestServer(build_app(GOOD))) as client:
        assert (await client.get("/livez")).status == 200
        assert (await client.get("/readyz")).status == 200


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_watch_that_is_neither_answered_nor_heard_of_becomes_silent() -> None:
    clock = Clock()
    watches = Watches(clock)
    watches.expect(PLURALS, ())
    clock.now = LIMIT_SECONDS - 1
    watches.answered("/apis/batch/v1/jobs")
    watches.event("pods", "somewhere")
    watches.answered("/apis/tunesmith.dev/v1alpha1/finetunejobs")
    assert watches.silent() == []
    clock.now = LIMIT_SECONDS + 1
    assert watches.silent() == ["modeldeployments", "modelversions"]
    assert watches.ages()["jobs"] == 2


def test_a_silent_watch_is_given_up_within_75_seconds_and_told_of_after_that() -> None:
    settings = build_settings().watching
    given_up = settings.inactivity_timeout + settings.reconnect_backoff
    assert settings.server_timeout < given_up <= 75, "a quiet watch is no silent one"
    assert given_up + settings.connect_timeout < LIMIT_SECONDS


def test_each_namespace_has_watches_of_its_own() -> None:
    clock = Clock()
    watches = Watches(clock)
    watches.expect(["jobs"], ["a", "b"])
    clock.now = LIMIT_SECONDS + 1
    watches.answered("/apis/batch/v1/namespaces/a/jobs")
    assert watches.silent() == ["jobs"]
    watches.event("jobs", "b")
    assert watches.silent() == []


def test_an_event_that_cannot_be_read_is_counted_and_kept_from_nobody_else() -> None:
    cache, keys = Cache(), []
    take_in("Job", {"type": "ADDED", "object": {"metadata": {}}}, cache, keys.append)
    body = {"metadata": {"namespace": "n", "name": "a", "uid": "u", "resourceVersion": "1"}}
    take_in("FineTuneJob", {"type": None, "object": body}, cache, keys.append)
    assert [key.name for key in keys] == ["a"]
    take_in("FineTuneJob", {"type": "DELETED", "object": body}, cache, keys.append)
    assert cache.counts()["FineTuneJob"] == 0


@pytest.mark.parametrize("is_answer_first", [True, False], ids=["answer first", "event first"])
def test_a_version_that_we_made_and_its_followers_get_their_turn(is_answer_first: bool) -> None:
    cache, keys = Cache(), []
    source = {"source": {"model": "demo", "channel": "stable"}}
    chat = own("chat", "u-chat", 1, "ModelDeployment", spec=source)
    take_in("ModelDeployment", {"type": "ADDED", "object": chat}, cache, keys.append)
    spec = {"model": "demo", "version": "1", "artifacts": [], "tags": ["stable"]}
    made = own("demo-v1", "u-v1", 2, "ModelVersion", spec=spec)
    keys.clear()
    if is_answer_first:
        take_in_written("ModelVersion", made, cache, keys.append)
    take_in("ModelVersion", {"type": "ADDED", "object": made}, cache, keys.append)
    if not is_answer_first:
        take_in_written("ModelVersion", made, cache, keys.append)
    assert [key.name for key in keys] == ["demo-v1", "chat"]


def test_our_own_status_is_nobodys_turn() -> None:
    cache, keys = Cache(), []
    take_in("FineTuneJob", {"type": "ADDED", "object": own(version=1)}, cache, keys.append)
    keys.clear()
    take_in_written("FineTuneJob", own(version=2), cache, keys.append)
    take_in("FineTuneJob", {"type": "MODIFIED", "object": own(version=2)}, cache, keys.append)
    assert keys == []
