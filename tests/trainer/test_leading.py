"""Rank 0 works alone, and the others compute along: nobody is ever left behind."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import pytest
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from tests.ports import free_port
from tunesmith_api.sharding import Sharding
from tunesmith_trainer.distributed import Ranks
from tunesmith_trainer.leading import lead
from tunesmith_trainer.outcome import Interrupted
from tunesmith_trainer.stopping import StopSignal

Ask = Callable[[Any], Any]


def adds_up(ask: Ask) -> list[float]:
    return [ask(1.0), ask(2.0), ask(3.0)]


def fails_in_between(ask: Ask) -> list[float]:
    ask(1.0)
    raise ValueError("a task that cannot be read")


def asks_for_what_cannot_be(ask: Ask) -> list[float]:
    try:
        ask("no number")
    except TypeError:
        return [ask(4.0)]
    raise AssertionError


def be_a_rank(
    rank: int, port: int, sharding: str, work: Any, stopped: int, out: Connection
) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)}
    os.environ |= {"LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    AcceleratorState._reset_state(reset_partial_state=True)
    ranks, stop = Ranks(Accelerator(cpu=True), Sharding(sharding)), StopSignal()
    passes = []

    def compute(number: float) -> float:
        passes.append(number)
        if rank == stopped:
            stop.request()
        # As a forward pass of a model in parts: it ends where all ranks have come.
        return ranks.total(number + 0.0)[0] if ranks.is_sharded else number

    try:
        said: object = lead(ranks, stop, work, compute)
    except (Interrupted, ValueError) as error:
        said = type(error).__name__
    # Whatever it was, ranks are where they can talk to each other.
    out.send((said, passes, ranks.gather(rank)))


def go(sharding: str, work: Any, stopped: int = -1) -> list[tuple[Any, list[Any]]]:
    port, fork = free_port(), multiprocessing.get_context("fork")
    pipes = [fork.Pipe(duplex=False) for _ in range(2)]
    ranks = [
        fork.Process(target=be_a_rank, args=(n, port, sharding, work, stopped, pipes[n][1]))
        for n in range(2)
    ]
    for process in ranks:
        process.start()
    try:
        told = []
        for receive, _ in pipes:
            assert receive.poll(200), "a rank waits for ever"
            told.append(receive.recv())
    finally:
        for process in ranks:
            process.kill()
            process.join()
    assert [where for _, _, where in told] == [[0, 1], [0, 1]]
    return [(said, passes) for said, passes, _ in told]


@pytest.mark.parametrize(
    ("sharding", "work", "stopped", "expected"),
    [
        pytest.param(
            "FSDP", adds_up, -1, [([2, 4, 6], [1, 2, 3]), ([2, 4, 6], [1, 2, 3])], id="in parts"
        ),
        pytest.param(
            "DDP", adds_up, -1, [([1, 2, 3], [1, 2, 3]), ([1, 2, 3], [])], id="whole copies"
        ),
        pytest.param(
            "FSDP", fails_in_between, -1, [("ValueError", [1]), ("Interrupted", [1])], id="fails"
        ),
        pytest.param(
            "DDP",
            fails_in_between,
            -1,
            [("ValueError", [1]), ("Interrupted", [])],
            id="alone",
        ),
        pytest.param(
            "FSDP",
            asks_for_what_cannot_be,
            -1,
            [([8], ["no number", 4]), ([8], ["no number", 4])],
            id="an order that no rank can carry out",
        ),
        pytest.param(
            "FSDP", adds_up, 1, [("Interrupted", [1]), ("Interrupted", [1])], id="SIGTERM to rank 1"
        ),
    ],
)
def test_nobody_is_left_behind(sharding: str, work: Any, stopped: int, expected: Any) -> None:
    assert go(sharding, work, stopped) == expected
