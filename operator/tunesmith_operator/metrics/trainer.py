"""Asks a trainer how far it is. A trainer that does not answer is no error, just no news.

The pod is not trusted: two seconds, a bounded body, no redirects, no proxy. Called by reconcile/
through ``world.poll_progress``.
"""

import asyncio
from collections.abc import Callable

import aiohttp
from pydantic import ValidationError
from yarl import URL

from tunesmith_api.run import TrainerProgress

TIMEOUT = aiohttp.ClientTimeout(total=2)
MAX_BODY_BYTES = 64 * 1024


class TrainerClient:
    """One session for all trainers."""

    def __init__(self, polled: Callable[[str], object] = lambda _: None) -> None:
        """``polled`` is told each result: ok, unreachable or unreadable. Needs a running loop."""
        self._polled = polled
        self._session = aiohttp.ClientSession(
            timeout=TIMEOUT,
            # A pod's address belongs to somebody else tomorrow; keeping connections gains nothing.
            connector=aiohttp.TCPConnector(limit=64, force_close=True),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
        )

    async def poll_progress(self, pod_ip: str, port: int) -> TrainerProgress | None:
        """Return what the trainer says, or None if it says nothing that can be read."""
        try:
            body = await self._read(URL.build(scheme="http", host=pod_ip, port=port))
            progress = TrainerProgress.model_validate_json(body)
        except (aiohttp.ClientError, TimeoutError, OSError, asyncio.IncompleteReadError):
            self._polled("unreachable")
            return None
        except (ValidationError, ValueError):
            self._polled("unreadable")
            return None
        self._polled("ok")
        return progress

    async def _read(self, address: URL) -> bytes:
        async with self._session.get(address / "progress", allow_redirects=False) as answer:
            if answer.status != 200:
                raise ValueError(f"HTTP {answer.status}")
            body = await answer.content.read(MAX_BODY_BYTES + 1)
            while len(body) <= MAX_BODY_BYTES and not answer.content.at_eof():
                body += await answer.content.read(MAX_BODY_BYTES + 1 - len(body))
            if len(body) > MAX_BODY_BYTES:
                raise ValueError("the answer is too long")
            return body

    async def close(self) -> None:
        """Close the session."""
        await self._session.close()
