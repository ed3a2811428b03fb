"""The task of ``bench_training``: the same rows, settings and measures for every trainer.

Imported by its workers, in the environment of TRL too.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DATA = Path(__file__).resolve().parent.parent / "examples" / "data"
TRAIN, HELD_OUT = "about-tunesmith.jsonl", "about-tunesmith-heldout.jsonl"
RANK, ALPHA, RATE, WARMUP, LENGTH, SEED = 16, 32, 2e-3, 3, 256, 17
ROWS_A_LINE = 4
"""Rows that fill a packed line of TRL's, about."""


@dataclass(frozen=True)
class Options:
    """What a worker is to be."""

    model: str
    """Folder of the base model."""
    steps: int
    """Optimizer steps, of the learning rate's schedule too."""
    rows: int = 4
    """Rows a step, about."""
    device: str = "cpu"
    """cpu or cuda."""
    precision: str = "FP32"
    checkpointing: bool = False
    """Whether activations are computed again, in this trainer."""
    trl: dict[str, Any] | None = None
    """Settings of TRL's SFTConfig; None for this trainer."""
    same_rows: int = 0
    """So many steps on the very rows of this trainer's steps, then the end; 0 for all steps on
    TRL's own order."""


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


def plan_of(rows: Any, options: Options) -> Any:
    """Give this trainer's order of the rows."""
    from tunesmith_trainer.batches import BatchPlan

    return BatchPlan(rows.lengths, SEED, options.rows)


def settings_of(options: Options) -> Any:
    """Give the hyperparameters, which for TRL tell the learning rate."""
    from tunesmith_api.training import Hyperparameters

    return Hyperparameters(
        learning_rate=str(RATE),
        warmup_steps=WARMUP,
        per_device_batch_size=options.rows,
        max_sequence_length=LENGTH,
    )


def held_out_loss(model: Any, rows: Any) -> float:
    """Give the loss on held-out rows."""
    import torch
    from accelerate import Accelerator

    from tunesmith_trainer.distributed import Ranks
    from tunesmith_trainer.evaluation import held_out_score
    from tunesmith_trainer.objective import SupervisedLoss
    from tunesmith_trainer.stopping import StopSignal

    loss = model if isinstance(model, SupervisedLoss) else SupervisedLoss(model)
    on_cpu = next(loss.parameters()).device.type == "cpu"
    ranks = Ranks(Accelerator(cpu=on_cpu))
    with torch.no_grad():
        return held_out_score(loss, rows, ranks, StopSignal(), batch_size=8, pad_id=0).loss


def wait_for_device() -> None:
    """Wait until a GPU in use has done all it was given."""
    import torch

    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()


def matrix_speed(tokens: int, model: Any, precision: str) -> float:
    """Give the device's GFLOP/s just now at products of the model's sizes in `precision`."""
    import torch

    dtype = {"FP32": torch.float32, "BF16": torch.bfloat16}[precision]
    config, device = model.config.get_text_config(), next(model.parameters()).device
    hidden, inner = config.hidden_size, config.intermediate_size
    work = seconds = 0.0
    for width, out in ((hidden, hidden), (hidden, inner), (inner, hidden)):
        x = torch.ones(tokens, width, dtype=dtype, device=device)
        weight = torch.ones(out, width, dtype=dtype, device=device)
        torch.mm(x, weight.t())  # the first of a size may choose its kernel
        wait_for_device()
        began = time.perf_counter()
        for _ in range(4):
            torch.mm(x, weight.t())
        wait_for_device()
        seconds += time.perf_counter() - began
        work += 4 * 2 * tokens * width * out
    return work / seconds / 1e9


def weights_in_products(model: Any) -> int:
    """Count the base model's weights that every token is multiplied with."""
    from torch import nn

    return sum(
        m.weight.numel()
        for name, m in model.named_modules()
        if isinstance(m, nn.Linear) and "lora_" not in name
    )
