"""One operator writes at a time: a Lease, and a fence in front of every write.

The leader counts its time from the moment it *sent* the last renewal that succeeded, and stops
writing ``renew_deadline`` later; everybody else counts from the moment they *saw* a renewal, and
waits ``lease_duration``, which is longer. So the old leader is silent before a new one speaks,
however their clocks differ, also when a process was paused in between: the fence asks a clock that
goes on while the machine sleeps.

Used by ``main``. Its own writes are the only ones that pass no fence.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Protocol

import structlog

from tunesmith_operator.config import LeaderElection
from tunesmith_operator.kube.errors import AlreadyExists, Conflict, KubeError, LostLeadershipError
from tunesmith_operator.kube.kinds import Object

log = structlog.get_logger(__name__)


def seconds_since_boot() -> float:
    """Read a clock that only rises and that a suspended machine does not stop."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class LeaseCalls(Protocol):
    """The calls that the election needs."""

    async def get(self, kind: str, namespace: str, name: str) -> Object | None:
        """Read an object, or None."""

    async def create(self, manifest: Object) -> Object:
        """Create it; raises AlreadyExists."""

    async def replace(self, manifest: Object) -> Object:
        """Write it; raises Conflict if it changed since it was read."""


class Leadership:
    """Tries to be the leader for as long as ``run`` runs."""

    def __init__(
        self,
        calls: LeaseCalls,
        config: LeaderElection,
        *,
        namespace: str,
        identity: str,
        clock: Callable[[], float] = seconds_since_boot,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """``identity`` must be another one for every start of every process."""
        self._calls = calls
        self._config = config
        self._namespace = config.namespace or namespace
        self._identity = identity
        self._clock = clock
        self._now = now
        self._valid_until = float("-inf")
        self._seen_version = ""
        self._seen_at = float("-inf")
        self._leads = asyncio.Event()
        self.term = 0
        """How many times we have become the leader."""

    @property
    def is_leader(self) -> bool:
        """Whether we may write right now."""
        return self._clock() < self._valid_until

    def fence(self) -> None:
        """Raise LostLeadershipError unless we may write right now."""
        if not self.is_leader:
            raise LostLeadershipError("another operator may be the leader")

    async def wait_until_leader(self) -> None:
        """Return as soon as we lead."""
        while not self.is_leader:
            self._leads.clear()
            await self._leads.wait()

    async def run(self) -> None:
        """Get and keep the Lease, for ever; errors are tried again."""
        while True:
            was_leader = self.is_leader
            await self._try_once()
            if was_leader != self.is_leader:
                log.info("leader" if self.is_leader else "not leader", identity=self._identity)
            await asyncio.sleep(self._config.retry_period_seconds)

    async def release(self) -> None:
        """Give the Lease back, so that the next leader need not wait. Never raises."""
        if not self.is_leader:
            return
        # First stop writing, then say so.
        self._valid_until = float("-inf")
        try:
            async with asyncio.timeout(2):
                lease = await self._read()
                if lease is not None and lease["spec"].get("holderIdentity") == self._identity:
                    lease["spec"] |= {"holderIdentity": "", "renewTime": self._timestamp()}
                    await self._calls.replace(lease)
        except (KubeError, TimeoutError) as error:
            log.warning("the Lease was not released; it runs out by itself", error=str(error))

    async def _try_once(self) -> None:
        try:
            # Waiting longer than this for one answer would cost the lead.
            async with asyncio.timeout(self._config.renew_deadline_seconds / 2):
                await self._acquire_or_renew()
        except (Conflict, AlreadyExists):
            log.debug("somebody else wrote the Lease first")
        except (KubeError, TimeoutError) as error:
            log.warning("the Lease could not be renewed", error=str(error) or "timeout")

    async def _acquire_or_renew(self) -> None:
        lease = await self._read()
        if lease is None:
            await self._write(self._calls.create, self._manifest({}, 0))
            return
        spec = lease["spec"]
        version = lease["metadata"]["resourceVersion"]
        if version != self._seen_version:
            self._seen_version, self._seen_at = version, self._clock()
        holder = spec.get("holderIdentity") or ""
        if holder == self._identity:
            await self._write(self._calls.replace, self._manifest(lease, 0))
        elif not holder or self._clock() - self._seen_at > self._lease_duration(spec):
            await self._write(self._calls.replace, self._manifest(lease, 1))
        else:
            # Somebody took it while we were paused.
            self._valid_until = float("-inf")

    def _lease_duration(self, spec: Object) -> float:
        return max(
            float(spec.get("leaseDurationSeconds") or 0), self._config.lease_duration_seconds
        )

    async def _write(self, call: Callable[[Object], Awaitable[Object]], manifest: Object) -> None:
        sent = self._clock()
        answer = await call(manifest)
        self._seen_version = answer["metadata"]["resourceVersion"]
        self._seen_at = sent
        if not self.is_leader:
            self.term += 1
        self._valid_until = sent + self._config.renew_deadline_seconds
        self._leads.set()

    async def _read(self) -> Object | None:
        return await self._calls.get("Lease", self._namespace, self._config.lease_name)

    def _manifest(self, old: Object, transitions: int) -> Object:
        spec = old.get("spec") or {}
        now = self._timestamp()
        is_ours = spec.get("holderIdentity") == self._identity
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": old.get("metadata")
            or {"namespace": self._namespace, "name": self._config.lease_name},
            "spec": {
                "holderIdentity": self._identity,
                # An integer in the API; rounded up, so that nobody comes too early.
                "leaseDurationSeconds": -int(-self._config.lease_duration_seconds // 1),
                "acquireTime": spec["acquireTime"] if is_ours else now,
                "renewTime": now,
                "leaseTransitions": int(spec.get("leaseTransitions") or 0) + transitions,
            },
        }

    def _timestamp(self) -> str:
        return self._now().strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class AlwaysLeader:
    """Stands in for :class:`Leadership` where the election is turned off: no fence."""

    is_leader = True
    term = 0

    def fence(self) -> None:
        """Let every write through."""

    async def wait_until_leader(self) -> None:
        """Return at once."""

    async def run(self) -> None:
        """Do nothing, for ever."""
        await asyncio.Event().wait()

    async def release(self) -> None:
        """Have nothing to give back."""
