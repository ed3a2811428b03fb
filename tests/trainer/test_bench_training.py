"""The workers of the training benchmark, on the CPU and the tiny model, as on a GPU."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.bench_training import Worker, runs_on_gpu, same_rows, take_turns
from benchmarks.training_report import Run, table, verdicts
from benchmarks.training_task import Options
from tests.trainer.gpus import on_gpus
from tunesmith_trainer.tiny import write_tiny

pytestmark = pytest.mark.timeout(600)
needs_trl = pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="needs TRL")


@pytest.fixture
def task(tmp_path: Path) -> Options:
    write_tiny(tmp_path / "tiny")
    return Options(model=str(tmp_path / "tiny"), steps=4)


def go(runs: list[Run]) -> list[Run]:
    workers: list[Worker] = []
    try:
        workers += [Worker(Path(sys.executable), run, 1) for run in runs]
        take_turns(workers)
    finally:
        for worker in workers:
            worker.stop()
    return runs


@pytest.mark.parametrize(
    ("device", "precision", "checkpointing"),
    [
        pytest.param("cpu", "BF16", True, id="CPU"),
        on_gpus("cuda", "BF16", True),
        on_gpus("cuda", "FP32", False, id="GPU in 32 bits"),
    ],
)
def test_this_trainer_says_what_its_steps_took(
    task: Options, device: str, precision: str, checkpointing: bool
) -> None:
    options = replace(task, device=device, precision=precision, checkpointing=checkpointing)
    (run,) = go([Run("ours", options)])
    assert len(run.steps) == len(run.end["losses"]) == 4
    assert all(step["seconds"] > 0 and step["gflops"] > 0 for step in run.steps)
    assert run.efficiency() > 1
    assert run.memory() > 0
    assert 0 < run.end["loss"] < 6
    # The products of two layers: four of attention and three of the gate each, and the head.
    assert run.end["parameters"] == 2 * (3 * 128 * 256 + 2 * 128 * 128 + 2 * 64 * 128) + 260 * 128


@needs_trl
@pytest.mark.parametrize("device", ["cpu", on_gpus("cuda")])
def test_both_trainers_have_the_same_losses_on_the_same_rows(task: Options, device: str) -> None:
    options = replace(task, device=device)
    runs = go([Run("ours, FP32", options), same_rows(options, {})])
    mine, theirs = (run.end["losses"] for run in runs)
    assert theirs == pytest.approx(mine, abs=2e-3)


@needs_trl
@pytest.mark.parametrize("device", ["cpu", on_gpus("cuda")])
def test_what_is_run_on_a_gpu_gives_a_table_and_verdicts(task: Options, device: str) -> None:
    runs = go(runs_on_gpu(replace(task, device=device, rows=8), has_liger=False))
    assert len(list(table(runs, on_gpu=True))) == 10
    assert len(list(verdicts(runs, on_gpu=True))) == 6
