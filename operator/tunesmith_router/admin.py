"""HAProxy's admin socket: what it has, and what it is told.

One connection for each command; nothing is remembered and nothing decided here. Raises
:class:`HAProxyError` with HAProxy's own words. Called by ``router`` only.
"""

import asyncio
import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from tunesmith_api.router import RouterEndpoint
from tunesmith_router.placement import ServerId
from tunesmith_router.split import SPLIT_KEY

_ANSWER_SECONDS = 5.0
# Servers only, of all backends.
_SHOW_SERVERS = "show stat -1 4 -1"
_FAST_CHECK_SECONDS = 0.2
# An order for a server has some 400 bytes, and all must fit HAProxy's smallest buffer.
_AT_ONCE = 50


class HAProxyError(Exception):
    """HAProxy refused a command, or does not answer."""


@dataclass(frozen=True, slots=True)
class Identity:
    """One life of HAProxy: in a container every one may have the same pid."""

    pid: str
    started: str


@dataclass(frozen=True, slots=True)
class Server:
    """A server as HAProxy sees it."""

    id: ServerId
    is_up: bool
    """Whether it gets requests and passed its check: neither down, draining nor yet unchecked."""
    sessions: int
    """Requests in flight."""


class Admin:
    """HAProxy's admin socket."""

    def __init__(self, socket: Path, split_map: Path, check_interval_seconds: float) -> None:
        """Remember where it is."""
        self._socket = socket
        self._map = split_map
        slow = round(check_interval_seconds * 1000)
        fast = min(slow, round(_FAST_CHECK_SECONDS * 1000))
        # A new server is checked fast too, and so is one that failed once.
        self._checks = f"inter {slow} fastinter {fast} downinter {fast} fall 3 rise 1"

    async def identify(self) -> Identity:
        """Tell which life of HAProxy this is."""
        lines = (await self._run("show info")).splitlines()
        info = dict(line.split(": ", 1) for line in lines if ": " in line)
        try:
            return Identity(info["Pid"], info["Start_time_sec"])
        except KeyError as error:
            raise HAProxyError(f"show info has no {error}") from error

    async def list_servers(self) -> tuple[Server, ...]:
        """Give the servers of all slots."""
        text = (await self._run(_SHOW_SERVERS)).removeprefix("# ")
        try:
            return tuple(_parse_server(row) for row in csv.DictReader(text.splitlines()))
        except (KeyError, ValueError, AttributeError) as error:
            # Cut off in the middle of a line, as HAProxy ended.
            raise HAProxyError(f"show stat cannot be read: {error!r}") from error

    async def add(
        self, servers: Mapping[ServerId, RouterEndpoint], *, is_trusted: bool = False
    ) -> None:
        """Add servers; they get requests when they have passed a check, trusted ones at once."""
        await self._order_many(
            self._addition(server, endpoint, is_trusted=is_trusted)
            for server, endpoint in servers.items()
        )

    def _addition(
        self, server: ServerId, endpoint: RouterEndpoint, *, is_trusted: bool
    ) -> tuple[str, ...]:
        address, port = endpoint.address, endpoint.port
        family = f"ipv6@[{address}]" if ":" in address else f"ipv4@{address}"
        if not server.is_checked:
            return f"add server {server} {family}:{port}", f"set server {server} state ready"
        # Out of maintenance it would be taken for healthy at once, so it is draining till down.
        doubt = (f"set server {server} state drain", f"set server {server} health down")
        return (
            f"add server {server} {family}:{port} check {self._checks}",
            f"enable health {server}",
            *(() if is_trusted else doubt),
            f"set server {server} state ready",
        )

    async def keep(self, servers: Iterable[ServerId]) -> None:
        """Let servers have requests, also those that were draining."""
        await self._order_many((f"set server {server} state ready",) for server in servers)

    async def drain(self, server: ServerId) -> None:
        """Give a server no more requests; those in flight go on."""
        await self._order(f"set server {server} state drain")

    async def delete(self, server: ServerId) -> None:
        """Delete a server that has nothing in flight."""
        await self._order(f"set server {server} state maint", f"del server {server}")

    async def read_split(self) -> str:
        """Give the split's entry; empty if there is none."""
        for line in (await self._run(f"show map {self._map}")).splitlines():
            # An address in memory, the key, the value.
            fields = line.split(" ", 2)
            if fields[1:2] == [SPLIT_KEY]:
                return "".join(fields[2:])
        return ""

    async def write_split(self, entry: str) -> None:
        """Change the split, at once."""
        await self._order(f"set map {self._map} {SPLIT_KEY} {entry}")

    async def _order_many(self, orders: Iterable[tuple[str, ...]]) -> None:
        """Give many orders: a connection for each would take seconds for hundreds of servers."""
        waiting = iter(orders)
        while batch := tuple(islice(waiting, _AT_ONCE)):
            await self._order(*chain.from_iterable(batch))

    async def _order(self, *commands: str) -> None:
        answer = await self._run("; ".join(commands))
        # Of these commands HAProxy only says something when it worked in one of two ways.
        said = set(answer.split("\n")) - {"", "New server registered.", "Server deleted."}
        if said:
            others = f" and {len(commands) - 1} more" if len(commands) > 1 else ""
            raise HAProxyError(f"{commands[0]}{others}: {' '.join(sorted(said))}")

    async def _run(self, command: str) -> str:
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                reader, writer = await asyncio.open_unix_connection(self._socket)
                try:
                    writer.write(f"{command}\n".encode())
                    return (await reader.read()).decode("utf-8", "replace")
                finally:
                    writer.close()
        except (OSError, TimeoutError) as error:
            raise HAProxyError(f"HAProxy does not answer: {error or 'timeout'}") from error


def _parse_server(row: dict[str, str]) -> Server:
    return Server(
        id=ServerId(row["pxname"], row["svname"]),
        is_up=row["status"].startswith("UP") and row["check_status"] != "INI",
        sessions=int(row["scur"]) + int(row["qcur"]),
    )
