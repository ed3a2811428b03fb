"""Work in processes of its own: the results of one process, in order, and none left behind."""

from __future__ import annotations

import multiprocessing
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.trainer.spread_jobs import Started, do, make, make_after_the_test
from tunesmith_trainer import cpus
from tunesmith_trainer.data.spreading import Spread, spare_processes
from tunesmith_trainer.outcome import Infrastructure, OutOfMemory


def test_results_come_in_the_order_of_jobs_from_all_processes() -> None:
    rng = random.Random(3)
    # The first ones are long: all processes have one before the workers ask for more.
    jobs = [0.3] * 5 + [rng.random() / 50 for _ in range(60)]
    with Started(do, make, 2) as spread:
        results = list(spread.map(jobs))
    assert [job for job, _ in results] == jobs
    assert len({process for _, process in results}) == 3
    assert not multiprocessing.active_children()


def test_jobs_are_done_here_until_a_worker_is_up() -> None:
    with Spread(do, make_after_the_test, 1) as spread:
        assert list(spread.map([0.0] * 5)) == [(0.0, os.getpid())] * 5


def test_a_slow_job_holds_only_so_many_others() -> None:
    asked = 0

    def jobs() -> Iterator[float]:
        nonlocal asked
        for job in [1.0] + [0.0] * 50:
            asked += 1
            yield job

    with Started(do, make, 1) as spread:
        results = spread.map(jobs())
        next(results)
        assert asked <= 6
        assert len(list(results)) == 50


def test_what_a_job_raises_comes_after_the_results_before_it() -> None:
    with Started(do, make, 1) as spread:
        results = spread.map([0.2, 0.0, -1, 0.0])
        assert [job for job, _ in (next(results), next(results))] == [0.2, 0.0]
        with pytest.raises(LookupError, match="no such thing"):
            next(results)


def test_what_asking_for_jobs_raises_comes_after_the_results_before_it() -> None:
    def jobs() -> Iterator[float]:
        yield 0.2
        raise LookupError("no more")

    with Started(do, make, 1) as spread:
        results = spread.map(jobs())
        assert next(results)[0] == 0.2
        with pytest.raises(LookupError, match="no more"):
            next(results)


@pytest.mark.parametrize(
    ("job", "kind", "words"),
    [(-2, OutOfMemory, "memory ran out"), (-3, Infrastructure, "exit code 3")],
)
def test_a_lost_worker_ends_it_with_an_error(job: float, kind: type[Exception], words: str) -> None:
    with Started(do, make, 2) as spread, pytest.raises(kind, match=words):
        list(spread.map([job, *[0.01] * 50]))
    assert not multiprocessing.active_children()


PARENT = """
import sys
from tests.trainer.spread_jobs import Started, do, make

if __name__ == "__main__":
    with Started(do, make, 2) as spread:
        print(*{process for _, process in spread.map([0.1] * 12)}, flush=True)
        sys.stdin.read()
"""


def test_workers_end_with_whoever_asks_them(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    parent = subprocess.Popen(
        [sys.executable, str(script)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with parent:
        assert parent.stdout
        processes = set(map(int, parent.stdout.readline().split())) - {parent.pid}
        parent.kill()
    assert len(processes) == 2
    end = time.monotonic() + 200
    while any(map(is_running, processes)):
        assert time.monotonic() < end
        time.sleep(0.05)


def is_running(process: int) -> bool:
    with suppress(OSError):
        return "Z" not in Path(f"/proc/{process}/stat").read_text().split()[2]
    return False


@pytest.mark.parametrize(
    ("quota", "most", "workers"),
    [
        ("max 100000", 8, 3),
        ("max 100000", 2, 1),
        ("250000 100000", 8, 1),
        ("50000 100000", 8, 0),
        ("max 100000", 1, 0),
    ],
)
def test_workers_have_cpus_of_their_own(
    quota: str, most: int, workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpu.max").write_text(quota + "\n")
    monkeypatch.setattr(cpus, "_CGROUP_V2", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(most)))
    assert spare_processes() == workers
