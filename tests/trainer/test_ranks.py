"""Several ranks: the same losses as one, and SIGTERM to any of them saves one checkpoint."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from accelerate.state import AcceleratorState

from tests.ports import free_port
from tests.trainer.conftest import ROOT_KEYS
from tests.trainer.gpus import on_gpus
from tests.trainer.trials import Trial, Watcher, echo_pairs, echo_rows
from tunesmith_api.result import Outcome, Phase, TrainerProgress, TrainerResult
from tunesmith_api.run import TrainingRun
from tunesmith_trainer.__main__ import main
from tunesmith_trainer.outcome import Interrupted
from tunesmith_trainer.recipe import fine_tune
from tunesmith_trainer.stopping import StopSignal

ROOT = Path(__file__).parents[2]
LORA = {"method": {"lora": {"rank": 4, "alpha": 8, "dropout": "0"}}}
INTERRUPTED = 75

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def make_trial(bucket: Any, make_run: Any, tmp_path: Path) -> Callable[..., Trial]:
    def make(**settings: Any) -> Trial:
        return Trial(bucket, make_run, tmp_path, **settings)

    return make


def be_a_rank(run: TrainingRun, work: Path, rank: int, port: int, stop_at: int) -> None:
    """Do one rank's part in a process of its own; SIGTERM comes to rank 1 only."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)}
    os.environ |= {"LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    AcceleratorState._reset_state(reset_partial_state=True)
    stop = StopSignal()
    progress = Watcher(run, stop_at if rank == 1 else -1, stop.request)
    try:
        fine_tune(run, work, progress, stop)
    except Interrupted:
        os._exit(INTERRUPTED)
    os._exit(0)


def go_as_two(trial: Trial, attempt: int, stop_at: int = -1) -> list[int]:
    """Make an attempt of two ranks that share a node; give their exit codes."""
    run, port, work = trial.run(attempt), free_port(), trial.work(attempt)
    work.mkdir()
    # Forked, because importing torch takes longer than all of this test; CUDA survives no fork.
    how = multiprocessing.get_context("spawn" if run.world.gpus_per_node else "fork")
    ranks = [
        how.Process(target=be_a_rank, args=(run, work, rank, port, stop_at)) for rank in (0, 1)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(250)
        process.kill()
    trial.attempts = attempt
    return [process.exitcode or 0 for process in ranks]


TWO_CPUS = pytest.param({"nodes": 2}, id="CPU")
"""Two ranks without GPUs share a node here all the same."""
TWO_GPUS = on_gpus({"gpusPerNode": 2}, count=2)


@pytest.mark.parametrize("world", [TWO_CPUS, TWO_GPUS])
@pytest.mark.parametrize(
    ("objective", "make_rows"), [("SFT", echo_rows), ("DPO", echo_pairs)], ids=["SFT", "DPO"]
)
def test_two_ranks_do_what_one_does_and_stop_together(
    make_trial: Callable[..., Trial],
    objective: str,
    make_rows: Callable[..., Any],
    world: dict[str, int],
) -> None:
    sections = LORA | {"objective": objective}
    # 22 rows leave a last batch in which rank 1 has fewer rows than rank 0.
    given: dict[str, Any] = {"rows": (22, 0, 5), "make_rows": make_rows}
    exact = {"precision": "FP32"}
    one = {"gpusPerNode": 1} if "gpusPerNode" in world else {}
    alone = make_trial(
        name="alone", sections=sections | {"world": one}, hyperparameters=exact, **given
    )
    expected = alone.go()
    pair = make_trial(
        name="pair",
        sections=sections | {"world": world},
        hyperparameters=exact | {"perDeviceBatchSize": 2},
        **given,
    )
    assert go_as_two(pair, 1, stop_at=7) == [INTERRUPTED, INTERRUPTED]
    assert {k.split("/")[3] for k in pair.bucket.keys("runs/pair/checkpoints/")} == {
        "step-00000004",
        "step-00000007",
    }
    assert go_as_two(pair, 2) == [0, 0]
    assert pair.losses() == pytest.approx(alone.losses(), rel=1e-3)
    report = pair.report()
    assert report.resumed_from_step == 7
    assert report.training.ranks == 2
    for mine, theirs in zip(report.measurements, expected.measurements, strict=True):
        assert float(mine.value) == pytest.approx(float(theirs.value), rel=2e-2)
        assert float(mine.base_value) == pytest.approx(
            float(theirs.base_value), rel=1e-4 if one else 1e-5
        )


@contextmanager
def launched(trial: Trial, folder: Path, port: int = 0) -> Iterator[subprocess.Popen[bytes]]:
    """Run two ranks as the operator starts them on one node, until the block ends."""
    (folder / "run.json").write_text(trial.run().model_dump_json(by_alias=True))
    command = [
        *[sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"],
        *["--num_machines", "1", "--num_processes", "2", "--machine_rank", "0"],
        *["--main_process_port", str(free_port()), "--mixed_precision", "no"],
        *["--dynamo_backend", "no", "--num_cpu_threads_per_process", "1"],
        *["--module", "tunesmith_trainer", "--run", str(folder / "run.json")],
        *["--work", str(folder / "work"), "--port", str(port), "--result", str(folder / "result")],
    ]
    environment = os.environ | {
        "PYTHONPATH": f"{ROOT / 'operator'}:{ROOT / 'trainer_image'}",
        "AWS_ACCESS_KEY_ID": ROOT_KEYS[0],
        "AWS_SECRET_ACCESS_KEY": ROOT_KEYS[1],
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "60",
    }
    with (folder / "log").open("wb") as log:
        launcher = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd="/")
    try:
        wait_for(lambda: '"step": 3,' in (folder / "log").read_text(), launcher)
        yield launcher
    finally:
        launcher.terminate()
        launcher.wait(100)


@pytest.mark.parametrize("world", [TWO_CPUS, TWO_GPUS])
def test_the_launcher_passes_sigterm_on_and_waits(
    make_trial: Callable[..., Trial], tmp_path: Path, world: dict[str, int]
) -> None:
    """As the pod's SIGTERM."""
    trial = make_trial(sections=LORA | {"world": world}, hyperparameters={"maxSteps": 100_000})
    with launched(trial, tmp_path) as launcher:
        launcher.send_signal(signal.SIGTERM)
        assert launcher.wait(100) != 0
    result = TrainerResult.model_validate_json((tmp_path / "result").read_bytes())
    assert result.outcome is Outcome.CHECKPOINTED, (tmp_path / "log").read_text()[-3000:]
    assert result.checkpoint is not None
    assert result.checkpoint.step == result.step >= 3


IDLE_SECONDS = 5.0
"""No step of the tiny model takes nearly as long."""


def test_a_rank_that_hangs_is_seen_at_rank_0(
    make_trial: Callable[..., Trial], tmp_path: Path
) -> None:
    """Rank 0 is the one that the operator asks; runPolicy.stallTimeoutSeconds counts from there."""
    trial = make_trial(
        sections=LORA | {"world": {"nodes": 2}}, hyperparameters={"maxSteps": 100_000}
    )
    port = free_port()
    with launched(trial, tmp_path, port) as launcher:
        hung = rank_1_of(launcher)
        os.kill(hung, signal.SIGSTOP)
        try:
            wait_for(lambda: said(port).seconds_since_progress > IDLE_SECONDS, launcher)
            stuck = said(port)
            assert stuck.phase is Phase.TRAINING
            time.sleep(1)
            # What the other rank had done its part of may still be finished.
            assert said(port).step <= stuck.step + 1
        finally:
            os.kill(hung, signal.SIGCONT)
        wait_for(lambda: said(port).step > stuck.step + 1, launcher)


def rank_1_of(launcher: subprocess.Popen[bytes]) -> int:
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    (found,) = (int(pid) for pid in children if b"RANK=1" in environment_of(pid))
    return found


def environment_of(pid: str) -> list[bytes]:
    return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")


def said(port: int) -> TrainerProgress:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://127.0.0.1:{port}/progress", timeout=60) as answer:
        return TrainerProgress.model_validate_json(answer.read())


def wait_for(happened: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 200
    while not happened():
        assert process.poll() is None, "it ended"
        assert time.monotonic() < end
        time.sleep(0.05)


def test_one_process_alone_is_rank_0(make_trial: Callable[..., Trial], tmp_path: Path) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    trial = make_trial()
    (tmp_path / "run.json").write_text(trial.run().model_dump_json(by_alias=True))
    options = ["--run", tmp_path / "run.json", "--work", tmp_path / "work", "--port", "0"]
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert main([str(o) for o in [*options, "--result", tmp_path / "result"]]) == 0
    finally:
        signal.signal(signal.SIGTERM, before)
    result = json.loads((tmp_path / "result").read_bytes())
    assert result["outcome"] == "Succeeded"
    assert result["reportDigest"].startswith("sha256:")
