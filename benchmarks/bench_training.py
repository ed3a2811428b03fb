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
import time
from collections import deque
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
DATA = REPOSITORY / "examples" / "data"
CACHE = Path.home() / ".cache" / "tunesmith"
TRL, DATASETS = "1.16.0", "5.2.0"
ROWS, RANK, ALPHA, RATE, WARMUP, LENGTH, SEED = 4, 16, 32, 2e-3, 3, 256, 17
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
            [python, "-m", "benchmarks.bench_training", "--worker", json.dumps(options)],
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
            if line.startswith("{"):
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


def say(**answer: Any) -> None:
    """Answer the parent."""
    print(json.dumps(answer), flush=True)


def be_told() -> None:
    """Wait for one's turn."""
    if not sys.stdin.readline():
        raise SystemExit


def tokenized(model: Path, name: str) -> Any:
    """Give the example rows as the trainer prepares them."""
    import numpy as np

    from tunesmith_api.dataset import Dataset, Training
    from tunesmith_trainer.data.prepared import Split
    from tunesmith_trainer.data.templates import load_tokenizer

    tokenizer = load_tokenizer(model, Dataset(train=Training(uri=f"file://{DATA / name}")))
    tokens: list[int] = []
    marks: list[int] = []
    offsets = [0]
    for line in (DATA / name).read_text().splitlines():
        row = json.loads(line)
        asked = [{"role": "user", "content": row["prompt"]}]
        whole = [*asked, {"role": "assistant", "content": row["response"]}]
        options = {"tokenize": True, "return_dict": False}
        prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, **options)
        ids = tokenizer.apply_chat_template(whole, **options)
        learned = len(ids) - len(prompt)
        tokens += ids
        # The line break after the end of the turn is not learned.
        marks += [0] * len(prompt) + [1] * (learned - 1) + [0]
        offsets.append(len(tokens))
    return Split(np.array(tokens, np.int32), np.array(offsets), np.array(marks, np.uint8))


def held_out_loss(model: Any, rows: Any) -> float:
    """Give the loss on held-out rows."""
    import torch
    from accelerate import Accelerator

    from tunesmith_trainer.distributed import Ranks
    from tunesmith_trainer.evaluation import held_out_score
    from tunesmith_trainer.objective import SupervisedLoss
    from tunesmith_trainer.stopping import StopSignal

    ranks = Ranks(Accelerator(cpu=True))
    loss = model if isinstance(model, SupervisedLoss) else SupervisedLoss(model)
    with torch.no_grad():
        return held_out_score(loss, rows, ranks, StopSignal(), batch_size=8, pad_id=0).loss


def ours(model: Path, steps: int, precision: str) -> None:
    """Be this trainer."""
    import torch
    from accelerate import Accelerator

    from tunesmith_api.training import Hyperparameters, Lora, Method, Precision
    from tunesmith_trainer.attention import PADDED
    from tunesmith_trainer.batches import BatchPlan
    from tunesmith_trainer.capability import settle
    from tunesmith_trainer.curve import Curve
    from tunesmith_trainer.distributed import Ranks
    from tunesmith_trainer.loop import Training, optimizer_step
    from tunesmith_trainer.model import load_trainable
    from tunesmith_trainer.objective import SupervisedLoss
    from tunesmith_trainer.optimizers import build_optimizer
    from tunesmith_trainer.state import TrainState
    from tunesmith_trainer.stopping import StopSignal

    rows = tokenized(model, "about-tunesmith.jsonl")
    test = tokenized(model, "about-tunesmith-heldout.jsonl")
    settings = Hyperparameters(
        learning_rate=str(RATE),
        warmup_steps=WARMUP,
        per_device_batch_size=ROWS,
        max_sequence_length=LENGTH,
    )
    method = Method(lora=Lora(rank=RANK, alpha=ALPHA, dropout="0"))
    mixed = "bf16" if precision == "BF16" else "no"
    ranks = Ranks(Accelerator(cpu=True, mixed_precision=mixed))
    loss = SupervisedLoss(
        load_trainable(model, method, Precision(precision), torch.device("cpu"), SEED)
    )
    settle(loss, rows, 0, (PADDED,))
    plan = BatchPlan(rows.lengths, SEED, ROWS)
    total = min(steps, plan.steps_per_epoch)
    training = Training(
        settings=settings,
        ranks=ranks,
        loss=loss,
        optimizer=build_optimizer(loss, settings),
        train=rows,
        validation=None,
        pad_id=0,
        plan=plan,
        total_steps=total,
        checkpoint_every=total + 1,
        state=TrainState(),
        curve=Curve(None),
    )
    say(ready=True)
    for _, batch in zip(range(total), plan.batches_from(0), strict=False):
        be_told()
        training.prepared.train()
        tokens, computed = training.state.tokens, training.computed
        began, before = time.perf_counter(), time.process_time()
        optimizer_step(training, batch, StopSignal())
        seconds, cpu = time.perf_counter() - began, time.process_time() - before
        tokens, computed = training.state.tokens - tokens, training.computed - computed
        gflops = matrix_speed(computed)
        say(seconds=seconds, cpu=cpu, tokens=tokens, computed=computed, gflops=gflops)
    be_told()
    say(done=True, loss=held_out_loss(loss, test), parameters=weights_in_products(loss.model))


