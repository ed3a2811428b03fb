"""The loss: negative log-likelihood of the supervised tokens, and only of those.

Called by `loop` and `evaluation`. Must not know about steps, ranks or averages: it gives sums, so
that whoever adds them up over micro-batches and ranks divides once, by all tokens.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from tunesmith_trainer.batches import Batch

Head = Callable[[torch.Tensor], torch.Tensor]
"""Hidden states [tokens, width] to logits [tokens, vocabulary], as the model would say them."""

# Logits, their softmax and its gradient are gone over several times: while they fit into a CPU's
# cache that costs little, and on a GPU it bounds the memory.
CHUNK_VALUES = {"cpu": 1 << 22, "cuda": 1 << 27}
"""Logits in memory at once, by the type of the device."""


class SupervisedLoss(nn.Module):
    """A causal language model that returns sums over the tokens to be predicted.

    The output layer is the largest matrix of a small model, and prompts and padding are most of a
    batch. So the hidden states are picked right before it. By default a hook on it does so, and
    what some models do to logits afterwards (scaling, soft caps) is done by the model. With
    `head`, the picked states go through that function chunk by chunk instead, and the logits of
    all tokens are never in memory at once; `capability` finds out whether it says the same.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.head: Head | None = None
        self.can_pack = False
        """Whether batches may be packed; found out by `capability`."""
        self.has_liger = False
        """Whether Liger's kernels compute parts of the layers; set by `recipe`."""
        self.label_smoothing = 0.0
        """Share of the target's probability that is spread over all tokens, in training only
        (Szegedy et al. 2015, arXiv:1512.00567)."""
        self._pick: Callable[[torch.Tensor], torch.Tensor] | None = None
        output: nn.Module = model.get_output_embeddings()  # type: ignore[operator]
        output.register_forward_pre_hook(self._before_head)

    def _before_head(self, _: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        return None if self._pick is None else (self._pick(inputs[0]), *inputs[1:])

    @contextmanager
    def _picking(self, pick: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
        self._pick = pick
        try:
            yield
        finally:
            self._pick = None

    def _run(self, batch: Batch) -> Any:
        if batch.packed is None:
            return self.model(input_ids=batch.input_ids, use_cache=False)
        # A mask of four dimensions is taken as it is; attention inside the rows looks at none.
        unused = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=batch.input_ids.device)
        return self.model(
            input_ids=batch.input_ids,
            attention_mask=unused,
            position_ids=batch.packed.position_ids,
            packed_rows=batch.packed,
            use_cache=False,
        )

    def logits(self, batch: Batch) -> torch.Tensor:
        """Give float32[supervised, vocabulary] for the tokens to be predicted."""

        def pick(hidden: torch.Tensor) -> torch.Tensor:
            return _at(hidden, batch.positions).unsqueeze(0)

        with self._picking(pick):
            return self._run(batch).logits[0].float()

    def hidden(self, batch: Batch) -> torch.Tensor:
        """Give the states [supervised, width] that go into the output layer."""
        kept: list[torch.Tensor] = []

        def pick(hidden: torch.Tensor) -> torch.Tensor:
            kept.append(_at(hidden, batch.positions))
            return hidden[:, :0]

        with self._picking(pick):
            self._run(batch)
        return kept[0]

    @torch.no_grad()
    def by_token(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Give each token's loss in nats (float32[supervised]) and whether it was predicted right.

        For evaluation, which needs sums by row: no gradients, no label smoothing, and with `head`
        no more logits at once than in training. The second is bool[supervised].
        """
        parts: Iterable[tuple[torch.Tensor, torch.Tensor]]
        if self.head is None:
            parts = [(self.logits(batch), batch.targets)]
        else:
            head, hidden = self.head, self.hidden(batch)
            parts = (
                (head(hidden[start:end]).float(), batch.targets[start:end])
                for start, end in _chunks(len(hidden), head, hidden)
            )
        found = [
            (
                functional.cross_entropy(logits, targets, reduction="none"),
                logits.argmax(-1) == targets,
            )
            for logits, targets in parts
        ]
        if not found:
            return torch.zeros(0), torch.zeros(0, dtype=torch.bool)
        nats, correct = zip(*found, strict=True)
        return torch.cat(nats), torch.cat(correct)

    def forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Give the summed loss in nats (float32[]) and how many were predicted right (int64[])."""
        smoothing = self.label_smoothing if self.training else 0.0
        if self.head is None:
            return _judge(self.logits(batch), batch.targets, smoothing)
        hidden = self.hidden(batch)
        output: nn.Module = self.model.get_output_embeddings()  # type: ignore[operator]
        trained = [p for p in output.parameters() if p.requires_grad]
        wanted = torch.is_grad_enabled()
        return _ChunkedLoss.apply(hidden, batch.targets, self.head, smoothing, wanted, *trained)

    def token_nats(self, batch: Batch) -> torch.Tensor:
        """Give float32[supervised]: the loss of each token, for whoever weighs tokens differently.

        Logits are computed again on the way back, chunk by chunk: the gradient of a token depends
        on what is made of the losses, so it cannot be known on the way forward.
        """
        if self.head is None:
            return functional.cross_entropy(self.logits(batch), batch.targets, reduction="none")
        hidden, head = self.hidden(batch), self.head
        if not len(hidden):
            return hidden.float().sum(-1)

        def nats(states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            return functional.cross_entropy(head(states).float(), targets, reduction="none")

        parts = [
            checkpoint(
                nats,
                hidden[start:end],
                batch.targets[start:end],
                use_reentrant=False,
                preserve_rng_state=False,
            )
            for start, end in _chunks(len(hidden), head, hidden)
        ]
        return torch.cat(parts)


class _ChunkedLoss(torch.autograd.Function):
    """Loss and gradients chunk by chunk, the gradients already on the way forward.

    So no chunk is computed twice, and none outlives its turn (as in Liger, Hsu et al. 2024,
    arXiv:2410.10989).
    """

    @staticmethod
    def forward(  # noqa: PLR0917 - apply() takes no names
        ctx: Any,
        hidden: torch.Tensor,
        targets: torch.Tensor,
        head: Head,
        smoothing: float,
        with_gradients: bool,
        *trained: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        loss = torch.zeros((), device=hidden.device)
        correct = torch.zeros((), dtype=torch.int64, device=hidden.device)
        gradients = [torch.empty_like(hidden), *(torch.zeros_like(p) for p in trained)]
        for start, end in _chunks(len(hidden), head, hidden):
            with torch.set_grad_enabled(with_gradients):
                states = hidden[start:end].detach().requires_grad_(with_gradients)
                part, right = _judge(head(states).float(), targets[start:end], smoothing)
                if with_gradients:
                    found = torch.autograd.grad(part, [states, *trained])
                    gradients[0][start:end] = found[0]
                    for total, more in zip(gradients[1:], found[1:], strict=True):
                        total.add_(more)
            loss += part.detach()
            correct += right
        ctx.save_for_backward(*gradients)
        ctx.mark_non_differentiable(correct)
        return loss, correct

    @staticmethod
    def backward(ctx: Any, *outer: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        of_hidden, *of_trained = (g * outer[0].to(g.dtype) for g in ctx.saved_tensors)
        return of_hidden, None, None, None, None, *of_trained


def _chunks(count: int, head: Head, hidden: torch.Tensor) -> list[tuple[int, int]]:
    """Cut `count` tokens into like parts that are as large as the budget allows."""
    if count == 0:
        return []
    with torch.no_grad():
        vocabulary = head(hidden[:0]).shape[-1]
    most = max(1, CHUNK_VALUES.get(hidden.device.type, 1 << 24) // vocabulary)
    parts = -(-count // most)
    cuts = [count * part // parts for part in range(parts + 1)]
    return list(pairwise(cuts))


def _at(hidden: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    return hidden.reshape(-1, hidden.shape[-1]).index_select(0, positions)


def _judge(
    logits: torch.Tensor, targets: torch.Tensor, smoothing: float
) -> tuple[torch.Tensor, torch.Tensor]:
    loss = functional.cross_entropy(logits, targets, reduction="sum", label_smoothing=smoothing)
    with torch.no_grad():
        correct = (logits.argmax(-1) == targets).sum()
    return loss, correct
