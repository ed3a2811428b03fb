"""Polling a trainer: no answer is no news, and the pod is not trusted."""

import asyncio

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tunesmith_operator.metrics import trainer
from tunesmith_operator.metrics.trainer import MAX_BODY_BYTES, TrainerClient

PROGRESS = {
    "stage": "train",
    "attempt": 1,
    "phase": "Training",
    "phaseStartTime": "2026-01-02T03:04:05Z",
    "step": 7,
    "aFieldOfANewerTrainer": True,
}


async def answer_well(_: web.Request) -> web.Response:
    return web.json_response(PROGRESS)


async def answer_nonsense(_: web.Request) -> web.Response:
    return web.Response(text="<html>")


async def answer_500(_: web.Request) -> web.Response:
    return web.Response(status=500)


async def redirect(_: web.Request) -> web.Response:
    raise web.HTTPFound("/elsewhere")


async def flood(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    for _ in range(64):
        await response.write(b" " * MAX_BODY_BYTES)
    return response


async def hang(_: web.Request) -> web.Response:
    await asyncio.sleep(60)
    return web.Response()


@pytest.mark.parametrize(
    ("handler", "result"),
    [
        pytest.param(answer_well, "ok", id="progress"),
        pytest.param(answer_nonsense, "unreadable", id="nonsense"),
        pytest.param(answer_500, "unreadable", id="an error"),
        pytest.param(redirect, "unreadable", id="a redirect is not followed"),
        pytest.param(flood, "unreadable", id="an endless body"),
        pytest.param(hang, "unreachable", id="no answer"),
    ],
)
async def test_poll(handler, result, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "SECONDS", 0.3 if handler is hang else 60)
    app = web.Application()
    app.router.add_get("/progress", handler)
    app.router.add_get("/elsewhere", answer_well)
    results: list[str] = []
    client = TrainerClient(results.append)
    async with TestServer(app) as server:
        progress = await client.poll_progress("127.0.0.1", server.port)
    await client.close()
    assert results == [result]
    assert (progress.step if progress else None) == (7 if result == "ok" else None)


async def test_nobody_listens() -> None:
    results: list[str] = []
    client = TrainerClient(results.append)
    assert await client.poll_progress("127.0.0.1", 1) is None
    await client.close()
    assert results == ["unreachable"]
