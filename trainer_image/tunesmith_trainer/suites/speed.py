"""How fast a model generates here, and how much memory that takes.

Called by `evaluation` on rank 0. The adapter is not merged at this time, which costs it some speed;
no inference engine is in between. So the numbers compare models, they do not foretell serving.
"""

import time
from collections.abc import Callable

import torch
from torch import nn

from tunesmith_api.suites import Speed
from tunesmith_trainer.intervals import Observed, Statistic, given, observe
from tunesmith_trainer.report import peak_memory_bytes

_ANY_TOKEN = 5


def measure_speed(
    suite: str, asked: Speed, generate: Callable[[Speed], None]
) -> tuple[Observed, ...]:
    """Measure tokens_per_second, one request at a time, and peak_memory_bytes.

    `generate` does `generate_once`, or asks all ranks for it. On a GPU the peak is this model's; on
    a CPU it is the process's since its start.
    """
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(asked.repeats + 1):
        started = time.monotonic()
        generate(asked)
        seconds.append(time.monotonic() - started)
    tokens = [float(asked.new_tokens)] * asked.repeats
    return (
        observe(f"{suite}/tokens_per_second", Statistic.RATIO, tokens, seconds[1:]),
        given(f"{suite}/peak_memory_bytes", float(peak_memory_bytes())),
    )


def generate_once(model: nn.Module, asked: Speed) -> None:
    """Answer one made-up prompt; come back when the device is done."""
    device = next(model.parameters()).device
    prompt = torch.full((1, asked.prompt_tokens), _ANY_TOKEN, device=device)
    with torch.no_grad():
        output = model.generate(  # type: ignore[operator]
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            min_new_tokens=asked.new_tokens,
            max_new_tokens=asked.new_tokens,
            do_sample=False,
            use_cache=True,
            pad_token_id=_ANY_TOKEN,
        )
    output.cpu()  # a GPU answers before it is done
