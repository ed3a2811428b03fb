"""Endpoints of a revision as a router sees them: real HTTP servers that can be made to misbehave.

What a request wants is said in its body's member ``test``: delay (seconds), held (until it is
released), status, tokens and pause (a stream), paced (whose reader asks for each token), endless
(until it is released), die (after so many tokens), drop (the connection, without an answer).
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

CHAT = "/v1/chat/completions"


@dataclass
class Backend:
    """A pod of a revision."""

    name: str
    port: int = 0
    address: str = "127.0.0.1"
    is_ready: bool = True
    fails: bool = False
    requests: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    running: int = 0
    cancelled: int = 0
    slowness: float = 0.0
    """Seconds before every answer."""
    released: asyncio.Event = field(default_factory=asyncio.Event)
    pace: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    _runner: web.AppRunner | None = None

    def build(self) -> web.Application:
        app = web.Application(client_max_size=1 << 26)
        app.add_routes(
            [
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._secret),
                web.post("/{path:.*}", self._answer),
            ]
        )
        return app

    async def start(self) -> None:
        """Listen; on the same port as before, if there was one."""
        self._runner = web.AppRunner(
            self.build(), access_log=None, handler_cancellation=True, shutdown_timeout=0.1
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, self.address, self.port).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Close the port, as a pod that ended."""
        if self._runner is not None:
            await self._runner.cleanup()
        self._runner = None

    def endpoint(self) -> dict[str, Any]:
        return {"address": self.address, "port": self.port}

    async def _readyz(self, _: web.Request) -> web.Response:
        return web.Response(status=200 if self.is_ready else 503)

    async def _secret(self, _: web.Request) -> web.Response:
        return web.Response(text="you should not be here")

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.requests.append(({k.lower(): v for k, v in request.headers.items()}, body))
        self.running += 1
        try:
            return await self._play(request, json.loads(body).get("test", {}))
        except (asyncio.CancelledError, ConnectionError):
            self.cancelled += 1
            raise
        finally:
            self.running -= 1

    async def _play(self, request: web.Request, test: dict[str, Any]) -> web.StreamResponse:
        await asyncio.sleep(test.get("delay", 0) + self.slowness)
        if test.get("held"):
            await self.released.wait()
        if test.get("drop"):
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if status := 500 if self.fails else test.get("status"):
            return web.Response(status=status, text=self.name)
        if "tokens" not in test:
            return web.Response(text=self.name)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for number in range(test["tokens"]):
            if number == test.get("die"):
                assert request.transport is not None
                request.transport.abort()
                return response
            if test.get("endless") and self.released.is_set():
                break
            await response.write(f"data: {self.name} {number}\n\n".encode())
            await asyncio.sleep(test.get("pause", 0))
            if test.get("paced"):
                await self.pace.acquire()
        await response.write_eof()
        return response


@asynccontextmanager
async def backends(*names: str) -> AsyncIterator[tuple[Backend, ...]]:
    """Start one for each name."""
    started = tuple(Backend(name) for name in names)
    try:
        for backend in started:
            await backend.start()
        yield started
    finally:
        for backend in started:
            await backend.stop()


async def main() -> None:
    await Backend(sys.argv[1], int(sys.argv[2])).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
