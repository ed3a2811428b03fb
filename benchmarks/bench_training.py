"""Training speed on the CPU: this trainer against TRL's SFTTrainer, step by step in turns.

``make bench-training``. Each trainer is a process of its own; one takes a step while the others
wait, so that all see the same machine, and each step's time is kept. All train SmolLM2-135M on the
example conversations: the same tokens and the same loss mask, the same LoRA, learning rate and
number of threads, about four rows a step. TRL runs as it is by default, with packing, and with
packing and without gradient checkpointing, which is on by default; all in FP32, and ours a second
time in BF16 where the CPU has it. TRL is no dependency of ours: it is installed into a cache of
its own, on top of this environment's torch and transformers.

Prints real tokens a second (those of the rows, whatever was computed), the loss on held-out rows
before and after as this trainer measures it, and how much of what this machine's matrix products
would allow that is. Exits with 1 when a target is missed.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.peers import base_model, peer_python

REPOSITORY = Path(__file__).resolve().parent.parent
TRL, DATASETS = "1.16.0", "5.2.0"
PEERS: dict[str, dict[str, bool]] = {
    "TRL, defaults": {},
    "TRL, packing": {"packing": True},
    "TRL, packing, no checkpointing": {"packing": True, "gradient_checkpointing": False},
}
TARGETS = {"TRL, defaults": 2.2, "TRL, packing": 1.5}
LEAST_EFFICIENCY = 0.98
LARGEST_DISTANCE = 0.05
Answer = dict[str, Any]


class Worker:
    """A trainer in a process of its own that takes a step when it is told to."""

    def __init__(self, python: Path, options: Answer, threads: int) -> None:
        environment = os.environ | {
            "PYTHONPATH": f"{REPOSITORY / 'operator'}:{REPOSITORY / 'trainer_image'}:{REPOSITORY}",
            "OMP_NUM_THREADS": str(threads),
            "HF_HUB_OFFLINE": "1",
            "CUDA_VISIBLE_DEVICES": "",
        }
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - open as long as the process
        self._process = subprocess.Popen(
            [python, "-m", "benchmarks.training_worker", json.dumps(options)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self.is_done = False
        self.steps: list[Answer] = []
        self.end: Answer = {}
        self._hear()

    def _hear(self) -> Answer:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            # TRL prints dictionaries of Python's in between.
            if line.startswith('{"'):
                return dict(json.loads(line))
        self._errors.seek(0)
        raise RuntimeError(self._errors.read()[-3000:])

    def turn(self) -> None:
        """Let it take a step, and keep what it says."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        answer = self._hear()
        if answer.pop("done", False):
            self.is_done, self.end = True, answer
            self._process.wait()
        else:
            self.steps.append(answer)

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        self._errors.close()

    def speed(self) -> float:
        """Give the median of its steps' real tokens a second, the first two left out."""
        return float(statistics.median(s["tokens"] / s["seconds"] for s in self.steps[2:]))

    def cost(self) -> float:
        """Give the median of its steps' CPU milliseconds a real token, the first two left out.

        Where other programs share the cores, this says more than the clock.
        """
        return float(statistics.median(1e3 * s["cpu"] / s["tokens"] for s in self.steps[2:]))

    def efficiency(self) -> float:
        """Give real tokens over computed tokens, over all steps."""
        return float(sum(s["tokens"] for s in self.steps) / sum(s["computed"] for s in self.steps))


def take_turns(workers: dict[str, Worker]) -> None:
    """Let each take a step in turn, until all are done."""
    while not all(worker.is_done for worker in workers.values()):
        for worker in workers.values():
            if not worker.is_done:
                worker.turn()


def report(workers: dict[str, Worker]) -> bool:
    """Print what was found; tell whether all targets are met."""
    print_table(workers)
    results = list(verdicts(workers))
    for text, is_met in results:
        print(("met     " if is_met else "MISSED  ") + text)
    return all(is_met for _, is_met in results)


def print_table(workers: dict[str, Worker]) -> None:
    """Print a line a trainer, and what the last column means."""
    mine = workers["ours, FP32"]
    gflops = statistics.median(step["gflops"] for step in mine.steps)
    limit = gflops * 1e9 / (4 * mine.end["parameters"])
    heads = [("tokens/s", 10), ("ours is", 9), ("CPU ms/token", 14), ("ours is", 9)]
    heads += [("efficiency", 11), ("loss", 8), ("share", 7)]
    print(" " * 30 + "".join(f"{text:>{width}}" for text, width in heads))
    for name, worker in workers.items():
        ratio = f"{mine.speed() / worker.speed():.2f}x"
        by_cpu = f"{worker.cost() / mine.cost():.2f}x"
        print(
            f"{name:<30}{worker.speed():>10.1f}{ratio:>9}{worker.cost():>14.2f}{by_cpu:>9}"
            f"{worker.efficiency():>11.3f}"
            f"{worker.end['loss']:>8.3f}{worker.speed() / limit:>7.0%}"
        )
    print(
        f"share: of {limit:.0f} tokens/s, which {gflops:.0f} GFLOP/s in matrix products allow "
        "where each token costs 4 N; tokens computed once for several rows go beyond"
    )


def verdicts(workers: dict[str, Worker]) -> Iterator[tuple[str, bool]]:
    """Give each target as a sentence, and whether it is met."""
    mine = workers["ours, FP32"]
    for name, target in TARGETS.items():
        ratio = mine.speed() / workers[name].speed()
        yield f"{ratio:.2f} x {name}, target {target}", ratio >= target
    worst = max(mine.end["loss"] - workers[name].end["loss"] for name in TARGETS)
    yield f"loss above TRL's by {worst:+.3f}, at most {LARGEST_DISTANCE}", worst <= LARGEST_DISTANCE
    efficiency = mine.efficiency()
    yield (
        f"packing efficiency {efficiency:.3f}, target {LEAST_EFFICIENCY}",
        efficiency >= LEAST_EFFICIENCY,
    )


def has_bf16() -> bool:
    """Whether this CPU multiplies BF16 numbers."""
    flags = Path("/proc/cpuinfo").read_text()
    return "avx512_bf16" in flags or "amx_bf16" in flags


def main() -> int:
    """Run the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, help="folder of SmolLM2-135M-Instruct")
    parser.add_argument(
        "--steps", type=int, default=10_000, help="at most so many; an epoch has 57"
    )
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    given = parser.parse_args()
    model = given.model or base_model()
    task = {"model": str(model), "steps": given.steps}
    here = Path(sys.executable)
    peer = peer_python(f"trl-{TRL}", f"trl=={TRL}", f"datasets=={DATASETS}")
    kinds: list[tuple[str, Path, Answer]] = [("ours, FP32", here, {"precision": "FP32"})]
    kinds += [(name, peer, {"trl": options}) for name, options in PEERS.items()]
    if has_bf16():
        kinds.append(("ours, BF16", here, {"precision": "BF16"}))
    else:
        print("BF16 is skipped: this CPU has none")
    workers: dict[str, Worker] = {}
    try:
        for name, python, options in kinds:
            workers[name] = Worker(python, task | options, given.threads)
        take_turns(workers)
        return 0 if report(workers) else 1
    finally:
        for worker in workers.values():
            worker.stop()


if __name__ == "__main__":
    sys.exit(main())
