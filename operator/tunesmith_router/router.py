"""Makes HAProxy do what a state says, keeps it so, and reports.

The order of a change never sends requests to a revision without endpoints: endpoints are added
and have passed a check; then it is written down; then the split changes, at once; then what is not
wanted is drained, and deleted when nothing is in flight. All of it may be done twice. One change
at a time. Decisions are in ``placement``; called by ``app`` and ``serving``.
"""

import asyncio
import time
from secrets import token_hex

from tunesmith_api.router import RouterCounts, RouterReport, RouterSplit, RouterState
from tunesmith_process.logs import log
from tunesmith_router.admin import Admin, HAProxyError, Identity, Server
from tunesmith_router.counting import Answered, Tallies, Tally
from tunesmith_router.memory import Memory, MemoryFile
from tunesmith_router.placement import (
    Placement,
    ServerId,
    members,
    place,
    plan_changes,
    rising,
    server_id,
    slot_name,
    wanted_servers,
)
from tunesmith_router.split import format_split, parse_split

_LOOK_AGAIN_SECONDS = 0.02
_KEEP_SECONDS = 1.0


class Router:
    """One HAProxy and what it should do."""

    def __init__(self, admin: Admin, file: MemoryFile, endpoint_wait_seconds: float) -> None:
        """Start from what the file remembers."""
        self._admin = admin
        self._file = file
        self._endpoint_wait_seconds = endpoint_wait_seconds
        memory = file.read()
        self._state = memory.state
        self._placement = memory.placement
        self._tallies = Tallies(memory.tallies)
        self._tallies.follow(set(memory.placement.marks.values()))
        self.haproxy_restarts = memory.haproxy_restarts
        self.lost_lines = 0
        self._kept = memory
        self._kept_at = 0.0
        self._trouble = ""
        self._seen: Identity | None = None
        self._applied: Identity | None = None
        """The life of HAProxy that has all of the state; None while it must be told again."""
        self._lock = asyncio.Lock()

    @property
    def tallies(self) -> dict[str, Tally]:
        """What was counted, by the revisions' names."""
        marks = self._placement.marks
        names = [r.name for r in self._state.revisions] if self._state else []
        return {n: self._tallies.of(marks[n]) if n in marks else Tally() for n in names}

    def count(self, answered: Answered) -> None:
        """Count an answer."""
        self._tallies.count(answered)

    def count_lost(self) -> None:
        """Count that HAProxy could not say everything."""
        self.lost_lines += 1

    async def put(self, state: RouterState) -> RouterReport:
        """Put a state into effect; answers when HAProxy says that it has it.

        Raises HAProxyError: then the split is as it was, or, if HAProxy failed after the state was
        written down, ``tend`` goes on with it.
        """
        async with self._lock:
            placement = place(self._placement, self._state, state, lambda: token_hex(4))
            identity = await self._admin.identify()
            added = await self._raise_endpoints(state, placement)
            await self._await_endpoints(state, placement, added, identity)
            self._remember(state, placement)
            await self._finish(state, placement, identity)
            return await self._report()

    async def report(self) -> RouterReport:
        """Say what HAProxy does now, as it says itself."""
        try:
            return await self._report()
        except HAProxyError:
            return self._build_report(None, ())

    async def find_trouble(self) -> str:
        """Say why this router is not ready; nothing when it is."""
        try:
            identity = await self._admin.identify()
        except HAProxyError as error:
            return str(error)
        return "" if identity == self._applied else "no state is in effect"

    async def tend(self) -> None:
        """Do what is due: tell a new HAProxy, delete what has drained, keep the counts."""
        async with self._lock:
            try:
                identity = await self._admin.identify()
                self._notice(identity)
                if self._state is not None:
                    if identity != self._applied:
                        # Nobody else can serve, so what served before is trusted.
                        await self._raise_endpoints(self._state, self._placement, is_trusted=True)
                        await self._finish(self._state, self._placement, identity)
                        log.info("told HAProxy the state again", pid=identity.pid)
                    await self._drain_and_delete(self._state, self._placement)
                self._complain("")
            except HAProxyError as error:
                self._complain(str(error))
            if time.monotonic() - self._kept_at > _KEEP_SECONDS:
                self.keep()

    def keep(self) -> None:
        """Write down what must outlive this process. Raises OSError."""
        self._write_down(self._state, self._placement)

    def _write_down(self, state: RouterState | None, placement: Placement) -> None:
        memory = Memory(
            state=state,
            placement=placement,
            tallies=self._tallies.snapshot(),
            haproxy_restarts=self.haproxy_restarts,
        )
        if memory != self._kept:
            self._file.write(memory)
            self._kept = memory
        self._kept_at = time.monotonic()

    async def _raise_endpoints(
        self, state: RouterState, placement: Placement, *, is_trusted: bool = False
    ) -> set[ServerId]:
        wanted = wanted_servers(state, placement)
        there = {server.id for server in await self._admin.list_servers()}
        changes = plan_changes(there, wanted)
        await self._admin.add(changes.add, is_trusted=is_trusted)
        await self._admin.keep(changes.keep)
        return set(changes.add)

    async def _await_endpoints(
        self, state: RouterState, placement: Placement, added: set[ServerId], identity: Identity
    ) -> None:
        """Return when those that get requests have an endpoint that passes.

        Waited for are revisions that get more requests than before, or new endpoints, perhaps
        instead of all that they had. Refused is only what would take requests from a revision that
        serves: what the operator says of endpoints it knows better, after a while.
        """
        is_told = self._applied == identity
        must = set(rising(self._state, state)) if is_told else set()
        may = members(state) & {n for n, slot in placement.slots.items() if _has(added, slot)}
        end = time.monotonic() + self._endpoint_wait_seconds
        while True:
            up = _up(await self._admin.list_servers(), state, placement)
            missing = sorted(name for name in must | may if not up[name])
            if not missing or (time.monotonic() > end and not must & set(missing)):
                return
            if time.monotonic() > end:
                raise HAProxyError(
                    f"no endpoint of {' and '.join(missing)} passes its check on /readyz; the split"
                    " stays as it was"
                )
            await asyncio.sleep(_LOOK_AGAIN_SECONDS)

    def _remember(self, state: RouterState, placement: Placement) -> None:
        """Write the state down before it is in effect: a dying agent goes forwards, not back."""
        try:
            self._write_down(state, placement)
        except OSError as error:
            # A full disk must not keep requests on a bad canary. An agent that starts again without
            # this state is told it by the operator, who sees that it does another.
            log.error("the state cannot be written down", error=str(error))
        self._applied = None
        self._state, self._placement = state, placement
        self._tallies.follow(set(placement.marks.values()))

    async def _finish(self, state: RouterState, placement: Placement, identity: Identity) -> None:
        """Change the split and drain what is left over."""
        entry = format_split(state.split, state.sticky_header, placement)
        await self._admin.write_split(entry)
        if (said := await self._admin.read_split()) != entry:
            raise HAProxyError(f"the split is {said!r} instead of {entry!r}")
        await self._drain_and_delete(state, placement)
        self._applied = identity

    async def _drain_and_delete(self, state: RouterState, placement: Placement) -> None:
        servers = await self._admin.list_servers()
        changes = plan_changes({s.id for s in servers}, wanted_servers(state, placement))
        sessions = {server.id: server.sessions for server in servers}
        for server in changes.drain:
            await self._admin.drain(server)
            if not sessions[server]:
                await self._delete(server)

    async def _delete(self, server: ServerId) -> None:
        try:
            await self._admin.delete(server)
        except HAProxyError as error:
            # A request may have come just before it drained; the next look deletes it.
            log.debug("deleted later", server=str(server), error=str(error))

    async def _report(self) -> RouterReport:
        split = parse_split(await self._admin.read_split(), self._placement)
        return self._build_report(split, await self._admin.list_servers())

    def _build_report(self, split: RouterSplit | None, servers: tuple[Server, ...]) -> RouterReport:
        up = _up(servers, self._state, self._placement) if self._state else {}
        counts = tuple(
            RouterCounts(
                name=name,
                requests=tally.requests,
                errors=tally.errors,
                consecutive_errors=tally.consecutive_errors,
                endpoints_up=up[name],
            )
            for name, tally in self.tallies.items()
        )
        return RouterReport(split=split, counts=counts)

    def _complain(self, trouble: str) -> None:
        # Once, not at every look.
        if trouble and trouble != self._trouble:
            log.warning("HAProxy is not as it should be", error=trouble)
        self._trouble = trouble

    def _notice(self, identity: Identity) -> None:
        if self._seen not in (None, identity):
            self.haproxy_restarts += 1
            log.warning("HAProxy was restarted", pid=identity.pid)
        self._seen = identity


def _has(servers: set[ServerId], slot: int) -> bool:
    return any(server.slot == slot_name(slot) for server in servers)


def _up(servers: tuple[Server, ...], state: RouterState, placement: Placement) -> dict[str, int]:
    """Count the endpoints of each revision that get requests."""
    up = {server.id for server in servers if server.is_up}
    return {
        revision.name: len(
            up & {server_id(placement.slots[revision.name], e) for e in revision.endpoints}
        )
        for revision in state.revisions
    }
