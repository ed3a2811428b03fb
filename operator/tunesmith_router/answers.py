"""Listens for HAProxy's lines about answers: its ring connects to our socket and sends frames.

A frame is a length in decimal, a blank, and that many bytes. While nobody listens HAProxy keeps
the lines. Decides nothing; ``counting`` does. Opened by ``serving``.
"""

import asyncio
from collections.abc import Callable

from tunesmith_process.logs import log
from tunesmith_router.counting import Answered, parse_line

_LONGEST_LENGTH = 6


class BrokenFrame(ValueError):
    """The bytes are no frames."""


def split_frames(data: bytes) -> tuple[list[bytes], bytes]:
    """Give the whole frames' content and the rest. Raises BrokenFrame."""
    frames, start = [], 0
    while (blank := data.find(b" ", start)) >= 0:
        length = data[start:blank]
        if not length.isdigit():
            raise BrokenFrame(f"{length[:20]!r} is no length")
        end = blank + 1 + int(length)
        if end > len(data):
            break
        frames.append(data[blank + 1 : end])
        start = end
    rest = data[start:]
    if blank < 0 and len(rest) > _LONGEST_LENGTH:
        raise BrokenFrame(f"{rest[:20]!r} is no length")
    return frames, rest


class Listener:
    """The socket and its connections."""

    def __init__(self, count: Callable[[Answered], None], count_lost: Callable[[], None]) -> None:
        self.count = count
        self.count_lost = count_lost
        self.transports: set[asyncio.BaseTransport] = set()
        self._server: asyncio.AbstractServer | None = None

    async def open(self, path: str) -> None:
        """Start to listen; a socket that a dead agent left is replaced. Raises OSError."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(lambda: _Connection(self), path)

    def close(self) -> None:
        """Take no more lines: from now on HAProxy keeps them."""
        if self._server is not None:
            self._server.close()
        for transport in list(self.transports):
            transport.close()


class _Connection(asyncio.Protocol):
    """One connection of HAProxy's ring."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._rest = b""
        self._transport: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._listener.transports.add(transport)

    def connection_lost(self, _: Exception | None) -> None:
        if self._transport is not None:
            self._listener.transports.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        # A broken frame ends the connection: asyncio does so for whatever is raised here, and
        # HAProxy connects again.
        frames, self._rest = split_frames(self._rest + data)
        for frame in frames:
            self._take(frame.decode("utf-8", "replace").strip())

    def _take(self, line: str) -> None:
        try:
            answered = parse_line(line)
        except ValueError:
            # HAProxy says so when its ring was full: then our counts are too low.
            self._listener.count_lost()
            log.warning("HAProxy says something else than an answer", line=line)
            return
        if answered is not None:
            self._listener.count(answered)
