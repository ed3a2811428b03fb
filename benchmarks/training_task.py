"""The task of ``bench_training``: the same rows, settings and measures for every trainer.

Imported by its workers, in the environment of TRL too.
"""

import json
import time
from pathlib import Path
from typing import Any

DATA = Path(__file__).resolve().parent.parent / "examples" / "data"
TRAIN, HELD_OUT = "about-tunesmith.jsonl", "about-tunesmith-heldout.jsonl"
ROWS, RANK, ALPHA, RATE, WARMUP, LENGTH, SEED = 4, 16, 32, 2e-3, 3, 256, 17


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
