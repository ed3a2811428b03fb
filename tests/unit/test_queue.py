"""The work queue: who is next, one pass at a time, never giving up. Time jumps."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest
from prometheus_client import REGISTRY

from tests.unit.clock import run_in_jumping_time
from tunesmith_operator.kube.errors import LostLeadershipError, Unavailable
from tunesmith_operator.kube.known import Key
from tunesmith_operator.reconcile.queue import CAP_SECONDS, PATIENCE_SECONDS, Process, WorkQueue

A = Key("FineTuneJob", "default", "a")
B = Key("FineTuneJob", "default", "b")


class Gate:
    def __init__(self, *, is_leader: bool = True) -> None:
        self.is_leader = is_leader
        self.changed = asyncio.Event()

    async def wait_until_leader(self) -> None:
        while not self.is_leader:
            self.changed.clear()
            await self.changed.wait()

    def become(self, is_leader: bool) -> None:
        self.is_leader = is_leader
        self.changed.set()


class Passes:
    """Records passes; what a pass does is a function of its number."""

    def __init__(self, behave: Callable[[int], Awaitable[timedelta | None]] | None = None) -> None:
        self.behave = behave
        self.log: list[tuple[float, Key]] = []
        self.running: list[Key] = []
        self.most = 0

    async def __call__(self, key: Key) -> timedelta | None:
        assert key not in self.running, "two passes over one object at a time"
        self.log.append((asyncio.get_running_loop().time(), key))
        self.running.append(key)
        self.most = max(self.most, len(self.running))
        try:
            return await self.behave(len(self.log)) if self.behave else None
        finally:
            self.running.remove(key)

    @property
    def times(self) -> list[float]:
        return [round(at, 3) for at, _ in self.log]


async def with_queue(
    process: Process,
    story: Callable[[WorkQueue], Awaitable[None]],
    gate: Gate | None = None,
    **more,
) -> None:
    queue = WorkQueue(process, gate or Gate(), jitter=lambda: 1.0, **more)
    running = asyncio.create_task(queue.run())
    await asyncio.sleep(0)
    try:
        await story(queue)
    finally:
        await queue.drain(1)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def play(process: Process, story: Callable[[WorkQueue], Awaitable[None]], **more) -> None:
    run_in_jumping_time(_make(process, story, more))


async def _make(process, story, more) -> None:
    if "closed" in more:
        more["gate"] = Gate(is_leader=False)
        del more["closed"]
    await with_queue(process, story, **more)


def measured(name: str) -> float | None:
    return REGISTRY.get_sample_value(f"tunesmith_queue_{name}")


def test_the_queue_tells_how_many_wait_and_for_how_long() -> None:
    async def slow(_: int) -> None:
        await asyncio.sleep(10)

    async def story(queue: WorkQueue) -> None:
        for name in "abc":
            queue.add(Key("FineTuneJob", "default", name))
        await asyncio.sleep(4.1)
        assert (measured("depth"), measured("running")) == (2, 1)
        assert measured("oldest_seconds") == pytest.approx(4, abs=0.3)
        await asyncio.sleep(8)
        assert (measured("depth"), measured("running")) == (1, 1)
        # The second has run for two seconds, the third has waited from the beginning.
        assert measured("oldest_seconds") == pytest.approx(12, abs=0.3)
        await settle(queue, 20)
        await asyncio.sleep(0.5)
        assert (measured("depth"), measured("running")) == (0, 0)
        assert measured("oldest_seconds") == 0

    play(Passes(slow), story, workers=1)


async def settle(queue: WorkQueue, seconds: float = 0.0) -> None:
    await asyncio.sleep(seconds)
    while not queue.is_idle:  # noqa: ASYNC110
        await asyncio.sleep(0.01)


def test_a_key_added_many_times_while_it_waits_gets_one_pass() -> None:
    passes = Passes()

    async def story(queue: WorkQueue) -> None:
        queue._is_open = False
        for _ in range(5):
            queue.add(A)
        assert queue.depth == 1
        await settle(queue, 0.5)

    play(passes, story)
    assert len(passes.log) == 1


def test_a_key_added_while_its_pass_runs_gets_exactly_one_more_afterwards() -> None:
    async def slow(_: int) -> None:
        await asyncio.sleep(1)

    passes = Passes(slow)

    async def story(queue: WorkQueue) -> None:
        queue.add(A)
        await asyncio.sleep(0.5)
        queue.add(A)
        queue.add(A)
        await settle(queue)

    play(passes, story)
    assert passes.times == [0.0, 1.0]


def test_no_more_passes_run_at_a_time_than_there_are_workers() -> None:
    async def slow(_: int) -> None:
        await asyncio.sleep(1)

    passes = Passes(slow)

    async def story(queue: WorkQueue) -> None:
        for number in range(10):
            queue.add(Key("FineTuneJob", "default", str(number)))
        await settle(queue)

    play(passes, story, workers=3)
    assert passes.most == 3
    assert len(passes.log) == 10


def test_a_pass_says_when_it_wants_to_look_again() -> None:
    async def twice(number: int) -> timedelta | None:
        return timedelta(seconds=30) if number == 1 else None

    passes = Passes(twice)

    async def story(queue: WorkQueue) -> None:
        queue.add(A)
        await settle(queue, 100)

    play(passes, story)
    assert passes.times == [0.0, 30.0]


def test_a_change_makes_a_later_look_unnecessary() -> None:
    async def once(number: int) -> timedelta | None:
        return timedelta(seconds=30) if number == 1 else None

    passes = Passes(once)

    async def story(queue: WorkQueue) -> None:
        queue.add(A)
        await settle(queue, 10)
        queue.add(A)
        await settle(queue, 100)

    play(passes, story)
    assert passes.times == [0.0, 10.0]


def test_the_earlier_of_two_delays_counts() -> None:
    passes = Passes()

    async def story(queue: WorkQueue) -> None:
        queue.add_after(A, 50)
        queue.add_after(A, 20)
        queue.add_after(A, 40)
        await settle(queue, 100)

    play(passes, story)
    assert passes.times == [20.0]


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(Unavailable("503"), id="the API server is away"),
        pytest.param(ValueError("bug"), id="a bug"),
    ],
)
def test_errors_are_tried_again_with_growing_delays_up_to_a_minute_and_for_ever(error) -> None:
    async def fail(_: int) -> None:
        raise error

    passes = Passes(fail)

    async def story(queue: WorkQueue) -> None:
        queue.add(A)
        await asyncio.sleep(1000)

    play(passes, story)
    gaps = [b - a for a, b in zip(passes.times, passes.times[1:], strict=False)]
    assert [round(gap, 1) for gap in gaps[:5]] == [0.5, 1.0, 2.0, 4.0, 8.0]
    assert max(gaps) == pytest.approx(CAP_SECONDS)
    assert len(gaps) > 15


def test_success_makes_the_next_error_wait_short_again() -> None:
    async def fail_fail_ok_fail(number: int) -> timedelta | None:
        if number in (1, 2, 4):
            raise Unavailable("x")
        return timedelta(seconds=10) if number == 3 else None

    passes = Passes(fail_fail_ok_fail)

    async def story(queue: WorkQueue) -> None:
        queue.add(A)
        await asyncio.sleep(100)

    play(passes, story)
    assert passes.times == [0.0, 0.5, 1.5, 11.5, 12.0]


def test_an_error_with_a_change_in_between_is_no_hot_loop() -> None:
    async def fail(number: int) -> None:
        if number <= 3:
            await asyncio.sleep(0.1)
            raise Unavailable("x")

    passes = Passes(fail)

    async def story(queue: WorkQueue) -> None:
        queue.add(A)
        await asyncio.sleep(0.05)
        queue.add(A)
        await asyncio.sleep(0.2)
        assert len(passes.log) == 1
        await asyncio.sleep(20)

    play(passes, story)
    assert len(passes.log) == 4


def test_a_pass_that_hangs_ends_and_is_tried_again() -> None:
    async def hang_once(number: int) -> None:
        if number == 1:
            await asyncio.Event().wait()

    passes = Passes(hang_once)

    async def story(queue: WorkQueue) -> None:
        queue.add(A)
        await asyncio.sleep(60)
        assert queue.oldest_seconds() == pytest.approx(60, abs=1)
        await asyncio.sleep(100)

    play(passes, story)
    assert passes.times == [0.0, 120.5]


def test_nothing_runs_before_we_lead_and_everything_does_then() -> None:
    passes = Passes()

    async def story(queue: WorkQueue) -> None:
        queue.add(A)
        queue.add(B)
        await asyncio.sleep(50)
        assert passes.log == []
        queue._gate.become(is_leader=True)  # type: ignore[attr-defined]
        await settle(queue, 1)

    play(passes, story, closed=True)
    assert [key for _, key in passes.log] == [A, B]


def test_a_pass_that_meets_the_fence_waits_for_leadership_without_an_error() -> None:
    gate_holder: list[Gate] = []

    async def fenced_once(number: int) -> None:
        if number == 1:
            gate_holder[0].become(is_leader=False)
            raise LostLeadershipError

    passes = Passes(fenced_once)

    async def story(queue: WorkQueue) -> None:
        gate_holder.append(queue._gate)  # type: ignore[arg-type]
        queue.add(A)
        await asyncio.sleep(50)
        assert len(passes.log) == 1
        assert queue.depth == 1
        gate_holder[0].become(is_leader=True)
        await settle(queue, 1)

    play(passes, story)
    assert len(passes.log) == 2


def test_drain_lets_running_passes_finish_and_starts_no_more() -> None:
    ended = []

    async def slow(number: int) -> None:
        await asyncio.sleep(0.5)
        ended.append(number)

    passes = Passes(slow)

    async def story(queue: WorkQueue) -> None:
        queue.add(A)
        queue.add(B)
        await queue.drain(5)

    play(passes, story, workers=1)
    assert ended == [1]


def test_drain_cancels_what_takes_too_long() -> None:
    async def hang(_: int) -> None:
        await asyncio.Event().wait()

    passes = Passes(hang)

    async def story(queue: WorkQueue) -> None:
        queue.add(A)
        await asyncio.sleep(0)
        await queue.drain(2)
        assert passes.running == []

    play(passes, story)


def test_in_a_burst_all_begin_before_any_reports() -> None:
    log: list[str] = []
    queues: list[WorkQueue] = []

    async def start_then_report(_: int) -> None:
        await asyncio.sleep(0.01)
        log.append("start")
        async with queues[0].after_others():
            log.append("report")

    passes = Passes(start_then_report)

    async def story(queue: WorkQueue) -> None:
        queues.append(queue)
        for number in range(50):
            queue.add(Key("FineTuneJob", "default", str(number)))
        await settle(queue)

    play(passes, story, workers=4)
    assert log == ["start"] * 50 + ["report"] * 50


def test_a_steady_load_that_the_workers_keep_up_with_delays_no_report() -> None:
    waits: list[float] = []
    queues: list[WorkQueue] = []

    async def work(_: int) -> None:
        await asyncio.sleep(0.05)
        asked = asyncio.get_running_loop().time()
        async with queues[0].after_others():
            waits.append(asyncio.get_running_loop().time() - asked)

    async def story(queue: WorkQueue) -> None:
        queues.append(queue)
        for number in range(500):
            queue.add(Key("FineTuneJob", "default", str(number)))
            await asyncio.sleep(0.01)
        await settle(queue)

    play(Passes(work), story, workers=8)
    assert max(waits) == 0.0


def test_a_report_waits_only_so_long_for_a_burst_without_end() -> None:
    reported: list[float] = []
    queues: list[WorkQueue] = []

    async def work(number: int) -> None:
        await asyncio.sleep(0.05)
        if number == 1:
            async with queues[0].after_others():
                reported.append(asyncio.get_running_loop().time())

    passes = Passes(work)

    async def story(queue: WorkQueue) -> None:
        queues.append(queue)
        for number in range(1000):
            queue.add(Key("FineTuneJob", "default", str(number)))
            await asyncio.sleep(0.02)

    play(passes, story, workers=2)
    assert reported[0] == pytest.approx(PATIENCE_SECONDS, abs=1)


def test_a_lone_report_does_not_wait() -> None:
    reported: list[float] = []
    queues: list[WorkQueue] = []

    async def work(_: int) -> None:
        async with queues[0].after_others():
            reported.append(asyncio.get_running_loop().time())

    async def story(queue: WorkQueue) -> None:
        queues.append(queue)
        queue.add(A)
        await settle(queue)

    play(Passes(work), story)
    assert reported == [0.0]
