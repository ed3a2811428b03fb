"""Calls to router pods: one that hangs costs the passes nothing, and is not given up."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from tunesmith_api.router import ROUTER_STATE_PATH, RouterReport, RouterSplit, RouterState
from tunesmith_operator.planning.routing import RouterAnswer, read_answers
from tunesmith_operator.planning.serving import ServingPod
from tunesmith_operator.routing import agents
from tunesmith_operator.routing.agents import RouterAgents
from tunesmith_operator.routing.patience import Patience

SPLIT = RouterSplit(main="r1")
STATE = RouterState(split=SPLIT)
PATIENCE = 1.0
"""Seconds for which a pod is waited for."""
PAUSE = 3.0
"""Seconds after which a pod is told again what it did not take; a test is at its end by then."""


class Agent:
    """A router pod's agent on an address of its own."""

    def __init__(self, address: str) -> None:
        self.pod = ServingPod(address, uid=address, revision=0, address=address, is_ready=True)
        self.hangs: set[str] = set()
        """Methods that are never answered."""
        self.asked: list[str] = []

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(request.method)
        while request.method in self.hangs:  # noqa: ASYNC110 - a test says when
            await asyncio.sleep(0.01)
        return web.Response(body=RouterReport(split=SPLIT).model_dump_json(by_alias=True))


@asynccontextmanager
async def running(*addresses: str) -> AsyncIterator[tuple[RouterAgents, list[Agent]]]:
    played = [Agent(address) for address in addresses]
    runners, port = [], 0
    for agent in played:
        app = web.Application()
        app.router.add_route("*", ROUTER_STATE_PATH, agent.answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        runners.append(runner)
        await web.TCPSite(runner, agent.pod.address, port).start()
        port = runner.addresses[0][1]
    calls = RouterAgents("key", port=port)
    try:
        yield calls, played
    finally:
        await calls.close()
        for agent in played:
            agent.hangs.clear()
        for runner in runners:
            await runner.cleanup()


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents, "ASK_SECONDS", PATIENCE)
    monkeypatch.setattr(agents, "TELL_SECONDS", PATIENCE)
    monkeypatch.setattr(agents, "_SILENT_SECONDS", (0.05, 0.1))
    monkeypatch.setattr(agents, "_UNWILLING_SECONDS", (PAUSE, PAUSE))


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await holds():  # noqa: ASYNC110 - a pod says when
            await asyncio.sleep(0.05)


async def timed(answers: object) -> tuple[list[RouterAnswer], float]:
    began = time.monotonic()
    found: list[RouterAnswer] = await answers  # type: ignore[misc]
    return found, time.monotonic() - began


async def test_a_pod_that_hangs_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running("127.0.0.11", "127.0.0.12") as (calls, (good, bad)):
        pods = [good.pod, bad.pod]
        bad.hangs = {"GET"}
        _, took = await timed(calls.ask("u", pods))
        assert took >= PATIENCE
        # Whoever waited for it now would do so for an hour.
        monkeypatch.setattr(agents, "ASK_SECONDS", 3600)
        for _ in range(5):
            async with asyncio.timeout(60):
                answers = await calls.ask("u", pods)
            assert answers[0].report is not None
            seen = read_answers(answers)
            assert seen is not None
            assert not seen.is_settled
            assert seen.trouble == "router pod 127.0.0.12: no answer within 1 s"
            await asyncio.sleep(0.05)
        assert len(bad.asked) <= 3, "one call at a time, with pauses"
        bad.hangs = set()

        async def are_settled() -> bool:
            seen = read_answers(await calls.ask("u", pods))
            return seen is not None and seen.is_settled and seen.trouble == ""

        await until(are_settled)


async def test_a_state_that_is_not_taken_is_told_again_after_a_pause_another_one_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with running("127.0.0.13", "127.0.0.14") as (calls, (good, bad)):
        pods = [good.pod, bad.pod]
        bad.hangs = {"PUT"}
        answers, took = await timed(calls.tell("u", pods, STATE))
        assert [bool(a.report) for a in answers] == [True, False]
        assert took >= PATIENCE
        monkeypatch.setattr(agents, "TELL_SECONDS", 3600)
        async with asyncio.timeout(60):
            answers = await calls.tell("u", pods, STATE)
        assert answers[1].trouble == "no answer within 1 s"
        bad.hangs = set()
        other = STATE.model_copy(update={"sticky_header": "x"})
        answers = await calls.tell("u", pods, other)
        assert all(a.report for a in answers), "a rollback does not wait"

        async def is_told() -> bool:
            return all(a.report for a in await calls.tell("u", pods, STATE))

        await until(is_told)


@pytest.mark.parametrize(("is_ready", "lines"), [(True, 1), (False, 0)])
async def test_that_a_starting_pod_is_silent_is_no_news(is_ready: bool, lines: int) -> None:
    async with running("127.0.0.15") as (calls, (agent,)):
        gone = replace(agent.pod, address="127.0.0.16", is_ready=is_ready)
        with capture_logs() as told:
            (answer,) = await calls.ask("u", [gone])
        assert answer.report is None
        assert sum(line["log_level"] != "debug" for line in told) == lines


def test_patience_doubles_its_pause_and_forgets_the_oldest() -> None:
    now = [0.0]
    patience = Patience(lambda: now[0], 1, 5)
    for pause in (1, 2, 4, 5, 5):
        patience.failed("a", "why")
        now[0] += pause - 0.1
        assert not patience.is_due("a")
        now[0] += 0.1
        assert patience.is_due("a")
    for number in range(5000):
        patience.failed(number, "why")
    assert patience.trouble("a") == ""
    assert patience.trouble(4999) == "why"
    patience.succeeded(4999)
    assert patience.is_due(4999)
