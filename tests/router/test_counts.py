"""What is counted of each revision."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from tests.router.backends import backends
from tests.router.conftest import Pod, eventually, state
from tunesmith_router.counting import Answered, Kind, Outcome, Tallies, Tally, judge, parse_line


@pytest.mark.parametrize(
    ("status", "termination", "outcome"),
    [
        pytest.param(200, "--", Outcome.GOOD, id="a whole answer"),
        pytest.param(429, "--", Outcome.GOOD, id="a refusal is an answer"),
        pytest.param(200, "CD", Outcome.GOOD, id="the client left in the middle of an answer"),
        pytest.param(400, "CH", Outcome.ABANDONED, id="the client left before its answer"),
        pytest.param(-1, "CR", Outcome.ABANDONED, id="the client left before its request"),
        pytest.param(500, "--", Outcome.FAILED, id="the endpoint failed"),
        pytest.param(502, "SH", Outcome.FAILED, id="the endpoint closed without an answer"),
        pytest.param(503, "SC", Outcome.FAILED, id="nobody could be connected to"),
        pytest.param(504, "sH", Outcome.FAILED, id="no answer in time"),
        pytest.param(200, "SD", Outcome.FAILED, id="a stream broke"),
        pytest.param(200, "sD", Outcome.FAILED, id="a stream went silent"),
        pytest.param(-1, "PH", Outcome.FAILED, id="no answer"),
    ],
)
def test_outcomes(status: int, termination: str, outcome: Outcome) -> None:
    assert judge(status, termination) is outcome


def test_lines() -> None:
    answered = parse_line("slot3:abc client 200 --")
    assert answered == Answered("abc", Kind.CLIENT, Outcome.GOOD)
    assert parse_line("- client 404 LR") is None
    with pytest.raises(ValueError, match="not a line"):
        parse_line("3 events dropped, ring is full now")


def test_only_marks_that_are_followed_count() -> None:
    tallies = Tallies({})
    tallies.follow({"new"})
    for mark in ("old", "new"):
        tallies.count(Answered(mark, Kind.CLIENT, Outcome.FAILED))
    assert tallies.of("old") == Tally()
    assert tallies.of("new") == Tally(requests=1, errors=1, consecutive_errors=1)


async def counted(pod: Pod, name: str, *expected: int) -> None:
    """Wait for requests, errors and consecutive errors."""

    async def is_so() -> bool:
        return (await pod.counts(name))[:3] == expected

    try:
        await eventually(is_so)
    except AssertionError:
        assert (await pod.counts(name))[:3] == expected


async def test_every_answer_counts_once(pod: Pod) -> None:
    async with backends("a", "b") as (a, b):
        await pod.told(state("r1", "r2", 30, of={"r1": [a], "r2": [b]}))
        answers = await pod.ask_many(300, at_once=24)
        await counted(pod, "r1", answers[200, "a"], 0, 0)
        await counted(pod, "r2", answers[200, "b"], 0, 0)
        assert sum(answers.values()) == 300


async def test_errors_and_those_in_a_row(pod: Pod) -> None:
    async with backends("a") as (a,):
        await pod.told(state("r1", of={"r1": [a]}))
        await pod.ask()
        a.fails = True
        assert await pod.ask_many(40, at_once=16) == {(500, "a"): 40}
        await counted(pod, "r1", 41, 40, 40)
        a.fails = False
        assert (await pod.ask(drop=True))[0] == 502
        with pytest.raises(aiohttp.ClientPayloadError):
            await pod.ask(tokens=3, die=1, pause=0.05)
        await counted(pod, "r1", 43, 42, 42)
        await pod.ask(status=404)
        await counted(pod, "r1", 44, 42, 0)
        # Neither good nor bad: who knows what the answer would have been.
        a.fails = True
        await pod.ask()
        leaving = asyncio.create_task(pod.ask(held=True))
        await eventually(lambda: a.running == 1)
        leaving.cancel()
        await eventually(lambda: a.cancelled == 1)
        # No answer in time.
        a.fails = False
        assert (await pod.ask(held=True))[0] == 504
        await counted(pod, "r1", 46, 44, 2)


async def test_a_revision_that_is_taken_in_again_starts_at_zero(pod: Pod) -> None:
    async with backends("a", "b") as (a, b):
        of = {"r1": [a], "r2": [b]}
        with_canary = state("r1", "r2", 50, of=of)
        await pod.told(with_canary)
        b.fails = True
        seen = await pod.ask_many(40)
        await counted(pod, "r2", seen[500, "b"], seen[500, "b"], seen[500, "b"])
        # A weight more or less, or the same again, is no new beginning.
        await pod.told(state("r1", "r2", 40, of=of))
        await pod.told(with_canary)
        await counted(pod, "r2", seen[500, "b"], seen[500, "b"], seen[500, "b"])
        # Out of the split it can still be read; late answers of that time go to that time.
        late = [asyncio.create_task(pod.ask(held=True)) for _ in range(20)]
        await eventually(lambda: a.running + b.running == 20)
        assert b.running
        await pod.told(state("r1", of=of))
        assert (await pod.counts("r2"))[0] == seen[500, "b"]
        await pod.told(with_canary)
        assert (await pod.counts("r2"))[:3] == (0, 0, 0)
        a.released.set()
        b.released.set()
        assert 500 in {status for status, _ in await asyncio.gather(*late)}
        await asyncio.sleep(0.1)
        assert (await pod.counts("r2"))[:3] == (0, 0, 0)
        # The same when it is forgotten altogether.
        b.fails = False
        again = await pod.ask_many(40)
        await counted(pod, "r2", again[200, "b"], 0, 0)
        await pod.told(state("r1", of={"r1": [a]}))
        assert [c.name for c in (await pod.report()).counts] == ["r1"]
        await pod.told(with_canary)
        assert (await pod.counts("r2"))[0] == 0


async def test_nothing_ready_is_a_503_in_openais_form(pod: Pod) -> None:
    async def is_refused() -> None:
        async with pod.client.post(pod.url + "/v1/completions", json={}) as answer:
            assert answer.status == 503
            assert answer.headers["Retry-After"] == "1"
            assert (await answer.json())["error"]["code"] == "no_endpoint"

    await is_refused()
    async with backends("a") as (a,):
        await pod.told(state("r1", of={"r1": []}))
        await is_refused()
        await counted(pod, "r1", 1, 1, 1)
        await pod.told(state("r1", of={"r1": [a]}))
        assert await pod.ask() == (200, "a")


async def test_what_is_for_the_cluster_is_no_path_for_clients(pod: Pod) -> None:
    async with backends("a") as (a,):
        await pod.told(state("r1", of={"r1": [a]}))
        for path in ("/metrics", "/drained", "/readyz", "/v1/../metrics", "/v1/%2e%2e/metrics"):
            reader, writer = await asyncio.open_connection("127.0.0.1", pod.settings.router_port)
            writer.write(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            said = await reader.read()
            writer.close()
            assert said.startswith(b"HTTP/1.1 404"), path
        await asyncio.sleep(0.1)
        assert (await pod.counts("r1"))[0] == 0
