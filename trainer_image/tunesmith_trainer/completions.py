"""Asks models behind endpoints with OpenAI's API: the key, the call, what is tried again.

Called by ``generating`` and ``suites.judging``, which decide what is asked and what a failure
means for the run. The key is read from the mounted Secret and never logged, nor is what is asked.
"""

import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

import httpx2
import tenacity
from pydantic import BaseModel, Field, ValidationError

from tunesmith_trainer.outcome import shorten

_PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
_REFUSED = frozenset({401, 403})
# The last is that of a name that no host can have.
_NO_ADDRESS = (httpx2.InvalidURL, httpx2.UnsupportedProtocol, UnicodeError)
_LONGEST_PAUSE_SECONDS = 30.0
_MOST_ANSWER_BYTES = 1 << 20

T = TypeVar("T")


class Unanswered(Exception):
    """There is no answer, and asking again would not help. The text goes on after "the model"."""


class Refused(Unanswered):
    """The endpoint does not take the key."""


class Unavailable(Unanswered):
    """The endpoint is away or busy; it may answer later."""

    def __init__(self, text: str, pause_seconds: float = 0.0) -> None:
        super().__init__(text)
        self.pause_seconds = pause_seconds
        """What the endpoint asks to be spared for."""


class Garbled(Unanswered):
    """The model answered, but not what it was asked for; the next answer may be better."""


class _Message(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    message: _Message


class _Completion(BaseModel):
    choices: Annotated[list[_Choice], Field(min_length=1)]


class Completions:
    """An endpoint that is asked, with its connections. Threads may share it."""

    def __init__(
        self,
        base_url: str,
        *,
        key_file: Path,
        timeout_seconds: float,
        tries: int,
        sleep: Callable[[float], None],
    ) -> None:
        """``base_url`` ends in /v1 as a rule; without a file there is no key.

        ``timeout_seconds`` is for each try, and ``sleep`` may raise to end the pauses between them.
        """
        self.url = f"{base_url.rstrip('/')}/chat/completions"
        self._client = httpx2.Client(headers=_authorization(key_file), timeout=timeout_seconds)
        self._tries = tries
        self._sleep = sleep

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def ask(self, body: Mapping[str, Any], read: Callable[[str], T]) -> T:
        """Give what ``read`` makes of the answer's text; it raises Garbled where that is no use.

        Raises Unanswered: at once, or Unavailable and Garbled after the last try.
        """
        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(self._tries),
            wait=_pause,
            retry=tenacity.retry_if_exception_type((Unavailable, Garbled)),
            sleep=self._sleep,
            reraise=True,
        )
        return retrying(lambda: read(self._complete(body)))

    def _complete(self, body: Mapping[str, Any]) -> str:
        try:
            with self._client.stream("POST", self.url, json=body) as response:
                data = _limited(response)
        except _NO_ADDRESS as error:
            raise Unanswered(f"cannot be asked ({_in_words(error)})") from error
        except httpx2.TransportError as error:
            raise Unavailable(f"cannot be reached ({_in_words(error)})") from error
        except httpx2.HTTPError as error:
            raise Unanswered(f"cannot be asked ({_in_words(error)})") from error
        return _text(response, data)


_backoff = tenacity.wait_random_exponential(multiplier=0.5, max=20)


def _pause(state: tenacity.RetryCallState) -> float:
    """As long as the endpoint asks for, within bounds; else random, so that threads spread out."""
    error = state.outcome.exception() if state.outcome else None
    asked = error.pause_seconds if isinstance(error, Unavailable) else 0.0
    return min(max(asked, _backoff(state)), _LONGEST_PAUSE_SECONDS)


def _authorization(key_file: Path) -> dict[str, str]:
    if not key_file.is_file():
        return {}
    return {"Authorization": f"Bearer {key_file.read_text(encoding='utf-8').strip()}"}


def _in_words(error: Exception) -> str:
    return f"{type(error).__name__}: {shorten(str(error), 200)}"


def _limited(response: httpx2.Response) -> bytes:
    data = bytearray()
    for part in response.iter_bytes():
        data += part
        if len(data) > _MOST_ANSWER_BYTES:
            raise Unanswered(f"answers with more than {_MOST_ANSWER_BYTES} bytes")
    return bytes(data)


def _text(response: httpx2.Response, data: bytes) -> str:
    status = response.status_code
    if status in _PASSING:
        asked = _retry_after_seconds(response.headers.get("Retry-After", ""))
        raise Unavailable(f"answers {status}", asked)
    if status in _REFUSED:
        raise Refused(f"refuses the key ({status})")
    try:
        response.raise_for_status()
        return _Completion.model_validate_json(data).choices[0].message.content or ""
    except (httpx2.HTTPStatusError, ValidationError) as error:
        said = shorten(data.decode(errors="replace"), 200)
        raise Unanswered(f"does not answer as OpenAI's API does ({status}): {said}") from error


def _retry_after_seconds(header: str) -> float:
    """Read Retry-After, RFC 9110, 10.2.3: seconds or a date. 0 where it is neither."""
    if header.isdecimal():
        return float(header)
    try:
        return parsedate_to_datetime(header).timestamp() - time.time()
    except ValueError:
        return 0.0
