"""What every request of a client passes: key, size, limit, deadline; and how it is counted.

Turns whatever goes wrong into an answer in OpenAI's form. Knows nothing of what a route does.
``app`` wraps each route with it; handlers get the request and their :class:`Exchange`.
"""

import asyncio
import itertools
import re
import secrets
from collections.abc import Awaitable, Callable

from aiohttp import web

from tunesmith_process.logs import log
from tunesmith_sidecar.access import Keys
from tunesmith_sidecar.answers import error_answer, error_body
from tunesmith_sidecar.engine import EngineUnavailable
from tunesmith_sidecar.gate import Gate
from tunesmith_sidecar.metrics import Failure, Metrics, Route
from tunesmith_sidecar.settings import Settings

REQUEST_ID = "x-request-id"
REVISION = "x-tunesmith-revision"
ANALYSIS = "x-tunesmith-analysis"
"""A question of the operator's analysis has its token here. It needs no key and is answered like
any other, but neither counted nor logged: it must not dilute what clients see, nor be trained on.
A wrong token is refused, so that nobody hides from the counts and no such question is logged."""
MIRROR = "x-tunesmith-mirror"
"""The router's copy of a question says 1 here. It is load like any other and counted, but its
answer reached nobody, so it is not logged. Routers take the header off clients' requests."""
_CLIENT_GONE = 499
_LAST_WORDS_SECONDS = 1.0
# Unlike any other process's, and without asking the kernel at each request.
_PROCESS = secrets.token_hex(10)
_NUMBERS = itertools.count(1)
_PLAIN = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class Exchange:
    """One request while it is served: who it is and how long it may take."""

    __slots__ = (
        "_clock",
        "_deadline",
        "_gate",
        "_timeout",
        "failure",
        "is_abandoned",
        "is_analysis",
        "is_logged",
        "metrics",
        "request_id",
        "session",
        "started",
    )

    def __init__(self, request: web.Request, guard: "Guard") -> None:
        settings = guard.settings
        self._gate = guard.gate
        self._timeout = settings.request_timeout_seconds
        self._clock = asyncio.get_running_loop().time
        self.started = self._clock()
        self._deadline = asyncio.timeout_at(self.started + self._timeout)
        given = request.headers.get(REQUEST_ID, "")
        self.request_id = given if _PLAIN.fullmatch(given) else f"{_PROCESS}-{next(_NUMBERS):x}"
        self.is_analysis = guard.keys.is_analysis(request.headers.get(ANALYSIS, ""))
        """Whether the operator asks and no client."""
        self.is_logged = not self.is_analysis and request.headers.get(MIRROR) != "1"
        """Whether it is a conversation with a client."""
        self.metrics = guard.unseen if self.is_analysis else guard.metrics
        """Where it is counted."""
        self.failure: Failure | None = None
        """Why there is no proper answer."""
        self.is_abandoned = False
        """Whether the client went away before the end."""
        # A header may hold bytes that are no UTF-8; JSON cannot.
        session = request.headers.get(settings.session_header, "")[:128]
        self.session = session.encode("utf-8", "replace").decode()

    @property
    def seconds(self) -> float:
        """Time since the request came."""
        return self._clock() - self.started

    @property
    def deadline(self) -> asyncio.Timeout:
        """When it must have been answered."""
        return self._deadline

    def failed(self, reason: Failure) -> None:
        """Count that there is no proper answer."""
        self.failure = reason
        self.metrics.failed(reason)

    def extend(self) -> None:
        """Start the time again: a part of a stream was delivered."""
        self._deadline.reschedule(self._clock() + self._timeout)

    def mark(self, response: web.StreamResponse, revision: str) -> None:
        """Put our headers on an answer before it is sent."""
        response.headers[REQUEST_ID] = self.request_id
        response.headers[REVISION] = revision
        if self._gate.is_draining:
            # The client's next request must find another pod, not a connection that closes.
            response.force_close()


Handler = Callable[[web.Request, Exchange], Awaitable[web.StreamResponse]]


class BrokenStream(Exception):
    """A stream that ended too early; the client has its beginning."""

    def __init__(self, response: web.StreamResponse, reason: Failure) -> None:
        super().__init__(reason)
        self.response = response
        self.reason = reason


