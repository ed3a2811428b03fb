"""How the benchmark of training judges: both ways, by data type, and against TRL's best."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from benchmarks.bench_training import environment, runs_on_cpu, runs_on_gpu
from benchmarks.training_report import Run, limit, table, verdicts
from benchmarks.training_task import Options

TASK = Options(model="m", steps=8)
ON_GPU = replace(TASK, device="cuda", rows=64)
MIB = 2**20


def filled(run: Run, speed: float, *, memory: int = 100, losses: tuple[float, ...] = ()) -> Run:
    """Give the run with steps of this speed, in tokens a second."""
    gflops = {"FP32": 80.0, "BF16": 400.0}[run.options.precision]
    step = {"tokens": 100, "computed": 100, "seconds": 100 / speed, "cpu": 1.0, "gflops": gflops}
    run.steps = [step] * 4
    run.end = {"loss": 3.0, "losses": list(losses), "memory": memory * MIB, "parameters": 10**8}
    return run


def on_cpu(mine: tuple[float, ...], theirs: tuple[float, ...]) -> list[Run]:
    runs = [run for run in runs_on_cpu(TASK) if run.options.precision == "FP32"]
    speeds = [90.0, 40.0, 42.0, 60.0, 1.0]
    for run, speed in zip(runs, speeds, strict=True):
        filled(run, speed, losses=mine if run.is_ours else theirs)
    return runs


def missed(runs: list[Run]) -> list[str]:
    on_gpu = runs[0].options.device == "cuda"
    return [text for text, is_met in verdicts(runs, on_gpu=on_gpu) if not is_met]


@pytest.mark.parametrize(
    ("theirs", "is_equal"),
    [
        pytest.param((3.0, 2.5), True, id="the same"),
        pytest.param((3.005, 2.495), True, id="rounded"),
        pytest.param((3.0, 2.4), False, id="ours is above"),
        pytest.param((3.0, 2.6), False, id="ours is below, which is no less wrong"),
        pytest.param((3.1, 2.5), False, id="in the first step already"),
    ],
)
def test_equal_loss_is_judged_both_ways(theirs: tuple[float, ...], is_equal: bool) -> None:
    found = missed(on_cpu((3.0, 2.5), theirs))
    assert [text[:10] for text in found] == ([] if is_equal else ["equal loss"])


def test_a_ratio_below_its_target_is_missed() -> None:
    runs = on_cpu((3.0,), (3.0,))
    filled(runs[1], 50.0)
    assert [text[:22] for text in missed(runs)] == ["1.80 x TRL, defaults, "]


def test_a_share_is_of_products_in_the_same_data_type() -> None:
    runs = on_cpu((3.0,), (3.0,))
    runs.append(filled(Run("ours, BF16", replace(TASK, precision="BF16")), 180.0))
    assert limit(runs, "FP32") == (80.0, 200.0)
    assert limit(runs, "BF16") == (400.0, 1000.0)
    lines = list(table(runs, on_gpu=False))
    shares = {line[:34].strip(): line.split()[-1] for line in lines[1:6]}
    assert (shares["ours, FP32"], shares["ours, BF16"]) == ("45%", "18%")
    assert any(line.startswith("share, BF16: of 1000 tokens/s") for line in lines)
    # What is there for its losses alone has no speed.
    assert not any(line.startswith("TRL, our rows") for line in lines)


def on_gpu() -> list[Run]:
    found = {
        "ours, BF16": (1000.0, 500),
        "TRL, packing": (900.0, 600),
        "TRL, padded": (700.0, 400),
        "ours, BF16, checkpointing": (800.0, 300),
        "TRL, packing, checkpointing": (500.0, 300),
        "TRL, padded, checkpointing": (600.0, 350),
        "TRL, our rows": (1.0, 1),
    }
    runs = runs_on_gpu(ON_GPU, has_liger=True)
    return [filled(r, found[r.name][0], memory=found[r.name][1], losses=(3.0,)) for r in runs]


def test_on_a_gpu_it_is_compared_with_the_fastest_that_recomputes_as_much() -> None:
    runs = on_gpu()
    found = [text for text, _ in verdicts(runs, on_gpu=True)]
    assert not missed(runs)
    assert found[0].startswith("1.11 x TRL, packing, TRL's best without")
    assert found[1].startswith("0.83 x its memory without")
    assert found[2].startswith("1.33 x TRL, padded, checkpointing, TRL's best with")
    assert found[3].startswith("0.86 x its memory with")
    row = next(
        line for line in table(runs, on_gpu=True) if line.startswith("TRL, padded, checkpointing")
    )
    assert row.split()[-7:-3] == ["600.0", "1.33x", "350", "1.17x"]


@pytest.mark.parametrize(
    ("mine", "what"),
    [
        pytest.param((890.0, 500), "0.99 x TRL, packing", id="slower"),
        pytest.param((1000.0, 601), "1.00 x its memory", id="more memory"),
    ],
)
def test_less_speed_or_more_memory_than_trls_best_is_missed(
    mine: tuple[float, int], what: str
) -> None:
    runs = on_gpu()
    filled(runs[0], mine[0], memory=mine[1], losses=(3.0,))
    assert [text[: len(what)] for text in missed(runs)] == [what]


@pytest.mark.parametrize("has_liger", [True, False])
def test_trls_best_has_all_there_is(has_liger: bool) -> None:
    peers = [run for run in runs_on_gpu(ON_GPU, has_liger=has_liger) if not run.is_ours]
    settings: list[dict[str, Any]] = [run.options.trl or {} for run in peers]
    assert all(run.options.precision == "BF16" for run in peers)
    assert all(("use_liger_kernel" in given) is has_liger for given in settings)
    assert {(bool(g.get("packing")), g["gradient_checkpointing"]) for g in settings} == {
        (packs, recomputes) for packs in (True, False) for recomputes in (True, False)
    }


def test_a_worker_sees_one_gpu_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,4")
    assert environment("cuda", 2)["CUDA_VISIBLE_DEVICES"] == "3"
    assert environment("cpu", 2)["CUDA_VISIBLE_DEVICES"] == ""
