"""Passes OpenAI's requests to the engine and its answers back, byte for byte.

Never changes a body, but for the model's name where an engine holds several (``naming``). Streams
are passed on as they come; of each only its end is looked at, for the tokens. The path that the
engine sees is the route's, never the client's, so nothing but the allowed paths can be reached.
Called through ``guard``.
"""

import asyncio
from collections.abc import Mapping

import aiohttp
from aiohttp import web

from tunesmith_sidecar.answers import error_answer
from tunesmith_sidecar.conversations.log import LONGEST_BYTES, ConversationLog, Exchanged
from tunesmith_sidecar.engine import Engine
from tunesmith_sidecar.guard import REQUEST_ID, BrokenStream, Exchange, Handler
from tunesmith_sidecar.metrics import Failure
from tunesmith_sidecar.naming import UnknownModel, rename_listing, rename_model
from tunesmith_sidecar.settings import Settings
from tunesmith_sidecar.usage import Tail, has_stream_error, read_stream_usage, read_usage

# Everything else stays here: the client's key is not the engine's matter, nor its cookies ours.
_TO_ENGINE = ("Content-Type", "Accept", "traceparent", "tracestate")
_TO_CLIENT = ("Content-Type", "Content-Encoding", "Cache-Control", "Retry-After")
_EVENTS = "text/event-stream"
_TAIL_BYTES = 16 << 10


class Proxy:
    """Makes the handlers of the paths that are passed on."""

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        conversations: ConversationLog | None,
    ) -> None:
        self._revision = settings.revision
        self._served = settings.served_model
        self._model = settings.model_name
        self._engine = engine
        self._conversations = conversations

    def listing(self, path: str) -> Handler:
        """Return a handler that passes a GET on."""

        async def handle(request: web.Request, exchange: Exchange) -> web.StreamResponse:
            headers = engine_headers(request.headers, exchange)
            async with self._engine.request("GET", path, None, headers) as answer:
                content = await answer.read()
                if self._served and answer.status == 200:
                    content = rename_listing(content, self._served, self._model)
                return web.Response(
                    body=content,
                    status=answer.status,
                    headers=client_headers(answer.headers),
                )

        return handle

    def inference(self, path: str) -> Handler:
        """Return a handler that passes a POST on and measures and logs the answer."""

        async def handle(request: web.Request, exchange: Exchange) -> web.StreamResponse:
            body = asked = await request.read()
            if self._served:
                try:
                    asked = rename_model(body, self._served, self._model)
                except UnknownModel:
                    words = f"There is no such model here; it is {self._served}."
                    return error_answer(404, words, "model_not_found")
            headers = engine_headers(request.headers, exchange)
            async with self._engine.request("POST", path, asked, headers) as answer:
                if answer.content_type == _EVENTS:
                    return await self._stream(request, exchange, body, answer)
                return await self._whole(exchange, body, answer)

        return handle

    async def _whole(
        self, exchange: Exchange, body: bytes, answer: aiohttp.ClientResponse
    ) -> web.Response:
        content = await answer.read()
        if answer.status == 200:
            exchange.metrics.used(read_usage(content), exchange.seconds)
            self._log(exchange, body, content, is_stream=False)
        elif answer.status >= 500:
            exchange.failed(Failure.ENGINE_ERROR)
        return web.Response(
            body=content, status=answer.status, headers=client_headers(answer.headers)
        )

    async def _stream(
        self,
        request: web.Request,
        exchange: Exchange,
        body: bytes,
        answer: aiohttp.ClientResponse,
    ) -> web.StreamResponse:
        response = web.StreamResponse(status=answer.status, headers=client_headers(answer.headers))
        exchange.mark(response, self._revision)
        tail = Tail(LONGEST_BYTES if self._conversations else _TAIL_BYTES)
        try:
            await self._pass_on(request, exchange, response, answer, tail)
        except asyncio.CancelledError as error:
            # Either our deadline, which a client with half an answer must be told in its stream,
            # or the client is gone.
            if response.prepared and exchange.deadline.expired():
                raise BrokenStream(response, Failure.TIMEOUT) from error
            raise
        await response.write_eof()
        if answer.status == 200:
            data = tail.data()
            end = data[-_TAIL_BYTES:]
            exchange.metrics.used(read_stream_usage(end), exchange.seconds)
            if has_stream_error(end):
                exchange.failed(Failure.ENGINE_ERROR)
            self._log(exchange, body, data, is_stream=True)
        return response

    async def _pass_on(
        self,
        request: web.Request,
        exchange: Exchange,
        response: web.StreamResponse,
        answer: aiohttp.ClientResponse,
        tail: Tail,
    ) -> None:
        await response.prepare(request)
        while True:
            try:
                chunk = await answer.content.readany()
            except aiohttp.ClientError as error:
                raise BrokenStream(response, Failure.ENGINE_UNAVAILABLE) from error
            if not chunk:
                return
            try:
                await response.write(chunk)
            except ConnectionError as error:
                raise BrokenStream(response, Failure.CLIENT_GONE) from error
            if not tail.size:
                exchange.metrics.first_token_seconds.observe(exchange.seconds)
            tail.add(chunk)
            exchange.extend()
            self._engine.note_alive()

    def _log(self, exchange: Exchange, body: bytes, answer: bytes, *, is_stream: bool) -> None:
        if self._conversations is not None and exchange.is_logged:
            self._conversations.add(
                Exchanged(exchange.request_id, exchange.session, body, answer, is_stream)
            )


def engine_headers(headers: Mapping[str, str], exchange: Exchange) -> dict[str, str]:
    """Return what the engine sees of a client's headers."""
    found = {name: headers[name] for name in _TO_ENGINE if name in headers}
    found[REQUEST_ID] = exchange.request_id
    return found


def client_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return what a client sees of the engine's headers."""
    return {name: headers[name] for name in _TO_CLIENT if name in headers}
