"""Endpoints come and go, and no request notices."""

from __future__ import annotations

import asyncio

from tests.router.backends import Backend, backends
from tests.router.conftest import Load, Pod, eventually, state


async def server_count(pod: Pod) -> int:
    assert pod.router is not None
    return len({server.id.name for server in await pod.router._admin.list_servers()})


async def test_endpoints_come_and_go_under_load(pod: Pod) -> None:
    async with backends("a", "b", "c", "d") as all_four:
        await pod.told(state("r1", of={"r1": all_four[:1]}))
        async with Load(pod, delay=0.01) as load:
            for turn in range(12):
                some = [all_four[(turn + n) % 4] for n in range(1 + turn % 3)]
                await pod.told(state("r1", of={"r1": some}))
                assert await load.newer(30) <= {backend.name for backend in some}
        assert load.problems == []
        assert {came.text for came in load.answers} == {"a", "b", "c", "d"}
        # What was drained is deleted, so HAProxy does not fill up.
        last = len(some)

        async def is_clean() -> bool:
            return await server_count(pod) == last

        await eventually(is_clean)


async def test_a_revision_is_replaced_under_load(pod: Pod) -> None:
    async with backends("a", "b") as (a, b):
        await pod.told(state("r1", of={"r1": [a]}))
        async with Load(pod, delay=0.01) as load:
            assert await load.newer() == {"a"}
            # Old and new in one message: nothing of the old may go before the new has requests.
            await pod.told(state("r2", of={"r2": [b]}))
            assert await load.newer() == {"b"}
        assert load.problems == []


async def test_a_stream_outlives_the_removal_of_its_endpoint(pod: Pod) -> None:
    async with backends("a", "b") as (a, b):
        await pod.told(state("r1", of={"r1": [a]}))
        stream = asyncio.create_task(pod.ask(tokens=5000, pause=0.02, endless=True))
        await eventually(lambda: a.running == 1)
        await pod.told(state("r1", of={"r1": [b]}))
        assert set(await pod.ask_many(30)) == {(200, "b")}
        await asyncio.sleep(0.3)
        assert await server_count(pod) == 2
        assert a.running == 1
        # It comes back while it is draining.
        await pod.told(state("r1", of={"r1": [a]}))
        assert set(await pod.ask_many(30)) == {(200, "a")}
        await pod.told(state("r1", of={"r1": [b]}))
        assert a.running == 1
        a.released.set()
        status, text = await stream
        tokens = text.split("\n\n")
        assert status == 200
        assert len(tokens) > 10
        assert tokens == [f"data: a {n}" for n in range(len(tokens) - 1)] + [""]
        await eventually(lambda: is_alone(pod))


async def is_alone(pod: Pod) -> bool:
    return await server_count(pod) == 1


async def test_streams_come_token_by_token(pod: Pod) -> None:
    async with backends("a") as (a,):
        await pod.told(state("r1", of={"r1": [a]}))
        # The next token is only made when this one has come.
        body, came = {"test": {"tokens": 3, "paced": True}}, []
        async with pod.client.post(pod.url + "/v1/completions", json=body) as answer:
            async for token in answer.content.iter_any():
                came.append(token)
                a.pace.release()
        assert came == [f"data: a {n}\n\n".encode() for n in range(3)]


async def test_an_endpoint_that_dies_is_left_out(pod: Pod) -> None:
    async with backends("a", "b") as (a, b):
        await pod.told(state("r1", of={"r1": [a, b]}))
        async with Load(pod) as load:
            await load.newer()
            await a.stop()
            await eventually(lambda: has_up(pod, "r1", 1))
            assert await load.newer() == {"b"}
        # Connections that are refused are tried elsewhere; nothing was in the endpoint.
        assert [p for p in load.problems if "502" not in p] == []
        assert len(load.problems) <= 6


async def test_what_an_endpoint_may_have_begun_is_not_asked_of_another(pod: Pod) -> None:
    async with backends("a", "b") as (a, b):
        await pod.told(state("r1", of={"r1": [a, b]}))
        # It took the prompt and went away: the prompt may be what killed it.
        for number, wanted in enumerate(({"drop": True}, {"status": 500}, {"status": 503}), 1):
            await pod.ask(**wanted)
            assert len(a.requests) + len(b.requests) == number, wanted


