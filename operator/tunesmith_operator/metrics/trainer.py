"""Asks a trainer how far it is. A trainer that does not answer is no error, just no news.

The pod is not trusted: two seconds, a bounded body, no redirects, no proxy. Called by reconcile/
through ``world.poll_progress``.
"""

from collections.abc import Callable

import aiohttp
from pydantic import ValidationError
from yarl import URL

from tunesmith_api.result import TrainerProgress
from tunesmith_operator.fetching import Unanswered, Unreachable, fetch

SECONDS = 2.0
MAX_BODY_BYTES = 64 * 1024


class TrainerClient:
    """One session for all trainers."""

    def __init__(self, polled: Callable[[str], object] = lambda _: None) -> None:
        """``polled`` is told each result: ok, unreachable or unreadable. Needs a running loop."""
        self._polled = polled
        self._session = aiohttp.ClientSession(
            # A pod's address belongs to somebody else tomorrow; keeping connections gains nothing.
            connector=aiohttp.TCPConnector(limit=64, force_close=True),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
        )

    async def poll_progress(self, pod_ip: str, port: int) -> TrainerProgress | None:
        """Return what the trainer says, or None if it says nothing that can be read."""
        try:
            url = URL.build(scheme="http", host=pod_ip, port=port, path="/progress")
            answer = await fetch(
                self._session, "GET", str(url), seconds=SECONDS, limit_bytes=MAX_BODY_BYTES
            )
            if answer.status != 200:
                raise Unanswered(f"HTTP {answer.status}")
            progress = TrainerProgress.model_validate_json(answer.body)
        except Unreachable:
            self._polled("unreachable")
            return None
        except (Unanswered, ValidationError, ValueError):
            self._polled("unreadable")
            return None
        self._polled("ok")
        return progress

    async def close(self) -> None:
        """Close the session."""
        await self._session.close()
