"""A trainer that takes one step when it is told to, and says what the step took.

``python -m benchmarks.training_worker OPTIONS``, started by ``bench_training``. A line on standard
input is a turn; the answers are lines of JSON: ``ready``, one a step, and at the end ``done`` with
the loss on held-out rows.
"""

import json
import sys
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.training_task import (
    ALPHA,
    HELD_OUT,
    LENGTH,
    RANK,
    RATE,
    ROWS,
    SEED,
    TRAIN,
    WARMUP,
    held_out_loss,
    matrix_speed,
    tokenized,
    weights_in_products,
)

Answer = dict[str, Any]


def say(**answer: Any) -> None:
    """Answer the parent."""
    print(json.dumps(answer), flush=True)


def be_told() -> None:
    """Wait for one's turn."""
    if not sys.stdin.readline():
        raise SystemExit


class Stopwatch(NamedTuple):
    """When a step began: by the clock, and in seconds of this process's CPU time."""

    clock: float
    cpu: float

    @classmethod
    def start(cls) -> "Stopwatch":
        """Begin now."""
        return cls(time.perf_counter(), time.process_time())

    def taken(self) -> Answer:
        """Give what has passed since."""
        return {
            "seconds": time.perf_counter() - self.clock,
            "cpu": time.process_time() - self.cpu,
        }


def ours(model: Path, steps: int, precision: str) -> None:
    """Be this trainer."""
    from tunesmith_trainer.loop import optimizer_step
    from tunesmith_trainer.stopping import StopSignal

    training = our_training(model, steps, precision)
    say(ready=True)
    batches = training.plan.batches_from(0)
    for _, batch in zip(range(training.total_steps), batches, strict=False):
        be_told()
        training.prepared.train()
        tokens, computed = training.state.tokens, training.computed
        watch = Stopwatch.start()
        optimizer_step(training, batch, StopSignal())
        taken = watch.taken()
        tokens, computed = training.state.tokens - tokens, training.computed - computed
        say(**taken, tokens=tokens, computed=computed, gflops=matrix_speed(computed))
    be_told()
    loss = held_out_loss(training.loss, tokenized(model, HELD_OUT))
    say(done=True, loss=loss, parameters=weights_in_products(training.loss.model))


def our_training(model: Path, steps: int, precision: str) -> Any:
    """Give this trainer's Training, before its first step."""
    from accelerate import Accelerator

    from tunesmith_api.training import Hyperparameters
    from tunesmith_trainer.batches import BatchPlan
    from tunesmith_trainer.curve import Curve
    from tunesmith_trainer.distributed import Ranks
    from tunesmith_trainer.loop import Training
    from tunesmith_trainer.optimizers import build_optimizer
    from tunesmith_trainer.state import TrainState

    rows = tokenized(model, TRAIN)
    settings = Hyperparameters(
        learning_rate=str(RATE),
        warmup_steps=WARMUP,
        per_device_batch_size=ROWS,
        max_sequence_length=LENGTH,
    )
    loss = our_loss(model, rows, precision)
    plan = BatchPlan(rows.lengths, SEED, ROWS)
    total = min(steps, plan.steps_per_epoch)
    return Training(
        settings=settings,
        ranks=Ranks(Accelerator(cpu=True, mixed_precision="bf16" if precision == "BF16" else "no")),
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


def our_loss(model: Path, rows: Any, precision: str) -> Any:
    """Give the model with its LoRA, and the loss that is made smaller."""
    import torch

    from tunesmith_api.training import Lora, Method, Precision
    from tunesmith_trainer.attention import PADDED
    from tunesmith_trainer.capability import settle
    from tunesmith_trainer.model import load_trainable
    from tunesmith_trainer.objective import SupervisedLoss

    method = Method(lora=Lora(rank=RANK, alpha=ALPHA, dropout="0"))
    device = torch.device("cpu")
    loss = SupervisedLoss(load_trainable(model, method, Precision(precision), SEED, device))
    settle(loss, rows, 0, (PADDED,))
    return loss


def trl(model: Path, steps: int, options: Answer) -> None:
    """Be TRL's trainer."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = trl_trainer(model, steps, folder, options)
        # Batches are made one ahead of the step.
        counts: deque[tuple[int, int]] = deque()
        trainer.add_callback(trl_turns(counts))
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
    say(done=True, loss=held_out_loss(trainer.model.eval(), tokenized(model, HELD_OUT)))


def trl_turns(counts: deque[tuple[int, int]]) -> Any:
    """Give the callback that takes each step in its turn and says what it took."""
    from transformers import TrainerCallback

    class Turns(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            be_told()
            self.watch = Stopwatch.start()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            taken = self.watch.taken()
            tokens, computed = counts.popleft()
            say(**taken, tokens=tokens, computed=computed)

    return Turns()


def trl_trainer(model: Path, steps: int, folder: str, options: Answer) -> Any:
    """Give TRL's trainer on the same rows, mask, LoRA and learning rate."""
    import torch
    from datasets import Dataset  # type: ignore[import-not-found]
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer  # type: ignore[import-not-found]

    rows = tokenized(model, TRAIN)
    columns: Answer = {"input_ids": [], "assistant_masks": []}
    for index in range(len(rows)):
        for name, values in zip(columns, rows.row(index), strict=True):
            columns[name].append(values.tolist())
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
    lora = {"r": RANK, "lora_alpha": ALPHA, "lora_dropout": 0.0, "target_modules": "all-linear"}
    return SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32),
        args=config,
        train_dataset=Dataset.from_dict(columns),
        processing_class=AutoTokenizer.from_pretrained(model),
        peft_config=LoraConfig(**lora, task_type="CAUSAL_LM"),
    )


def main() -> None:
    """Be the trainer that the options ask for."""
    options = json.loads(sys.argv[1])
    model = Path(options["model"])
    if "precision" in options:
        ours(model, options["steps"], options["precision"])
    else:
        trl(model, options["steps"], options["trl"])


if __name__ == "__main__":
    main()