async def test_an_endpoint_that_says_it_is_not_ready_gets_nothing(pod: Pod) -> None:
    async with backends("a", "b") as (a, b):
        await pod.told(state("r1", of={"r1": [a, b]}))
        a.is_ready = False

        async def is_out() -> bool:
            return (await pod.counts("r1"))[3] == 1

        await eventually(is_out)
        assert set(await pod.ask_many(30)) == {(200, "b")}


async def test_checks_that_all_fail_take_nobody_out(pod: Pod) -> None:
    async with backends("a", "b", "c") as (a, b, c):
        await pod.told(state("r1", of={"r1": [a, b, c]}))
        async with Load(pod, delay=0.005) as load:
            # As on a node without CPU to spare: the checks fail, the pods work.
            for backend in (a, b, c):
                backend.is_ready = False
            await eventually(lambda: has_none_up(pod, "r1"))
            await asyncio.sleep(0.2)
            answers = await pod.ask_many(60)
            assert set(answers) == {(200, "a"), (200, "b"), (200, "c")}
            # The agent's word still counts: what is draining, or gone, is not used.
            await pod.told(state("r1", of={"r1": [b, c]}))
            assert set(await pod.ask_many(30)) == {(200, "b"), (200, "c")}
            # And a check that passes: the bad one among good ones is out again.
            c.is_ready = True
            await eventually(lambda: has_up(pod, "r1", 1))
            assert set(await pod.ask_many(30)) == {(200, "c")}
        assert load.problems == []
        # Answers count for their revision, whichever way they were found.
        total = len(load.answers) + 120

        async def is_counted() -> bool:
            return (await pod.counts("r1"))[0] == total

        await eventually(is_counted)


async def test_who_answers_when_all_checks_fail(pod: Pod) -> None:
    async with backends("a", "b") as (a, b):
        of = {"r1": [a], "r2": [b]}
        await pod.told(state("r1", "r2", 50, of=of))
        a.is_ready = False
        await eventually(lambda: has_none_up(pod, "r1"))
        # A revision that passes stands in for one that does not.
        assert set(await pod.ask_many(30)) == {(200, "b")}
        b.is_ready = False
        await eventually(lambda: has_none_up(pod, "r2"))
        assert set(await pod.ask_many(30)) == {(200, "a")}
        # The canary has been granted requests, and nobody else has endpoints.
        await pod.told(state("r1", "r2", 50, of=of | {"r1": []}))
        assert set(await pod.ask_many(30)) == {(200, "b")}
        await pod.told(state("r1", "r2", 0, of=of | {"r1": []}))
        assert (await pod.ask())[0] == 503


async def has_up(pod: Pod, name: str, count: int) -> bool:
    return (await pod.counts(name))[3] == count


async def test_a_split_is_refused_while_no_endpoint_of_it_passes(pod: Pod) -> None:
    async with backends("a", "b") as (a, b):
        of = {"r1": [a], "r2": [b]}
        await pod.told(state("r1", of={"r1": [a]}))
        b.is_ready = False
        async with Load(pod) as load:
            for wanted in (state("r1", "r2", 10, of=of), state("r2", of=of)):
                status, body = await pod.put(wanted)
                assert status == 503
                assert "no endpoint of r2" in body["error"]["message"]
        assert load.problems == []
        assert b.requests == []
        report = await pod.report()
        assert report.split is not None
        assert (report.split.main, report.split.weight) == ("r1", 0)
        b.is_ready = True
        await pod.told(state("r1", "r2", 10, of=of))
        # Weight is always taken away, whoever is up.
        a.is_ready = False
        await eventually(lambda: has_none_up(pod, "r1"))
        await pod.told(state("r1", "r2", 0, of=of))


async def has_none_up(pod: Pod, name: str) -> bool:
    return await has_up(pod, name, 0)


async def test_ipv6(pod: Pod) -> None:
    backend = Backend("six", address="::1")
    try:
        await backend.start()
    except OSError:
        return  # a machine without IPv6
    try:
        await pod.told(state("r1", of={"r1": [backend]}))
        assert await pod.ask() == (200, "six")
    finally:
        await backend.stop()
