"""TRL's SFTTrainer as a worker of ``bench_training``, in an environment that has TRL."""

import tempfile
from collections import deque
from pathlib import Path
from typing import Any

from benchmarks.training_task import (
    ALPHA,
    HELD_OUT,
    LENGTH,
    RANK,
    RATE,
    ROWS_A_LINE,
    SEED,
    TRAIN,
    Options,
    held_out_loss,
    plan_of,
    settings_of,
    tokenized,
)
from benchmarks.training_turns import (
    Answer,
    Stopwatch,
    be_told,
    forget_the_past,
    peak_memory,
    say,
)


def trl(options: Options) -> None:
    """Be TRL's trainer."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = trl_trainer(options, folder)
        # Batches are made one ahead of the step.
        counts: deque[tuple[int, int]] = deque()
        trainer.add_callback(trl_turns(counts, options.same_rows))
        plain = trainer.data_collator

        def counted(features: list[Answer]) -> Any:
            batch = plain(features)
            tokens = sum(len(feature["input_ids"]) for feature in features)
            counts.append((tokens, batch["input_ids"].numel()))
            return batch

        trainer.data_collator = counted
        say(ready=True, kernels=[trl_attention(options), *trl_extras(options)])
        forget_the_past()
        trainer.train()
        memory = peak_memory()
    be_told()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    loss = None
    if not options.same_rows:
        rows = tokenized(Path(options.model), HELD_OUT)
        loss = held_out_loss(trainer.model.eval(), rows)
    say(done=True, loss=loss, losses=losses, memory=memory)


def trl_turns(counts: deque[tuple[int, int]], last: int) -> Any:
    """Give the callback that takes each step in its turn and says what it took.

    With `last` the step of that number is the last one.
    """
    from transformers import TrainerCallback

    class Turns(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            be_told()
            self.watch = Stopwatch.start()

        def on_step_end(self, _: Any, state: Any, control: Any, **__: Any) -> None:
            taken = self.watch.taken()
            tokens, computed = counts.popleft()
            control.should_training_stop |= state.global_step == last
            say(**taken, tokens=tokens, computed=computed)

    return Turns()


def trl_attention(options: Options) -> str:
    """Give the fastest attention that TRL can use here for packed rows."""
    from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available

    if options.device == "cpu" or options.precision == "FP32":
        return "sdpa"
    if is_flash_attn_3_available():
        return "flash_attention_3"
    return "flash_attention_2" if is_flash_attn_2_available() else "sdpa"


def trl_extras(options: Options) -> list[str]:
    """Name the kernels besides attention."""
    return ["Liger"] if (options.trl or {}).get("use_liger_kernel") else []


def trl_trainer(options: Options, folder: str) -> Any:
    """Give TRL's trainer with the same rows, mask, LoRA and learning rates."""
    import torch
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig  # type: ignore[import-not-found]

    wanted = options.trl or {}
    is_half = options.precision == "BF16"
    config = SFTConfig(
        output_dir=folder,
        per_device_train_batch_size=max(1, options.rows // ROWS_A_LINE)
        if wanted.get("packing")
        else options.rows,
        learning_rate=RATE,
        max_steps=options.steps,
        max_length=LENGTH,
        seed=SEED,
        bf16=is_half,
        use_cpu=options.device == "cpu",
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        logging_steps=1 if options.same_rows else 10,
        train_sampling_strategy="sequential" if options.same_rows else "random",
        **wanted,
    )
    lora = {"r": RANK, "lora_alpha": ALPHA, "lora_dropout": 0.0, "target_modules": "all-linear"}
    return trl_class(options)(
        model=AutoModelForCausalLM.from_pretrained(
            options.model,
            dtype=torch.bfloat16 if is_half else torch.float32,
            attn_implementation=trl_attention(options),
        ),
        args=config,
        train_dataset=trl_rows(options),
        processing_class=AutoTokenizer.from_pretrained(options.model),
        peft_config=LoraConfig(**lora, task_type="CAUSAL_LM"),
    )


def trl_class(options: Options) -> Any:
    """Give SFTTrainer with this trainer's learning rates, whose warm-up does not begin at 0."""
    from torch.optim.lr_scheduler import LambdaLR
    from trl import SFTTrainer

    from tunesmith_trainer.schedule import learning_rate

    settings = settings_of(options)

    class Trainer(SFTTrainer):  # type: ignore[misc]
        def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
            self.lr_scheduler = LambdaLR(
                optimizer or self.optimizer,
                lambda step: learning_rate(step, num_training_steps, settings) / RATE,
            )
            return self.lr_scheduler

    return Trainer


def trl_rows(options: Options) -> Any:
    """Give the rows with their mask, in this trainer's order where that is asked for."""
    from datasets import Dataset  # type: ignore[import-not-found]

    rows = tokenized(Path(options.model), TRAIN)
    order = list(range(len(rows)))
    if options.same_rows:
        batches = plan_of(rows, options).batches_from(0)
        order = [int(row) for _ in range(options.same_rows) for row in next(batches)]
    columns: Answer = {"input_ids": [], "assistant_masks": []}
    for index in order:
        for name, values in zip(columns, rows.row(index), strict=True):
            columns[name].append(values.tolist())
    return Dataset.from_dict(columns)
