"""One call to a pod of ours.

Bounded in time and size, no redirects, no proxy. Called by ``agents`` and ``sidecars``.
"""

from dataclasses import dataclass
from typing import TypeVar

import aiohttp
import structlog
from pydantic import BaseModel, ValidationError
from yarl import URL

from tunesmith_operator.fetching import Unanswered, Unreachable, fetch, in_short
from tunesmith_operator.planning.serving import ServingPod

log = structlog.get_logger(__name__)

MAX_BODY_BYTES = 256 * 1024
Report = TypeVar("Report", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Call:
    """What is asked of a pod."""

    method: str
    port: int
    path: str
    body: bytes | None
    headers: dict[str, str]


def open_pod_session() -> aiohttp.ClientSession:
    """Make a session for pods that are asked again and again. Needs a running loop."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=256, keepalive_timeout=15),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
    )


async def call_pod(
    session: aiohttp.ClientSession,
    pod: ServingPod,
    call: Call,
    report: type[Report],
    seconds: float,
) -> Report:
    """Give what the pod says. Raises Unanswered where that is nothing that can be read."""
    url = URL.build(scheme="http", host=pod.address, port=call.port, path=call.path)
    try:
        answer = await fetch(
            session,
            call.method,
            str(url),
            body=call.body,
            headers=call.headers,
            seconds=seconds,
            limit_bytes=MAX_BODY_BYTES,
        )
        if answer.status != 200:
            raise Unanswered(f"HTTP {answer.status}: {in_short(answer.body)}")
        return report.model_validate_json(answer.body)
    except Unreachable as error:
        # A pod that is starting is asked again and again; that it is silent is no news.
        tell = log.info if pod.is_ready else log.debug
        tell("a pod does not answer", pod=pod.name, error=str(error))
        raise
    except (Unanswered, ValidationError) as error:
        log.warning("a pod refuses", pod=pod.name, error=str(error))
        raise Unanswered(in_short(str(error))) from error