class Guard:
    """Wraps handlers."""

    def __init__(self, settings: Settings, gate: Gate, keys: Keys, metrics: Metrics) -> None:
        self.settings = settings
        self.gate = gate
        self.keys = keys
        self.metrics = metrics
        self.unseen = Metrics(settings.revision)
        """Takes what is not to be counted; nobody reads it."""

    def wrap(
        self, route: Route, handler: Handler
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """Return what aiohttp calls for ``route``."""

        async def handle(request: web.Request) -> web.StreamResponse:
            exchange = Exchange(request, self)
            code = _CLIENT_GONE
            try:
                response = await self._serve(request, exchange, handler)
                code = _CLIENT_GONE if exchange.is_abandoned else response.status
                if not response.prepared:
                    exchange.mark(response, self.settings.revision)
                return response
            except asyncio.CancelledError:
                # aiohttp cancels us when the client is gone; leaving has stopped the engine.
                exchange.failed(Failure.CLIENT_GONE)
                raise
            finally:
                exchange.metrics.answered(route, code, exchange.seconds, exchange.failure)

        return handle

    async def _serve(
        self, request: web.Request, exchange: Exchange, handler: Handler
    ) -> web.StreamResponse:
        refusal = self._refuse(request, exchange)
        if refusal is not None:
            return refusal
        try:
            return await self._within_time(request, exchange, handler)
        finally:
            self.gate.leave()

    def _refuse(self, request: web.Request, exchange: Exchange) -> web.Response | None:
        """Return why the request may not come in; None when it has taken a place."""
        if not exchange.is_analysis and ANALYSIS in request.headers:
            exchange.failed(Failure.UNAUTHORIZED)
            return error_answer(401, "The analysis' token is wrong.", "invalid_analysis_token")
        if not exchange.is_analysis and not self.keys.allow(request.headers.get("Authorization")):
            exchange.failed(Failure.UNAUTHORIZED)
            return error_answer(
                401, "A valid API key is needed.", "invalid_api_key", WWW_Authenticate="Bearer"
            )
        if (request.content_length or 0) > self.settings.max_body_bytes:
            return self._too_large(exchange)
        if not self.gate.enter():
            exchange.failed(Failure.OVERLOADED)
            wait = self.settings.retry_after_seconds
            return error_answer(
                429, f"Busy; try again in {wait} s.", "overloaded", Retry_After=str(wait)
            )
        return None

    def _too_large(self, exchange: Exchange) -> web.Response:
        exchange.failed(Failure.TOO_LARGE)
        limit = self.settings.max_body_bytes
        answer = error_answer(413, f"The body is larger than {limit} bytes.", "body_too_large")
        # What is left of the body is not read, so nothing can follow on this connection.
        answer.force_close()
        return answer

    async def _within_time(
        self, request: web.Request, exchange: Exchange, handler: Handler
    ) -> web.StreamResponse:
        try:
            async with exchange.deadline:
                return await handler(request, exchange)
        except BrokenStream as broken:
            exchange.failed(broken.reason)
            exchange.is_abandoned = broken.reason is Failure.CLIENT_GONE
            if not exchange.is_abandoned:
                await _break_off(request, broken)
            return broken.response
        except Exception as error:
            return self._apologise(error, exchange)

    def _apologise(self, error: Exception, exchange: Exchange) -> web.Response:
        match error:
            case TimeoutError():
                exchange.failed(Failure.TIMEOUT)
                limit = self.settings.request_timeout_seconds
                return error_answer(504, f"No answer within {limit:g} s.", "request_timeout")
            case EngineUnavailable():
                exchange.failed(Failure.ENGINE_UNAVAILABLE)
                log.warning("the engine does not answer", error=str(error), id=exchange.request_id)
                return error_answer(
                    502, "The inference engine does not answer.", "engine_unavailable"
                )
            case web.HTTPRequestEntityTooLarge():
                return self._too_large(exchange)
            case web.RequestPayloadError():
                return error_answer(400, "The body cannot be read.", "invalid_body")
            case _:
                exchange.failed(Failure.INTERNAL)
                log.error("a request was not served", id=exchange.request_id, exc_info=error)
                return error_answer(500, "The request was not served.", "internal_error")


async def _break_off(request: web.Request, broken: BrokenStream) -> None:
    """Tell the client that its stream is not whole: an error event, then no proper end.

    Some clients only look at events, others only at how the connection ends.
    """
    message = "The stream broke off."
    event = b"data: " + error_body(message, "server_error", broken.reason) + b"\n\n"
    transport = request.transport
    try:
        async with asyncio.timeout(_LAST_WORDS_SECONDS):
            await broken.response.write(event)
    except (TimeoutError, ConnectionError):
        # It does not read any more; waiting for that would hold the connection for ever.
        if transport is not None:
            transport.abort()
    if transport is not None:
        transport.close()
