"""Leadership: never two writers, whatever the clocks, pauses and answers do."""

import copy
from datetime import UTC, datetime
from random import Random

import pytest

from tunesmith_operator.config import LeaderElection
from tunesmith_operator.kube.errors import (
    AlreadyExists,
    Conflict,
    LostLeadershipError,
    Unavailable,
)
from tunesmith_operator.kube.kinds import Object
from tunesmith_operator.kube.lease import AlwaysLeader, Leadership

CONFIG = LeaderElection()


class Server:
    """One Lease with optimistic locking; answers can be lost after the write."""

    def __init__(self) -> None:
        self.lease: Object | None = None
        self.version = 0
        self.is_away = False
        self.loses_answers = False

    async def get(self, _kind: str, _namespace: str, _name: str) -> Object | None:
        self._reach()
        return copy.deepcopy(self.lease)

    async def create(self, manifest: Object) -> Object:
        self._reach()
        if self.lease is not None:
            raise AlreadyExists("x")
        return self._store(manifest)

    async def replace(self, manifest: Object) -> Object:
        self._reach()
        assert self.lease is not None
        if manifest["metadata"]["resourceVersion"] != self.lease["metadata"]["resourceVersion"]:
            raise Conflict("x")
        return self._store(manifest)

    def _store(self, manifest: Object) -> Object:
        self.version += 1
        self.lease = copy.deepcopy(manifest)
        self.lease["metadata"]["resourceVersion"] = str(self.version)
        if self.loses_answers:
            raise Unavailable("the answer was lost")
        return copy.deepcopy(self.lease)

    def _reach(self) -> None:
        if self.is_away:
            raise Unavailable("away")


class Node:
    """An operator with a clock of its own."""

    def __init__(self, server: Server, name: str, offset: float = 0.0) -> None:
        self.world_time = 0.0
        self.leadership = Leadership(
            server,
            CONFIG,
            namespace="ns",
            identity=name,
            clock=lambda: self.world_time + offset,
            now=lambda: datetime(2026, 1, 1, tzinfo=UTC),
        )

    async def step(self, at: float) -> None:
        self.world_time = at
        await self.leadership._try_once()

    def leads(self, at: float) -> bool:
        self.world_time = at
        return self.leadership.is_leader


async def test_the_first_one_leads_and_the_second_waits() -> None:
    server = Server()
    a, b = Node(server, "a"), Node(server, "b")
    await a.step(0)
    await b.step(0)
    assert a.leads(1)
    assert not b.leads(1)
    with pytest.raises(LostLeadershipError):
        b.leadership.fence()


async def test_a_leader_that_died_is_followed_after_the_leases_time() -> None:
    server = Server()
    a, b = Node(server, "a"), Node(server, "b")
    await a.step(0)
    at = 0.0
    while not b.leads(at):
        await b.step(at)
        at += CONFIG.retry_period_seconds
    assert CONFIG.lease_duration_seconds < at <= 20


async def test_a_paused_leader_writes_nothing_when_it_goes_on() -> None:
    server = Server()
    a = Node(server, "a")
    await a.step(0)
    assert a.leads(CONFIG.renew_deadline_seconds - 0.1)
    assert not a.leads(CONFIG.renew_deadline_seconds)
    with pytest.raises(LostLeadershipError):
        a.leadership.fence()


async def test_each_time_of_leading_is_a_term_of_its_own() -> None:
    server = Server()
    a = Node(server, "a")
    await a.step(0)
    await a.step(CONFIG.renew_deadline_seconds - 1)
    assert a.leadership.term == 1
    server.is_away = True
    await a.step(CONFIG.renew_deadline_seconds + 1)
    server.is_away = False
    await a.step(3 * CONFIG.renew_deadline_seconds)
    assert a.leads(3 * CONFIG.renew_deadline_seconds)
    assert a.leadership.term == 2


async def test_a_leader_finds_that_another_one_took_over() -> None:
    server = Server()
    a, b = Node(server, "a"), Node(server, "b")
    await a.step(0)
    await b.step(0)
    await b.step(13)
    assert b.leads(13)
    await a.step(13)
    assert not a.leads(13)


async def test_time_counts_from_sending_so_a_slow_answer_is_no_gain() -> None:
    server = Server()
    a = Node(server, "a")
    store = server._store

    def slow(manifest: Object) -> Object:
        a.world_time += 5
        return store(manifest)

    server._store = slow  # type: ignore[method-assign]
    await a.step(0)
    assert a.leads(7.9)
    assert not a.leads(8.1)


async def test_a_lost_answer_is_no_leadership_until_the_lease_was_read() -> None:
    server = Server()
    a = Node(server, "a")
    server.loses_answers = True
    await a.step(0)
    assert not a.leads(0)
    server.loses_answers = False
    await a.step(2)
    assert a.leads(2)


async def test_a_released_lease_is_taken_at_once() -> None:
    server = Server()
    a, b = Node(server, "a"), Node(server, "b")
    await a.step(0)
    await b.step(0)
    await a.leadership.release()
    assert not a.leads(0)
    await b.step(1)
    assert b.leads(1)
    assert server.lease is not None
    assert server.lease["spec"]["leaseTransitions"] == 1


async def test_release_does_not_take_the_lease_from_somebody_else() -> None:
    server = Server()
    a, b = Node(server, "a"), Node(server, "b")
    await a.step(0)
    await b.step(0)
    await b.step(13)
    await a.leadership.release()
    assert server.lease is not None
    assert server.lease["spec"]["holderIdentity"] == "b"


async def test_releasing_while_the_server_is_away_raises_nothing() -> None:
    server = Server()
    a = Node(server, "a")
    await a.step(0)
    server.is_away = True
    await a.leadership.release()
    assert not a.leads(0)


@pytest.mark.parametrize("seed", range(10))
async def test_there_are_never_two_writers(seed: int) -> None:
    """Pauses, outages, lost answers and skewed clocks, in any order."""
    for story in range(10):
        await play_story(Random(f"{seed}.{story}"))


async def play_story(random: Random) -> None:
    server = Server()
    nodes = [Node(server, name, random.uniform(-1e4, 1e4)) for name in "abc"]
    next_step = dict.fromkeys(nodes, 0.0)
    led = 0
    for tick in range(400):
        at = tick * 0.5
        server.is_away = random.random() < 0.1
        server.loses_answers = random.random() < 0.1
        for node in nodes:
            if at >= next_step[node]:
                await node.step(at)
                # Now and then a node is paused for long.
                pause = random.uniform(5, 60) if random.random() < 0.03 else 2.0
                next_step[node] = at + pause
        leaders = [node for node in nodes if node.leads(at)]
        assert len(leaders) <= 1
        led += len(leaders)
    assert led > 100


def test_a_dead_leader_is_followed_within_twenty_seconds() -> None:
    """The Lease is seen up to one look late, runs out, and is taken at the next look."""
    looks = 2 * CONFIG.retry_period_seconds
    assert looks + CONFIG.lease_duration_seconds <= 20


async def test_without_an_election_everybody_may_write() -> None:
    always = AlwaysLeader()
    always.fence()
    await always.wait_until_leader()
    await always.release()
    assert always.is_leader
