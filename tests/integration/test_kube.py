"""Client, cache, resync and Lease against the real API server."""

import asyncio
import copy

import pytest

from deploy.native.apiserver import ControlPlane
from tests.integration.operators import (
    PATIENT_ELECTION,
    client_of,
    condition,
    fake_cluster,
    job,
    make_namespace,
    names,
    operator,
    until,
    until_ended,
)
from tunesmith_operator.kube.errors import AlreadyExists, Conflict, Gone, NotOurs, Refused
from tunesmith_operator.kube.kinds import Object
from tunesmith_operator.kube.known import Key
from tunesmith_operator.kube.lease import Leadership
from tunesmith_operator.kube.resync import resync

pytestmark = pytest.mark.integration


@pytest.fixture
def namespace(control_plane: ControlPlane) -> str:
    return make_namespace(control_plane)


def config_map(namespace: str, name: str, owner: Object | None = None) -> Object:
    meta: Object = {"namespace": namespace, "name": name, "labels": {"l": "1"}}
    if owner is not None:
        meta["ownerReferences"] = [
            {
                "apiVersion": owner["apiVersion"],
                "kind": owner["kind"],
                "name": owner["metadata"]["name"],
                "uid": owner["metadata"]["uid"],
                "controller": True,
            }
        ]
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta}


async def test_create_adopt_and_not_ours(control_plane: ControlPlane, namespace: str) -> None:
    async with client_of(control_plane) as kube:
        owner = await kube.create(job(namespace))
        uid = owner["metadata"]["uid"]
        made = await kube.create_or_adopt(config_map(namespace, "a", owner), uid)
        again = await kube.create_or_adopt(config_map(namespace, "a", owner), uid)
        assert made["metadata"]["uid"] == again["metadata"]["uid"]
        with pytest.raises(AlreadyExists):
            await kube.create(config_map(namespace, "a"))
        await kube.create(config_map(namespace, "b"))
        with pytest.raises(NotOurs):
            await kube.create_or_adopt(config_map(namespace, "b", owner), uid)


async def test_what_the_schema_refuses_is_refused(
    control_plane: ControlPlane, namespace: str
) -> None:
    async with client_of(control_plane) as kube:
        with pytest.raises(Refused, match=r"spec\.output"):
            await kube.create({**job(namespace), "spec": {}})
        with pytest.raises(Gone):
            await kube.create(job("no-such-namespace"))


async def test_delete_hits_only_the_object_that_was_looked_at(
    control_plane: ControlPlane, namespace: str
) -> None:
    async with client_of(control_plane) as kube:
        made = await kube.create(config_map(namespace, "a"))
        meta = made["metadata"]
        with pytest.raises(Conflict):
            await kube.delete("ConfigMap", namespace, "a", uid="00000000-another")
        with pytest.raises(Conflict):
            await kube.delete("ConfigMap", namespace, "a", uid=meta["uid"], resource_version="1")
        assert await kube.delete(
            "ConfigMap",
            namespace,
            "a",
            uid=meta["uid"],
            resource_version=meta["resourceVersion"],
            propagation="Background",
        )
        assert not await kube.delete("ConfigMap", namespace, "a", uid=meta["uid"])


async def test_a_status_is_written_whole_and_only_to_the_object_that_was_read(
    control_plane: ControlPlane, namespace: str
) -> None:
    async with client_of(control_plane) as kube:
        made = await kube.create(job(namespace))

        async def write(status: Object, version: str, name: str = "demo") -> Object:
            return await kube.apply_status(
                "FineTuneJob", namespace, name, status, resource_version=version
            )

        first = {"observedGeneration": 1, "startTime": "2026-01-02T03:04:05Z"}
        then = await write(first, made["metadata"]["resourceVersion"])
        last = await write({"observedGeneration": 1}, then["metadata"]["resourceVersion"])
        # What is no longer said is gone; the spec is not touched.
        assert "startTime" not in last["status"]
        assert last["spec"] == made["spec"]
        with pytest.raises(Conflict):
            await write(first, made["metadata"]["resourceVersion"])
        with pytest.raises((Gone, Conflict)):
            await write(first, made["metadata"]["resourceVersion"], "nobody")


async def test_a_status_never_lands_on_a_namesake(
    control_plane: ControlPlane, namespace: str
) -> None:
    async with client_of(control_plane) as kube:
        old = (await kube.create(job(namespace)))["metadata"]
        await kube.delete(
            "FineTuneJob", namespace, "demo", uid=old["uid"], propagation="Background"
        )
        await kube.create(job(namespace))
        with pytest.raises(Conflict):
            await kube.apply_status(
                "FineTuneJob", namespace, "demo", {}, resource_version=old["resourceVersion"]
            )


