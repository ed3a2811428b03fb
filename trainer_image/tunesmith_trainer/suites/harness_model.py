"""The model as lm-evaluation-harness sees it: HFLM, whose forward passes are asked of somebody.

Imported by `harness` where the package is there and asked for.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM
from torch import nn
from transformers import PreTrainedTokenizerBase

_BATCH = 8


@dataclass(frozen=True)
class Pass:
    """One computation of the model, ready to be sent to other ranks."""

    tokens: torch.Tensor
    """[rows, tokens], in host memory."""
    generation: dict[str, Any] | None = None
    """What HFLM passes on to generate; None asks for the logits."""


class AskedModel(HFLM):
    """HFLM that has each pass computed by `ask`, which ends in `compute` on every rank."""

    ask: Callable[[Pass], torch.Tensor]
    """Set on rank 0."""

    def __init__(self, model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> None:
        # A copy, as HFLM chooses a padding token, and ours is saved with the model.
        super().__init__(pretrained=model, tokenizer=copy.deepcopy(tokenizer), batch_size=_BATCH)

    def compute(self, asked: Pass, *, together: bool) -> torch.Tensor:
        """Give logits [rows, tokens, vocabulary] or, of a generation, tokens [rows, length].

        `together`: all ranks call this and go on until the last of them is done.
        """
        tokens = asked.tokens.to(self.device)
        if asked.generation is None:
            return super()._model_call(tokens)
        given = {k: _on(v, self.device) for k, v in asked.generation.items()}
        return super()._model_generate(tokens, **given, synced_gpus=together)

    def _model_call(self, inps: torch.Tensor, **_: object) -> torch.Tensor:
        # Masks and labels are for encoder-decoders, which are not trained here.
        return self.ask(Pass(inps.cpu()))

    def _model_generate(
        self, context: torch.Tensor, max_length: int, stop: list[str], **given: Any
    ) -> torch.Tensor:
        generation = {"max_length": max_length, "stop": stop} | given
        return self.ask(Pass(context.cpu(), {k: _on(v, "cpu") for k, v in generation.items()}))


def _on(value: Any, device: torch.device | str) -> Any:
    return value.to(device) if isinstance(value, torch.Tensor) else value
