"""A stand-in engine that speaks OpenAI's API over real HTTP, and can be made to misbehave.

How it answers is said in the request itself, in the member ``test``: delay (seconds before the
answer), held (until it is released), status, usage (whether it says so); of a stream tokens (their
number), size (of each, in bytes), pause (seconds between two), paced (whose reader asks for each
event), die or fail (after so many). Runs in a test's process or, for
the benchmark, as ``python -m tests.sidecar.standin PORT``.
"""

import asyncio
import json
import sys
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

USAGE = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}


@dataclass
class Standin:
    """What the engine was asked, and how it feels."""

    requests: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    running: int = 0
    cancelled: int = 0
    is_loading: bool = False
    logprobs: bool = True
    models: tuple[str, ...] = ("tiny",)
    drop_next: int = 0
    """Connections to close without a word at their next request."""
    released: asyncio.Event = field(default_factory=asyncio.Event)
    pace: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))

    def build(self) -> web.Application:
        app = web.Application(client_max_size=1 << 26)
        app.add_routes(
            [
                web.post("/v1/chat/completions", self.chat),
                web.post("/v1/completions", self.chat),
                web.get("/v1/models", self.listing),
                web.route("*", "/{path:.*}", self.admin),
            ]
        )
        return app

    async def listing(self, _: web.Request) -> web.Response:
        if self.is_loading:
            return web.json_response({"error": "loading"}, status=503)
        return web.json_response({"object": "list", "data": [{"id": id_} for id_ in self.models]})

    async def admin(self, request: web.Request) -> web.Response:
        self.requests.append((request.path, lowered(request), b""))
        return web.Response(text="you should not be here")

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.requests.append((request.path, lowered(request), body))
        if self.drop_next:
            self.drop_next -= 1
            assert request.transport is not None
            request.transport.close()
            return web.Response()
        try:
            asked = json.loads(body)
        except ValueError:
            return web.json_response({"error": {"message": "not JSON"}}, status=400)
        self.running += 1
        try:
            return await self._answer(request, asked)
        except (asyncio.CancelledError, ConnectionError):
            self.cancelled += 1
            raise
        finally:
            self.running -= 1

    async def _answer(self, request: web.Request, asked: dict[str, Any]) -> web.StreamResponse:
        test = asked.get("test", {})
        await asyncio.sleep(test.get("delay", 0))
        if test.get("held"):
            await self.released.wait()
        if status := test.get("status"):
            headers = {"X-Engine": "secret", "Retry-After": "9", "Location": "/slots"}
            return web.json_response({"error": {"message": "bad"}}, status=status, headers=headers)
        if asked.get("stream"):
            return await self._stream(request, test)
        text = "Reach me at jane@example.com." if test.get("pii") else "Hello there."
        choice: dict[str, Any] = {"index": 0, "finish_reason": "stop"}
        if "prompt" in asked:
            choice["text"] = text
        else:
            choice["message"] = {"role": "assistant", "content": text}
        if asked.get("logprobs") and self.logprobs:
            choice["logprobs"] = {"content": [{"token": "a", "logprob": p} for p in (-0.1, -0.3)]}
        answer = {"id": "cmpl-1", "model": "tiny", "choices": [choice]}
        if test.get("usage", True):
            answer["usage"] = USAGE
        return web.json_response(answer)

    async def _stream(self, request: web.Request, test: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        made = events(test.get("tokens", 5), test.get("usage", True), test.get("size", 0))
        for number, event in enumerate(made):
            if number == test.get("fail"):
                await response.write(b'data: {"error": {"message": "out of memory"}}\n\n')
                break
            if number == test.get("die"):
                assert request.transport is not None
                request.transport.abort()
                return response
            await response.write(event)
            await asyncio.sleep(test.get("pause", 0))
            if test.get("paced"):
                await self.pace.acquire()
        await response.write_eof()
        return response


def lowered(request: web.Request) -> dict[str, str]:
    """Give the headers by their names in small letters."""
    return {name.lower(): text for name, text in request.headers.items()}


def events(tokens: int, usage: bool = True, size: int = 0) -> list[bytes]:
    """Give the events of a stream, byte for byte; oddly spaced, as some engines send them."""
    made, padding = [], "x" * size
    for number in range(tokens):
        delta = f'{{"content": " tök{number}{padding}"}}'
        choice = f'{{"index": 0, "delta": {delta}, "finish_reason": null}}'
        value = f'{{"id": "cmpl-2", "model": "tiny", "choices": [{choice}]}}'
        made.append(f"data:  {value}\r\n\r\n".encode())
    last = {"id": "cmpl-2", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    made.append(b"data: " + json.dumps(last).encode() + b"\n\n: a comment\n\n")
    if usage:
        made.append(b"data: " + json.dumps({"choices": [], "usage": USAGE}).encode() + b"\n\n")
    return [*made, b"data: [DONE]\n\n"]


def main() -> None:
    app = Standin().build()
    web.run_app(
        app,
        host="127.0.0.1",
        port=int(sys.argv[1]),
        access_log=None,
        print=None,
        handler_cancellation=True,
        shutdown_timeout=0.1,
    )


if __name__ == "__main__":
    main()
