"""One HTTP exchange with the API server, on the connection of kubernetes.aio.

``Wire`` sends and returns bytes; it retries nothing and knows no kinds. Interceptors wrap it: that
is the seam for telemetry and for tests that lose answers, answer 500 or kill the process at the
n-th write. Called by client.py only.
"""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any
from urllib.parse import urlencode

import aiohttp

from tunesmith_operator.kube.connection import Connection
from tunesmith_operator.kube.kinds import Object

TIMEOUT = aiohttp.ClientTimeout(total=10, sock_connect=3)
NETWORK_ERRORS = (aiohttp.ClientError, TimeoutError, OSError)


@dataclass(frozen=True, slots=True)
class Request:
    """A call. ``verb`` and ``kind`` are Kubernetes' words, for metrics and tests."""

    verb: str
    kind: str
    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: Object | None = None
    content_type: str = "application/json"

    @property
    def is_write(self) -> bool:
        """Whether it changes anything."""
        return self.method != "GET"


@dataclass(frozen=True, slots=True)
class Response:
    """An answer, whatever its status."""

    status: int
    body: bytes = b""
    retry_after: float | None = None


Send = Callable[[Request], Awaitable[Response]]
Interceptor = Callable[[Request, Send], Awaitable[Response]]


def chain(send: Send, interceptors: Sequence[Interceptor]) -> Send:
    """Wrap ``send``; the first interceptor sees a request first and its answer last."""

    def wrap(inner: Send, interceptor: Interceptor) -> Send:
        return lambda request: interceptor(request, inner)

    return reduce(wrap, reversed(interceptors), send)


class Wire:
    """Sends requests over kubernetes.aio's pooled connections. Raises NETWORK_ERRORS."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def __call__(self, request: Request) -> Response:
        """Send one request and read all of its answer."""
        headers = {"Content-Type": request.content_type, "Accept": "application/json"}
        headers |= await self._connection.auth_headers()
        query = f"?{urlencode(request.query)}" if request.query else ""
        answer: Any = await self._connection.rest.request(
            request.method,
            f"{self._connection.host}{request.path}{query}",
            headers=headers,
            body=request.body,
            _request_timeout=TIMEOUT,
        )
        body: bytes = await answer.read()
        return Response(answer.status, body, _seconds(answer.getheader("Retry-After")))


def _seconds(text: str | None) -> float | None:
    return float(text) if text and re.fullmatch(r"[0-9]{1,4}", text) else None
