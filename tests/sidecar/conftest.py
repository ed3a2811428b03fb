"""A stand-in engine and a sidecar before it, both on real sockets in the test's event loop."""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from tests.sidecar.standin import Standin

# The S3 server and its buckets are the trainer's tests'.
from tests.trainer.conftest import bucket, own_server, s3_server  # noqa: F401
from tunesmith_sidecar.access import Keys
from tunesmith_sidecar.app import build_app
from tunesmith_sidecar.conversations.log import ConversationLog, Store
from tunesmith_sidecar.engine import Engine
from tunesmith_sidecar.gate import Gate
from tunesmith_sidecar.guard import Guard
from tunesmith_sidecar.metrics import Metrics
from tunesmith_sidecar.settings import Settings

CHAT = "/v1/chat/completions"
TOKEN = "of-the-analysis"
ANALYSIS = {"analysis_token_digest": "sha256:" + hashlib.sha256(TOKEN.encode()).hexdigest()}
"""Settings of a sidecar that knows the operator."""


def chat(text: str = "Hi", **test: Any) -> dict[str, Any]:
    """Give a chat request; ``test`` tells the stand-in how to answer."""
    stream = test.pop("stream", False)
    messages = [{"role": "user", "content": text}]
    return {"messages": messages, "test": test} | ({"stream": True} if stream else {})


@asynccontextmanager
async def listening(app: web.Application, **options: Any) -> AsyncIterator[str]:
    """Serve on a free port; gives the URL."""
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, **options)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@dataclass
class Serving:
    """A running sidecar."""

    url: str
    client: aiohttp.ClientSession
    gate: Gate
    metrics: Metrics
    conversations: ConversationLog | None

    async def post(self, path: str, body: Any, **headers: str) -> tuple[int, Any, Any]:
        named = {name.replace("_", "-"): text for name, text in headers.items()}
        async with self.client.post(self.url + path, json=body, headers=named) as answer:
            return answer.status, await answer.json(), answer.headers

    async def get(self, path: str) -> tuple[int, str]:
        async with self.client.get(self.url + path) as answer:
            return answer.status, await answer.text()

    async def metric(self, name: str, **labels: str) -> float:
        """Give the value of a metric; the revision is added to the labels. 0 when there is none."""
        _, text = await self.get("/metrics")
        for line in text.splitlines():
            match = re.fullmatch(rf"{re.escape(name)}\{{(.*)\}} (\S+)", line)
            if match:
                found = dict(re.findall(r'(\w+)="([^"]*)"', match[1]))
                if found == {"revision": "7", **labels}:
                    return float(match[2])
        return 0.0


Start = Callable[..., Awaitable[Serving]]


async def eventually(condition: Callable[[], Any], seconds: float = 60.0) -> None:
    """Wait until a condition holds. It mostly does in a moment, but not on a busy machine."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        await asyncio.sleep(0.01)


@pytest.fixture
def engine() -> Standin:
    return Standin()


@pytest.fixture
async def start(engine: Standin, tmp_path: Path) -> AsyncIterator[Start]:
    """Start a sidecar with settings of the test's own; a store makes it log conversations."""
    async with AsyncExitStack() as stack:

        async def begin(store: Store | None = None, **given: Any) -> Serving:
            if "engine_url" not in given:
                given["engine_url"] = await stack.enter_async_context(
                    listening(engine.build(), shutdown_timeout=0.1)
                )
            settings = Settings.model_validate({"revision": "7"} | given)
            metrics = Metrics(settings.revision)
            gate = Gate(settings.max_concurrent_requests, metrics)
            guard = Guard(settings, gate, Keys(settings), metrics)
            log = ConversationLog(settings, store, metrics) if store else None
            upstream = await stack.enter_async_context(Engine(settings))
            app = build_app(settings, upstream, guard, metrics, log)
            url = await stack.enter_async_context(listening(app, shutdown_timeout=0.5))
            client = await stack.enter_async_context(aiohttp.ClientSession())
            return Serving(url, client, gate, metrics, log)

        yield begin
