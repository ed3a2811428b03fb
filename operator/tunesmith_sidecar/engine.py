"""The connection to the inference engine in the same pod: pooled, and never kept waiting.

Sends requests and asks whether the engine is there; what goes back to a client is others' matter.
One :class:`Engine` for the life of the process. Called by ``proxy``, ``predict`` and ``probes``.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

import aiohttp
from yarl import URL

from tunesmith_sidecar.settings import Settings

# Engines close idle connections after 5 s; ours go first, so that none is closed under a request.
_KEEP_ALIVE_SECONDS = 2.0
_CONNECT_SECONDS = 2.0
_PROBE_SECONDS = 1.0
_RECENT_SECONDS = 2.0


class EngineUnavailable(Exception):
    """The engine did not answer, or broke off in the middle of its answer."""


class Engine:
    """The engine as a client sees it. Use as an asynchronous context manager."""

    def __init__(self, settings: Settings) -> None:
        self._url = URL(settings.engine_url)
        self._ready_url = self._url.with_path(settings.engine_ready_path)
        self._answered = float("-inf")
        connector = aiohttp.TCPConnector(
            limit=0,  # the gate decides how many
            keepalive_timeout=_KEEP_ALIVE_SECONDS,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            # Compressed answers could be neither measured nor logged.
            headers={"Accept-Encoding": "identity"},
            skip_auto_headers=("User-Agent",),
            trust_env=False,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._session.close()

    @asynccontextmanager
    async def request(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request; gives the answer once its head is there.

        Leaving early closes the connection, which is how an engine learns to stop.
        Raises EngineUnavailable, also from within the block when the answer breaks off.
        """
        try:
            answer = await self._send(method, path, body, headers)
            async with answer:
                # One that cannot serve yet, or any more, is no sign of health.
                if answer.status < 500:
                    self._answered = time.monotonic()
                yield answer
        except aiohttp.ClientError as error:
            raise EngineUnavailable(type(error).__name__) from error

    async def _send(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> aiohttp.ClientResponse:
        url = self._url.with_path(path)

        def send() -> Awaitable[aiohttp.ClientResponse]:
            # An answer that leads elsewhere would take the conversation out of the pod.
            return self._session.request(
                method, url, data=body, headers=headers, allow_redirects=False
            )

        try:
            return await send()
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
            if isinstance(error, aiohttp.ClientConnectorError):
                raise
            # A pooled connection may close while the request is on its way. No byte of an answer
            # has come and asking a model twice changes nothing, so once more is safe.
            return await send()

    def note_alive(self) -> None:
        """Note that bytes of an answer came just now."""
        self._answered = time.monotonic()

    async def is_answering(self) -> bool:
        """Tell whether the engine serves.

        A busy engine may have no thread left for a probe; one that has just answered a request
        is there, and is not asked.
        """
        if time.monotonic() - self._answered < _RECENT_SECONDS:
            return True
        try:
            async with (
                asyncio.timeout(_PROBE_SECONDS),
                self._session.get(self._ready_url, allow_redirects=False) as answer,
            ):
                return answer.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False
