"""Attention over packed rows: each token sees what is before it in its own row, and nothing else.

Everything else in a transformer works token by token, so only here rows are told apart: queries,
keys and values are copied into a padded matrix, where the fast causal kernels need no mask, and
the answers back. That costs a few copies; a block-diagonal mask over the packed line would cost
its square and lose those kernels. On GPUs that have them, kernels for rows of differing length do
without the padding, too. Registered with transformers under names of their own; called by it in
every layer. `objective` says which rows there are, `kernels` which name is taken.
"""

from typing import Any

import torch
from torch import nn
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from tunesmith_trainer.packing import PackedRows

PADDED, RAGGED = "tunesmith_packed", "tunesmith_ragged"
_HALF = (torch.bfloat16, torch.float16)


class _ToRows(torch.autograd.Function):
    """[packed, width] to [rows * longest, width]; where a token is shared, gradients add up.

    Autograd's own gradient of index_select adds up slot by slot, in a loop on the CPU.
    """

    @staticmethod
    def forward(ctx: Any, line: torch.Tensor, packed: PackedRows) -> torch.Tensor:
        ctx.packed = packed
        return line.index_select(0, packed.sources)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        (gradient,), packed = gradients, ctx.packed
        line = gradient.index_select(0, packed.slots)
        if len(packed.shared_slots):
            line.index_add_(0, packed.shared_sources, gradient.index_select(0, packed.shared_slots))
        return line, None


class _ToLine(torch.autograd.Function):
    """[rows * longest, width] to [packed, width]."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, packed: PackedRows) -> torch.Tensor:
        ctx.packed = packed
        return rows.index_select(0, packed.slots)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        (gradient,), packed = gradients, ctx.packed
        rows = gradient.new_zeros(len(packed.sources), gradient.shape[1])
        return rows.index_copy_(0, packed.slots, gradient), None


def packed_attention(  # noqa: PLR0917 - transformers calls it so
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    packed_rows: PackedRows | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attend inside each row of `packed_rows`, or as usual if there are none.

    `query`, `key` and `value` are [1, heads, packed, width]; gives [1, packed, heads, width].
    """
    if packed_rows is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    rows, longest = packed_rows.rows, packed_rows.longest

    def spread(line: torch.Tensor) -> torch.Tensor:
        return _spread(line, packed_rows).unflatten(0, (rows, longest)).transpose(1, 2)

    answer, _ = sdpa_attention_forward(
        module, spread(query), spread(key), spread(value), None, **options
    )
    heads, width = answer.shape[2:]
    line = _ToLine.apply(answer.reshape(rows * longest, heads * width), packed_rows)
    return line.view(1, -1, heads, width), None


def ragged_attention(  # noqa: PLR0917 - transformers calls it so
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    packed_rows: PackedRows | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Do what `packed_attention` does without any padding, by FlashAttention's kernels in torch.

    They know 16-bit numbers and no dropout (Dao 2023, arXiv:2307.08691); the rest goes to
    `packed_attention`.
    """
    if packed_rows is None or value.dtype not in _HALF or options.get("dropout"):
        return packed_attention(
            module, query, key, value, attention_mask, packed_rows=packed_rows, **options
        )
    ragged = packed_rows.ragged
    # The rotation may have made queries and keys wider, where weights are float32.
    q, k, v = (_spread(line, ragged).to(value.dtype) for line in (query, key, value))
    starts, longest = ragged.starts, ragged.longest
    answer = varlen_attn(
        *(q, k, v, starts, starts, longest, longest),
        scale=options.get("scaling"),
        window_size=(-1, 0),
        enable_gqa=q.shape[1] != k.shape[1],
    )
    assert isinstance(answer, torch.Tensor)  # noqa: S101 - no more was asked for
    line = _ToLine.apply(answer.flatten(1), ragged)
    return line.view(1, -1, *answer.shape[1:]), None


def _spread(line: torch.Tensor, packed: PackedRows) -> torch.Tensor:
    """[1, heads, packed, width] to [slots, heads, width]."""
    heads, width = line.shape[1], line.shape[3]
    flat = line.transpose(1, 2).reshape(-1, heads * width)
    return _ToRows.apply(flat, packed).view(-1, heads, width)


for _name, _attend in ((PADDED, packed_attention), (RAGGED, ragged_attention)):
    AttentionInterface.register(_name, _attend)
    AttentionMaskInterface.register(_name, sdpa_mask)
