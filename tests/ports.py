"""Ports for servers of tests, of a range that the system gives to nobody: none is raced for.

A port that was free a moment ago is not free any more where a client's connection, or a server
that asked for any port, got it from the system meanwhile. Those below are given to nobody, and
each of xdist's processes has some of its own: a server that is stopped finds its port again.
"""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import cycle, islice

HOST = "127.0.0.1"
_FIRST, _EACH, _PROCESSES = 20_000, 1_000, 10


def _own_ports() -> Iterator[int]:
    """Give this process's ports over and over, from a place that chance has chosen.

    Two runs of the tests at once are far apart then. The chance is the system's: one with a seed
    would be the same in both.
    """
    process = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _PROCESSES
    ports = list(range(_FIRST + process * _EACH, _FIRST + (process + 1) * _EACH))
    start = random.SystemRandom().randrange(_EACH)
    return cycle(ports[start:] + ports[:start])


_PORTS = _own_ports()


def free_port() -> int:
    """Give a port that nobody listens on, and that nobody else is given."""
    for port in islice(_PORTS, _EACH):
        with socket.socket() as listener, suppress(OSError):
            listener.bind((HOST, port))
            return port
    raise RuntimeError(f"all ports from {_FIRST} on are taken")


@contextmanager
def refusing_port() -> Iterator[int]:
    """Hold a port that refuses every connection: it is taken, and nobody listens."""
    with socket.socket() as holder:
        holder.bind((HOST, 0))
        yield int(holder.getsockname()[1])
