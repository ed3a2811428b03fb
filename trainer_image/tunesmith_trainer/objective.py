"""The loss: negative log-likelihood of the supervised tokens, and only of those.

Called by `loop` and `evaluation`. Must not know about steps, ranks or averages: it gives sums, so
that whoever adds them up over micro-batches and ranks divides once, by all tokens.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from tunesmith_trainer.batches import Batch


class SupervisedLoss(nn.Module):
    """A causal language model that returns sums over the tokens to be predicted.

    The output layer is the largest matrix of a small model, and prompts and padding are most of a
    batch. So the hidden states are picked right before it: a hook on the output layer instead of
    a call of our own keeps what some models do to logits afterwards (scaling, soft caps).
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._positions: torch.Tensor | None = None
        head: nn.Module = model.get_output_embeddings()  # type: ignore[operator]
        head.register_forward_pre_hook(self._pick)

    def _pick(self, _: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if self._positions is None:
            return None
        hidden = inputs[0]
        picked = hidden.reshape(-1, hidden.shape[-1]).index_select(0, self._positions)
        return (picked.unsqueeze(0), *inputs[1:])

    def logits(self, batch: Batch) -> torch.Tensor:
        """Give float32[supervised, vocabulary] for the tokens to be predicted."""
        self._positions = batch.positions
        try:
            output = self.model(input_ids=batch.input_ids, use_cache=False)
        finally:
            self._positions = None
        return output.logits[0].float()

    def forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Give the summed loss in nats (float32[]) and how many were predicted right (int64[])."""
        logits = self.logits(batch)
        loss = functional.cross_entropy(logits, batch.targets, reduction="sum")
        with torch.no_grad():
            correct = (logits.argmax(-1) == batch.targets).sum()
        return loss, correct
