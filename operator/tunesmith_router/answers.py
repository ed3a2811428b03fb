"""Listens for HAProxy's lines about answers: its ring connects to our socket and sends frames.

A frame is a length in decimal, a blank, and that many bytes. While nobody listens HAProxy keeps
the lines. Decides nothing; ``counting`` does. Opened by ``serving``.
"""

import asyncio
from collections.abc import Callable

from tunesmith_router.counting import Answered, parse_line
from tunesmith_router.logs import log

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


class _Connection(asyncio.Protocol):
    """One connection of HAProxy's ring."""

    def __init__(self, count: Callable[[Answered], None], count_lost: Callable[[], None]) -> None:
        self._count = count
        self._count_lost = count_lost
        self._rest = b""

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
            self._count_lost()
            log.warning("HAProxy says something else than an answer", line=line)
            return
        if answered is not None:
            self._count(answered)


async def listen_for_answers(
    path: str, count: Callable[[Answered], None], count_lost: Callable[[], None]
) -> asyncio.AbstractServer:
    """Start to listen; a socket that a dead agent left is replaced. Raises OSError."""
    loop = asyncio.get_running_loop()
    return await loop.create_unix_server(lambda: _Connection(count, count_lost), path)
