"""How the operator asks pods and users' endpoints: bounded, no redirects, no metadata service.

Whoever is asked is not trusted: an address comes from a user's spec, an answer from a user's pod.
Decides nothing about what an answer means. Called by metrics/ and
routing/.
"""

import asyncio
import errno
import socket
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any, NamedTuple

import aiohttp

_CONNECTIONS = 256
_LONGEST_REASON = 200
_NAT64 = ip_network("64:ff9b::/96")
# Besides link-local ones: AWS (IPv6), Alibaba, Oracle, Azure.
_METADATA = frozenset(
    map(ip_address, ("fd00:ec2::254", "100.100.100.200", "192.0.0.192", "168.63.129.16"))
)


class Unanswered(Exception):
    """Whoever was asked gave nothing that can be used; the text says why, for a status."""


class Unanswerable(Unanswered):
    """What was asked has no answer however often it is asked: somebody has to change it."""


class Unreachable(Unanswered):
    """No answer came at all."""


class Answer(NamedTuple):
    """An answer, whole."""

    status: int
    body: bytes


def is_metadata_service(address: str) -> bool:
    """Whether a cloud answers at this IP address with what it knows of its machine."""
    found = ip_address(address)
    if isinstance(found, IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour
        if inner is None and found in _NAT64:
            inner = IPv4Address(int(found) & 0xFFFFFFFF)
        if inner is not None:
            return is_metadata_service(str(inner))
    return found.is_link_local or found in _METADATA


def open_session() -> aiohttp.ClientSession:
    """Make the session that :func:`fetch` needs. Needs a running loop."""
    return aiohttp.ClientSession(
        # A pod's address belongs to somebody else tomorrow; keeping connections gains nothing.
        connector=aiohttp.TCPConnector(
            limit=_CONNECTIONS, force_close=True, socket_factory=_open_socket
        ),
        cookie_jar=aiohttp.DummyCookieJar(),
        # What is compressed may be a thousand times as large.
        headers={"Accept-Encoding": "identity"},
        auto_decompress=False,
        trust_env=False,
    )


def _open_socket(info: Any) -> socket.socket:
    """Open a socket for an address that is about to be connected to.

    The last moment at which all are seen: written as numbers in any form, or a name's, which may
    have another address than when somebody looked before.
    """
    family, kind, protocol, _, address = info
    if is_metadata_service(str(address[0])):
        raise PermissionError(errno.EACCES, f"{address[0]} is a cloud's metadata service")
    return socket.socket(family, kind, protocol)


async def fetch(
    session: aiohttp.ClientSession,
    method: str,
    url: str,
    *,
    seconds: float,
    limit_bytes: int,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    query: Mapping[str, str] | None = None,
) -> Answer:
    """Send one request, with a JSON body if there is one, and read all of the answer.

    Raises Unreachable when no whole answer comes in time, Unanswered when it is too large.
    """
    typed = {"Content-Type": "application/json"} if body is not None else {}
    try:
        async with (
            asyncio.timeout(seconds),
            session.request(
                method,
                url,
                params=query,
                data=body,
                headers={**typed, **(headers or {})},
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=None),
            ) as answer,
        ):
            return Answer(answer.status, await _read(answer, limit_bytes))
    except TimeoutError as error:
        raise Unreachable(f"no answer within {seconds:g} s") from error
    except aiohttp.ClientConnectorError as error:
        reason = error.os_error.strerror or str(error.os_error)
        raise Unreachable(f"cannot connect to {error.host}:{error.port}: {reason}") from error
    except (aiohttp.ClientError, OSError, ValueError, asyncio.IncompleteReadError) as error:
        # aiohttp raises ValueError for a URL that it cannot send to.
        raise Unreachable(str(error)[:_LONGEST_REASON] or type(error).__name__) from error


async def _read(answer: aiohttp.ClientResponse, limit: int) -> bytes:
    parts, size = [], 0
    async for chunk in answer.content.iter_chunked(1 << 16):
        size += len(chunk)
        if size > limit:
            raise Unanswered(f"the answer is larger than {limit} bytes")
        parts.append(chunk)
    return b"".join(parts)


def in_short(text: str | bytes) -> str:
    """Give the beginning of what somebody said, on one line, for a status."""
    if isinstance(text, bytes):
        text = text[: 4 * _LONGEST_REASON].decode("utf-8", "replace")
    return " ".join(text.split())[:_LONGEST_REASON]
