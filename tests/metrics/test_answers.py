"""What a canary has answered, by real sidecars: for routers that count nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from tests.metrics.conftest import CANARY, Begin, Scholar, Serve, answer, measured, pod
from tests.sidecar.conftest import CHAT, TOKEN, Serving, chat, eventually
from tunesmith_operator.metrics import scraping
from tunesmith_operator.metrics.answers import PodAnswers
from tunesmith_operator.planning.serving import RevisionCounts


@pytest.fixture
async def answers() -> AsyncIterator[PodAnswers]:
    made = PodAnswers()
    yield made
    await made.close()


async def ask(serving: Serving, good: int = 0, bad: int = 0) -> None:
    for number in range(good + bad):
        await serving.post(CHAT, chat(status=503) if number >= good else chat())


async def test_requests_and_failures_in_a_row_are_counted(
    begin: Begin, answers: PodAnswers
) -> None:
    serving = await begin()
    canary = measured(pod(serving.url))
    await answers.begin(canary)
    assert await answers.count(canary) == RevisionCounts(CANARY)
    await ask(serving, good=2, bad=3)
    assert await answers.count(canary) == RevisionCounts(CANARY, 5, 3)
    await ask(serving, good=1)
    assert await answers.count(canary) == RevisionCounts(CANARY, 6, 0)


async def test_golden_prompts_are_no_requests(begin: Begin, answers: PodAnswers) -> None:
    serving = await begin()
    canary = measured(pod(serving.url))
    await answers.begin(canary)
    await serving.post(CHAT, chat(status=503), x_tunesmith_analysis=TOKEN)
    assert await answers.count(canary) == RevisionCounts(CANARY)


async def test_what_came_before_the_roll_out_is_no_part_of_it(
    begin: Begin, answers: PodAnswers
) -> None:
    serving = await begin()
    canary = measured(pod(serving.url))
    await ask(serving, good=3, bad=5)
    await answers.begin(canary)
    assert await answers.count(canary) == RevisionCounts(CANARY)
    await ask(serving, bad=1)
    assert await answers.count(canary) == RevisionCounts(CANARY, 1, 1)
    # Another try of the same revision, on the same pods.
    await answers.begin(canary)
    assert await answers.count(canary) == RevisionCounts(CANARY)


async def test_an_operator_that_begins_in_the_middle_takes_all(
    begin: Begin, answers: PodAnswers
) -> None:
    serving = await begin()
    await ask(serving, good=1, bad=2)
    assert await answers.count(measured(pod(serving.url))) == RevisionCounts(CANARY, 3, 2)


async def test_pods_that_come_and_go_stay_counted_and_the_worst_pod_speaks(
    begin: Begin, answers: PodAnswers
) -> None:
    one, other = await begin(), await begin()
    first, second = pod(one.url, "pod-1"), pod(other.url, "pod-2")
    await answers.begin(measured(first))
    await ask(one, bad=2)
    await ask(other, good=1, bad=4)
    assert await answers.count(measured(first, second)) == RevisionCounts(CANARY, 7, 4)
    # The second one is not ready any more: it gets nothing, and so says nothing of now.
    assert await answers.count(measured(first)) == RevisionCounts(CANARY, 7, 2)


async def test_a_pod_that_hangs_holds_up_no_pass(
    begin: Begin, serve: Serve, answers: PodAnswers, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It is not given up and asked again before the test is over.
    monkeypatch.setattr(scraping, "_SECONDS", 300)
    released = asyncio.Event()
    asked = 0

    async def hang(_: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        await released.wait()
        return web.Response(text="")

    serving = await begin()
    both = measured(pod(serving.url, "pod-1"), pod(await serve(hang), "pod-2"))
    # The first time it is waited for, a little.
    await answers.begin(both)
    answer(serving, bad=2)
    started = time.monotonic()
    for _ in range(30):
        assert await answers.count(both) == RevisionCounts(CANARY, 2, 2)
    # A second each if they waited.
    assert time.monotonic() - started < 20
    assert asked == 1, "one question at a time"
    released.set()


async def test_a_broken_stream_is_a_failure_and_a_busy_pod_is_none(
    begin: Begin, answers: PodAnswers, engine: Scholar
) -> None:
    serving = await begin(max_concurrent_requests=1)
    canary = measured(pod(serving.url))
    await answers.begin(canary)
    async with serving.client.post(
        serving.url + CHAT, json=chat(stream=True, tokens=5, fail=2)
    ) as reply:
        await reply.content.readline()
    await ask(serving, bad=1)
    busy = asyncio.create_task(serving.post(CHAT, chat(held=True, status=503)))
    await eventually(lambda: serving.gate.in_flight == 1)
    assert (await serving.post(CHAT, chat()))[0] == 429
    engine.released.set()
    await busy
    await serving.get("/v1/models")
    assert (await answers.count(canary)).consecutive_errors == 3