async def test_lists_come_in_pages_with_one_version(
    control_plane: ControlPlane, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tunesmith_operator.kube.client.PAGE_SIZE", 3)
    async with client_of(control_plane) as kube:
        for number in range(8):
            await kube.create(config_map(namespace, f"c{number}"))
        pages = [page async for page in kube.pages("ConfigMap", namespace, "l=1")]
        assert [len(page.items) for page in pages] == [3, 3, 2]
        assert len({page.resource_version for page in pages}) == 1


async def test_events_can_be_read_with_kubectl(control_plane: ControlPlane, namespace: str) -> None:
    async with client_of(control_plane) as kube, operator(control_plane, namespace) as running:
        made = await kube.create(job(namespace))
        uid = made["metadata"]["uid"]
        for _ in range(5):
            running.recorder(
                "FineTuneJob", namespace, "demo", uid, type="Normal", reason="Tried", message="m"
            )

        async def shown() -> bool:
            text = control_plane.kubectl("-n", namespace, "describe", "finetunejob", "demo")
            return "Tried" in text

        await until(shown)


async def test_two_leaders_never_and_release_hands_over(
    control_plane: ControlPlane, namespace: str
) -> None:
    async with client_of(control_plane) as kube:
        a, b = (
            Leadership(kube, PATIENT_ELECTION, namespace=namespace, identity=name)
            for name in ("a", "b")
        )
        for turn in range(3):
            await asyncio.gather(a._try_once(), b._try_once())
            assert a.is_leader != b.is_leader, turn
        leader, other = (a, b) if a.is_leader else (b, a)
        await leader.release()
        await other._try_once()
        assert other.is_leader
        assert not leader.is_leader


async def test_lost_deletions_are_repaired_by_the_resync(
    control_plane: ControlPlane, namespace: str
) -> None:
    """As after a 410: kopf lists again, and says nothing of what was deleted in the gap."""
    async with client_of(control_plane) as kube, operator(control_plane, namespace) as running:
        made = await kube.create(job(namespace))
        uid = made["metadata"]["uid"]

        async def is_started() -> bool:
            return bool(running.cache.jobs_of(uid))

        await until(is_started)
        running.cache.deleted = lambda *_: None  # type: ignore[method-assign, assignment]
        (attempt,) = await kube.list("Job", namespace)
        for body in (made, attempt):
            meta = body["metadata"]
            await kube.delete(
                body.get("kind", "Job"),
                namespace,
                meta["name"],
                uid=meta["uid"],
                propagation="Background",
            )
        await asyncio.sleep(0.5)
        assert running.cache.own("FineTuneJob", namespace, "demo") is not None
        await running._resync()
        assert running.cache.own("FineTuneJob", namespace, "demo") is None
        assert running.cache.jobs_of(uid) == ()
        await asyncio.sleep(0.5)
        assert await kube.list("Job", namespace) == [], "something was made for a phantom"


async def test_lost_changes_are_repaired_by_the_resync(
    control_plane: ControlPlane, namespace: str
) -> None:
    async with client_of(control_plane) as kube, operator(control_plane, namespace) as running:
        saw, missed = running.cache.saw, set[str]()

        async def is_synced() -> bool:
            return running._synced.is_set()

        async def is_seen() -> bool:
            return running.cache.own("FineTuneJob", namespace, "first") is not None

        async def is_missed() -> bool:
            return "demo" in missed

        # The list at the start is over and the watch is open: what comes now comes by it alone.
        await until(is_synced)
        await kube.create(job(namespace, "first"))
        await until(is_seen)
        running.cache.saw = lambda _, body: missed.add(body["metadata"]["name"])  # type: ignore[method-assign, assignment, return-value]
        await kube.create(job(namespace, "demo"))
        await until(is_missed)
        assert "demo-prepare-1" not in await names(kube, "Job", namespace)
        running.cache.saw = saw  # type: ignore[method-assign]
        keys: list[Key] = []
        await resync(kube, running.cache, [namespace], keys.append, lambda *_: None)
        assert "demo" in [key.name for key in keys]


async def test_a_job_made_again_under_its_name_starts_from_nothing(
    control_plane: ControlPlane, namespace: str
) -> None:
    async with (
        client_of(control_plane) as kube,
        fake_cluster(kube, namespace),
        operator(control_plane, namespace),
    ):
        await kube.create(job(namespace))
        first = await until_ended(kube, namespace)
        assert condition(first, "Complete") == "True"
        for kind in ("Job", "Pod", "FineTuneJob"):
            for found in await kube.list(kind, namespace):
                meta = found["metadata"]
                await kube.delete(
                    kind, namespace, meta["name"], uid=meta["uid"], propagation="Background"
                )
        again = copy.deepcopy(job(namespace))
        await kube.create(again)
        second = await until_ended(kube, namespace)
        assert condition(second, "Complete") == "True"
        assert second["metadata"]["uid"] != first["metadata"]["uid"]
        assert second["status"]["counters"]["attempts"] == 2
        assert second["status"]["modelVersionRef"]["name"] == "demo-v2"
