"""Resync: what no event told is found, phantoms are removed, a failed list does no harm."""

from collections.abc import AsyncIterator

from tests.unit.bodies import job, own, pod
from tunesmith_operator.kube.cache import Cache
from tunesmith_operator.kube.client import Page
from tunesmith_operator.kube.errors import Unavailable
from tunesmith_operator.kube.kinds import Object
from tunesmith_operator.kube.known import Key
from tunesmith_operator.kube.resync import resync

KEY = Key("FineTuneJob", "default", "a")


class Server:
    def __init__(self, objects: list[Object], version: int = 100) -> None:
        self.objects = objects
        self.version = version
        self.broken: set[str] = set()

    async def pages(self, kind: str, namespace: str | None, labels: str) -> AsyncIterator[Page]:
        del labels
        found = [o for o in self.objects if o["kind"] == kind]
        for item in found or [None]:
            if kind in self.broken:
                raise Unavailable("x")
            is_here = item and namespace in (None, item["metadata"]["namespace"])
            yield Page([item] if is_here else [], self.version)


async def run(server: Server, cache: Cache, namespaces=()) -> tuple[bool, list[Key], dict]:
    keys: list[Key] = []
    counts: dict[str, int] = {}
    done = await resync(server, cache, namespaces, keys.append, counts.__setitem__)
    return done, keys, counts


async def test_an_empty_cache_is_filled() -> None:
    cache = Cache()
    done, keys, _ = await run(Server([own(), job(), pod()]), cache)
    assert done
    assert set(keys) == {KEY}
    assert len(cache.jobs_of("u-a")[0].pods) == 1


async def test_an_equal_cache_is_nobodys_turn() -> None:
    cache = Cache()
    server = Server([own(), job(), pod()])
    await run(server, cache)
    _, keys, counts = await run(server, cache)
    assert keys == []
    assert set(counts.values()) == {0}


async def test_lost_events_of_every_sort_are_made_up_for() -> None:
    cache = Cache()
    await run(Server([own(), job(), pod(), own("b", "u-b", 7)]), cache)
    changed = own(version=50)
    _, keys, counts = await run(Server([changed]), cache)
    assert set(keys) == {KEY, Key("FineTuneJob", "default", "b")}
    assert counts == {"FineTuneJob": 2, "ModelVersion": 0, "ModelDeployment": 0, "Job": 1, "Pod": 1}
    assert cache.counts() == {
        "FineTuneJob": 1,
        "ModelVersion": 0,
        "ModelDeployment": 0,
        "Job": 0,
        "Pod": 0,
    }


async def test_a_list_that_breaks_off_removes_nothing() -> None:
    cache = Cache()
    server = Server([own(), job()])
    await run(server, cache)
    server.objects = []
    server.broken = {"Job"}
    done, _, _ = await run(server, cache)
    assert not done
    assert cache.counts()["Job"] == 1
    assert cache.counts()["FineTuneJob"] == 0


async def test_only_the_watched_namespaces_are_listed() -> None:
    cache = Cache()
    await run(Server([own()]), cache, namespaces=("other",))
    assert cache.counts()["FineTuneJob"] == 0
    await run(Server([own()]), cache, namespaces=("other", "default"))
    assert cache.counts()["FineTuneJob"] == 1


async def test_an_object_that_cannot_be_read_keeps_nobody_else_out() -> None:
    cache = Cache()
    hostile = pod("hostile", "p-2", meta={"creationTimestamp": "some time ago"})
    done, keys, _ = await run(Server([own(), hostile, job(), pod()]), cache)
    assert done
    assert set(keys) == {KEY}
    assert [p.name for p in cache.jobs_of("u-a")[0].pods] == ["a-train-1-0-x"]
