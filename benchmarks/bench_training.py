"""Training speed: this trainer against TRL's SFTTrainer, step by step in turns.

``make bench-training`` (``DEVICE=cuda`` or ``cpu``; by itself a GPU where there is one). Each
trainer is a process of its own; one takes a step while the others wait, so that all see the same
machine, and each step's time is kept. All train SmolLM2-135M on the example conversations: the
same tokens and the same loss mask, the same LoRA, learning rates and number of threads, about as
many rows a step. TRL is no dependency of ours: it is installed into a cache of its own, on top of
this environment's torch and transformers.

On a CPU TRL runs as it is by default, with packing, and with packing and without gradient
checkpointing, which is on by default; all in FP32, and ours a second time in BF16 where the CPU
has it. On a GPU all run in BF16, TRL packed (which is without padding) and padded, each with and
without gradient checkpointing, with FlashAttention and Liger where they are installed; ours is
compared with the fastest. A last worker of TRL's gets the rows of our steps in our order: from the
same weights, its losses have to be ours.

Prints real tokens a second (those of the rows, whatever was computed), the peak of a GPU's memory,
and how much of what this machine's matrix products of the same data type would allow that is.
Exits with 1 when a target is missed.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks.peers import base_model, peer_python
from benchmarks.training_report import Answer, Run, table, verdicts
from benchmarks.training_task import Options

REPOSITORY = Path(__file__).resolve().parent.parent
TRL, DATASETS = "1.16.0", "5.2.0"
SAME_ROWS = 8
"""Steps whose losses are compared."""
ROWS = {"cpu": 4, "cuda": 64}
STEPS = {"cpu": 57, "cuda": 60}


def runs_on_cpu(task: Options) -> list[Run]:
    """Give what is run on a CPU, this trainer first."""
    runs = [
        Run("ours, FP32", task),
        Run("TRL, defaults", replace(task, trl={})),
        Run("TRL, packing", replace(task, trl={"packing": True})),
        Run(
            "TRL, packing, no checkpointing",
            replace(task, trl={"packing": True, "gradient_checkpointing": False}),
        ),
        same_rows(task, {}),
    ]
    if has_bf16():
        return [*runs, Run("ours, BF16", replace(task, precision="BF16"))]
    print("BF16 is skipped: this CPU has none")
    return runs


def runs_on_gpu(task: Options, *, has_liger: bool) -> list[Run]:
    """Give what is run on a GPU, this trainer first."""
    task = replace(task, precision="BF16")
    liger = {"use_liger_kernel": True} if has_liger else {}
    runs = []
    for recomputes in (False, True):
        end = ", checkpointing" if recomputes else ""
        settings = liger | {"gradient_checkpointing": recomputes}
        runs += [
            Run(f"ours, BF16{end}", replace(task, checkpointing=recomputes)),
            Run(f"TRL, packing{end}", replace(task, trl=settings | {"packing": True})),
            Run(f"TRL, padded{end}", replace(task, trl=settings)),
        ]
    return [*runs, same_rows(task, liger)]


def same_rows(task: Options, settings: Answer) -> Run:
    """Give TRL on the rows of our steps, for its losses."""
    plain = settings | {"gradient_checkpointing": False}
    return Run("TRL, our rows", replace(task, trl=plain, same_rows=min(SAME_ROWS, task.steps)))


class Worker:
    """A trainer in a process of its own that takes a step when it is told to."""

    def __init__(self, python: Path, run: Run, threads: int) -> None:
        self.run = run
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - open as long as the process
        self._process = subprocess.Popen(
            [python, "-m", "benchmarks.training_worker", json.dumps(asdict(run.options))],
            env=environment(run.options.device, threads),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            cwd=REPOSITORY,
        )
        self.is_done = False
        self.kernels = ", ".join(self._hear()["kernels"])

    def _hear(self) -> Answer:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            # TRL prints dictionaries of Python's in between.
            if line.startswith('{"'):
                return dict(json.loads(line))
        self._errors.seek(0)
        raise RuntimeError(f"{self.run.name}: {self._errors.read()[-3000:]}")

    def turn(self) -> None:
        """Let it take a step, and keep what it says."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        answer = self._hear()
        if answer.pop("done", False):
            self.is_done, self.run.end = True, answer
            self._process.wait()
        else:
            self.run.steps.append(answer)

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        self._errors.close()


def environment(device: str, threads: int) -> dict[str, str]:
    """Give a worker's environment: of several GPUs it sees the first one."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    return os.environ | {
        "PYTHONPATH": f"{REPOSITORY / 'operator'}:{REPOSITORY / 'trainer_image'}:{REPOSITORY}",
        "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": visible if device == "cuda" else "",
    }


def take_turns(workers: list[Worker]) -> None:
    """Let each take a step in turn, until all are done."""
    while not all(worker.is_done for worker in workers):
        for worker in workers:
            if not worker.is_done:
                worker.turn()


def report(runs: list[Run]) -> bool:
    """Print what was found; tell whether all targets are met."""
    on_gpu = runs[0].options.device == "cuda"
    for line in table(runs, on_gpu=on_gpu):
        print(line)
    results = list(verdicts(runs, on_gpu=on_gpu))
    for text, is_met in results:
        print(("met     " if is_met else "MISSED  ") + text)
    return all(is_met for _, is_met in results)


def has_bf16() -> bool:
    """Whether this CPU multiplies BF16 numbers."""
    flags = Path("/proc/cpuinfo").read_text()
    return "avx512_bf16" in flags or "amx_bf16" in flags


def device_here() -> str:
    """Give cuda where torch sees a GPU, else cpu."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def main() -> int:
    """Run the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, help="folder of a model, by default SmolLM2-135M")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--rows", type=int, help=f"rows a step; by default {ROWS}")
    parser.add_argument("--steps", type=int, help=f"by default {STEPS}, on the CPU an epoch")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    given = parser.parse_args()
    device = device_here() if given.device == "auto" else given.device
    task = Options(
        model=str(given.model or base_model()),
        steps=given.steps or STEPS[device],
        rows=given.rows or ROWS[device],
        device=device,
    )
    has_liger = importlib.util.find_spec("liger_kernel") is not None
    runs = runs_on_cpu(task) if device == "cpu" else runs_on_gpu(task, has_liger=has_liger)
    peer = peer_python(f"trl-{TRL}", f"trl=={TRL}", f"datasets=={DATASETS}")
    workers: list[Worker] = []
    try:
        for run in runs:
            python = Path(sys.executable) if run.is_ours else peer
            workers.append(Worker(python, run, given.threads))
            print(f"{run.name}: {workers[-1].kernels}", flush=True)
        take_turns(workers)
        return 0 if report(runs) else 1
    finally:
        for worker in workers:
            worker.stop()


if __name__ == "__main__":
    sys.exit(main())
