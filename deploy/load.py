"""Steady load on a served model: so many requests a second, whatever becomes of them.

Open loop: a request is sent when its time has come, also while earlier ones are not answered, as
clients do who know nothing of each other. Used by the demo, the e2e tests and the benchmark of
roll-outs.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from urllib.parse import urlsplit

REVISION_HEADER = "x-tunesmith-revision"
CHAT = "/v1/chat/completions"
THREADS = 64


@dataclass(frozen=True)
class Answer:
    """What became of a request."""

    sent: float
    """On the clock of ``time.monotonic``."""
    seconds: float
    code: int
    """HTTP status; 0 where there was no answer."""
    revision: str
    """Name of the revision that answered."""
    trouble: str = ""
    """Why there was no answer, or what a failed one said."""

    @property
    def is_good(self) -> bool:
        """Whether the client got what it asked for."""
        return self.code == 200


def ask(url: str, body: bytes, timeout: float = 60.0, *, key: str = "") -> tuple[Answer, bytes]:
    """POST ``body`` to the chat endpoint below ``url``; never raises for what the server does.

    ``key`` is sent as a client's, unless it is empty.
    """
    parts = urlsplit(url)
    began = time.monotonic()
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=timeout)
    try:
        headers = {"Content-Type": "application/json"}
        headers |= {"Authorization": f"Bearer {key}"} if key else {}
        connection.request("POST", CHAT, body, headers)
        response = connection.getresponse()
        text = response.read()
        revision = response.headers.get(REVISION_HEADER, "")
        trouble = "" if response.status == 200 else text[:200].decode(errors="replace")
        code = response.status
    except (OSError, http.client.HTTPException) as error:
        code, revision, text, trouble = 0, "", b"", repr(error)
    finally:
        connection.close()
    return Answer(began, time.monotonic() - began, code, revision, trouble), text


def question(text: str, max_tokens: int = 40) -> bytes:
    """Give the body of a request for a short answer, the same each time."""
    messages = [{"role": "user", "content": text}]
    return json.dumps({"messages": messages, "max_tokens": max_tokens, "temperature": 0}).encode()


class Load:
    """Sends ``rate`` requests a second while its ``with`` block lasts, and remembers all answers.

    Each request opens a connection of its own, as clients behind a balancer do; so a split of the
    traffic is one of requests, not of the few connections a pool would keep.
    """

    def __init__(self, url: str, rate: float, body: Callable[[int], bytes]) -> None:
        """``body`` gives the content of the n-th request."""
        self._url = url
        self._rate = rate
        self._body = body
        self._answers: list[Answer] = []
        self._newest: dict[str, bytes] = {}
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="load")
        self._clock = threading.Thread(target=self._send_all, name="load")

    def __enter__(self) -> Load:
        """Begin to send."""
        self._clock.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop sending and wait for the answers that are missing."""
        self._stop.set()
        self._clock.join()
        self._pool.shutdown(wait=True)

    @property
    def answers(self) -> Sequence[Answer]:
        """All answers so far, in the order in which they came."""
        return tuple(self._answers)

    def since(self, start: float) -> list[Answer]:
        """Give the answers to what was sent after ``start``."""
        return [answer for answer in self.answers if answer.sent >= start]

    def newest(self, revision: str) -> bytes:
        """Give what a revision answered last, or nothing."""
        return self._newest.get(revision, b"")

    def _send_all(self) -> None:
        began, number = time.monotonic(), 0
        while not self._stop.wait(max(0.0, began + number / self._rate - time.monotonic())):
            self._pool.submit(self._send, number)
            number += 1

    def _send(self, number: int) -> None:
        answer, text = ask(self._url, self._body(number))
        self._newest[answer.revision] = text
        self._answers.append(answer)


def by_revision(answers: Sequence[Answer]) -> dict[str, int]:
    """Count the answers of each revision."""
    return dict(Counter(answer.revision for answer in answers))


def failures(answers: Sequence[Answer]) -> list[Answer]:
    """Give the answers that were not what the client asked for."""
    return [answer for answer in answers if not answer.is_good]