def matrix_speed(tokens: int) -> float:
    """Give the machine's GFLOP/s just now at products of this model's sizes."""
    import torch

    work, began = 0.0, time.perf_counter()
    for width, out in ((576, 576), (576, 1536), (1536, 576)):
        x, weight = torch.ones(tokens, width), torch.ones(out, width)
        for _ in range(4):
            torch.mm(x, weight.t())
            work += 2 * tokens * width * out
    return work / (time.perf_counter() - began) / 1e9


def weights_in_products(model: Any) -> int:
    """Count the base model's weights that every token is multiplied with."""
    from torch import nn

    return sum(
        m.weight.numel()
        for name, m in model.named_modules()
        if isinstance(m, nn.Linear) and "lora_" not in name
    )


def trl(model: Path, steps: int, options: Answer) -> None:
    """Be TRL's trainer."""
    import torch
    from datasets import Dataset  # type: ignore[import-not-found]
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer  # type: ignore[import-not-found]

    rows = tokenized(model, "about-tunesmith.jsonl")
    test = tokenized(model, "about-tunesmith-heldout.jsonl")
    columns: Answer = {"input_ids": [], "assistant_masks": []}
    for index in range(len(rows)):
        for name, values in zip(columns, rows.row(index), strict=True):
            columns[name].append(values.tolist())

    class Turns(TrainerCallback):  # type: ignore[misc]
        """Takes each step in its turn."""

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            be_told()
            self.began, self.before = time.perf_counter(), time.process_time()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            seconds = time.perf_counter() - self.began
            cpu = time.process_time() - self.before
            tokens, computed = counts.popleft()
            say(seconds=seconds, cpu=cpu, tokens=tokens, computed=computed)

    # Batches are made one ahead of the step.
    counts: deque[tuple[int, int]] = deque()
    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(
            output_dir=folder,
            # Packed, a line has the tokens of about four rows.
            per_device_train_batch_size=1 if options.get("packing") else ROWS,
            learning_rate=RATE,
            lr_scheduler_type="cosine",
            warmup_steps=WARMUP,
            max_steps=steps if steps * ROWS < len(rows) else -1,
            num_train_epochs=1,
            max_length=LENGTH,
            seed=SEED,
            bf16=False,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            **options,
        )
        trainer = SFTTrainer(
            model=AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32),
            args=config,
            train_dataset=Dataset.from_dict(columns),
            processing_class=AutoTokenizer.from_pretrained(model),
            peft_config=LoraConfig(
                r=RANK,
                lora_alpha=ALPHA,
                lora_dropout=0.0,
                target_modules="all-linear",
                task_type="CAUSAL_LM",
            ),
            callbacks=[Turns()],
        )
        plain = trainer.data_collator

        def counted(features: list[Answer]) -> Any:
            batch = plain(features)
            tokens = sum(len(feature["input_ids"]) for feature in features)
            counts.append((tokens, batch["input_ids"].numel()))
            return batch

        trainer.data_collator = counted
        say(ready=True)
        trainer.train()
    be_told()
    say(done=True, loss=held_out_loss(trainer.model.eval(), test))


def peer_python() -> Path:
    """Give the interpreter of an environment with TRL, made at the first call."""
    folder = CACHE / "peers" / f"trl-{TRL}"
    python = folder / "bin" / "python"
    done = folder / ".done"
    if not done.exists():
        print(f"installing trl {TRL} into {folder}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        site = next(folder.glob("lib/python*/site-packages"))
        mine = next(path for path in sys.path if path.endswith("site-packages"))
        (site / "ours.pth").write_text(mine + "\n")
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--no-deps", f"trl=={TRL}"], check=True)
        subprocess.run([*pip, f"datasets=={DATASETS}"], check=True)
        done.touch()
    return python


def take_turns(workers: dict[str, Worker]) -> None:
    """Let each take a step in turn, until all are done."""
    while not all(worker.is_done for worker in workers.values()):
        for worker in workers.values():
            if not worker.is_done:
                worker.turn()


def report(workers: dict[str, Worker]) -> bool:
    """Print what was found; tell whether all targets are met."""
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
    verdicts = [
        (
            f"{mine.speed() / workers[name].speed():.2f} x {name}, target {target}",
            mine.speed() >= target * workers[name].speed(),
        )
        for name, target in TARGETS.items()
    ]
    worst = max(mine.end["loss"] - workers[name].end["loss"] for name in TARGETS)
    verdicts += [
        (
            f"loss above TRL's by {worst:+.3f}, at most {LARGEST_DISTANCE}",
            worst <= LARGEST_DISTANCE,
        ),
        (
            f"packing efficiency {mine.efficiency():.3f}, target {LEAST_EFFICIENCY}",
            mine.efficiency() >= LEAST_EFFICIENCY,
        ),
    ]
    for text, is_met in verdicts:
        print(("met     " if is_met else "MISSED  ") + text)
    return all(is_met for _, is_met in verdicts)


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
    parser.add_argument("--worker", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        options = given.worker
        model = Path(options["model"])
        if "precision" in options:
            ours(model, options["steps"], options["precision"])
        else:
            trl(model, options["steps"], options["trl"])
        return 0
    model = given.model or next(CACHE.glob("base-model/*/config.json")).parent
    task = {"model": str(model), "steps": given.steps}
    here, peer = Path(sys.executable), peer_python()
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
