"""Calls to the sidecars of pods that serve adapters: one that hangs costs the passes nothing."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from tunesmith_api.adapters import ADAPTERS_PATH, AdaptersReport, WantedAdapters
from tunesmith_operator.planning.serving import ServingPod
from tunesmith_operator.routing import sidecars
from tunesmith_operator.routing.sidecars import AdapterSidecars

NOTHING = WantedAdapters()


class Sidecar:
    """A pod's sidecar, which can hang."""

    def __init__(self) -> None:
        self.hangs = asyncio.Event()
        self.goes_on = asyncio.Event()
        self.told: list[str] = []

    async def answer(self, request: web.Request) -> web.Response:
        if self.hangs.is_set():
            await self.goes_on.wait()
        self.told.append(request.method)
        report = AdaptersReport(wanted=NOTHING if "PUT" in self.told else None)
        return web.Response(body=report.model_dump_json(by_alias=True))


@pytest.fixture
async def sidecar() -> Sidecar:
    return Sidecar()


@pytest.fixture
async def calls(
    sidecar: Sidecar, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[AdapterSidecars]:
    monkeypatch.setattr(sidecars, "_SILENT_SECONDS", (0.01, 0.02))
    monkeypatch.setattr(sidecars, "_QUICK_SECONDS", 0.1)
    app = web.Application()
    app.router.add_route("*", ADAPTERS_PATH, sidecar.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made = AdapterSidecars("key", port=runner.addresses[0][1])
    yield made
    await made.close()
    sidecar.goes_on.set()
    await runner.cleanup()


POD = ServingPod("pod", uid="pod", revision=0, host="base", address="127.0.0.1", is_ready=True)


async def test_a_pod_that_hangs_is_waited_for_once_and_heard_again_when_it_answers(
    sidecar: Sidecar, calls: AdapterSidecars, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert set(await calls.ask("u", [POD])) == {"pod"}
    sidecar.hangs.set()
    monkeypatch.setattr(sidecars, "_SECONDS", 0.2)
    assert await calls.ask("u", [POD]) == {}
    # Whoever waited for it now would do so for an hour.
    monkeypatch.setattr(sidecars, "_SECONDS", 3600)
    async with asyncio.timeout(30):
        for _ in range(5):
            assert await calls.ask("u", [POD]) == {}
            assert await calls.tell("u", [POD], NOTHING) == {}
            await asyncio.sleep(0.02)
        assert "PUT" not in sidecar.told
        sidecar.goes_on.set()
        for _ in range(3000):
            if await calls.ask("u", [POD]):
                break
            await asyncio.sleep(0.01)
        said = await calls.tell("u", [POD], NOTHING)
    assert said["pod"].wanted == NOTHING


async def test_a_pod_that_refuses_connections_is_asked_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It starts: nobody waits for it, and it should be told as soon as it listens."""
    monkeypatch.setattr(sidecars, "_QUICK_SECONDS", 30)
    calls = AdapterSidecars("key", port=1)
    for _ in range(3):
        assert await calls.ask("u", [POD]) == {}
    assert not calls._asking.is_silent(POD)
    await calls.close()
