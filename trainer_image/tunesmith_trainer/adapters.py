"""LoRA layers computed in as few passes over memory as possible.

peft computes W x, B A x, the scaled product, the sum and, backwards, two gradients of x and their
sum as operations of their own. Here the low-rank part is added by the matrix product itself. The
layers stay peft's: what is saved, merged and switched off is its business.

Called by `model`. Must not change which numbers come out, but for rounding.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from peft.tuners.lora import Linear
from torch import nn
from torch.nn import functional

ADAPTER = "default"

# Chances of dropout are multiples of one in so many.
_CHANCES = 1 << 16


class _LoraLinear(torch.autograd.Function):
    """x W^T + bias + scaling (x * mask) A^T B^T, for a frozen W (Hu et al. 2021).

    Keeps x, which its neighbours keep too, and of dropout a byte a value.
    """

    @staticmethod
    def forward(  # noqa: PLR0917 - apply() takes no names
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        a: torch.Tensor,
        b: torch.Tensor,
        scaling: float,
        mask: torch.Tensor | None,
    ) -> torch.Tensor:
        ctx.types, ctx.shape, ctx.scaling = (x.dtype, a.dtype, b.dtype), x.shape, scaling
        x = x.reshape(-1, x.shape[-1]).to(weight.dtype)
        a, b = a.to(weight.dtype), b.to(weight.dtype)
        result = functional.linear(x, weight, bias)
        low = (x if mask is None else x * mask) @ a.t()
        result.addmm_(low, b.t(), alpha=scaling)
        ctx.save_for_backward(x, weight, a, b, low, mask)
        return result.view(*ctx.shape[:-1], weight.shape[0])

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, a, b, low, mask = ctx.saved_tensors
        of_x, of_a, of_b = ctx.types
        g = gradients[0].reshape(-1, weight.shape[0]).to(weight.dtype)
        g_low = (g @ b).mul_(ctx.scaling)
        g_b = (g.t() @ low).mul_(ctx.scaling)
        g_a = g_low.t() @ (x if mask is None else x * mask)
        g_x = None
        if ctx.needs_input_grad[0]:
            g_x = g @ weight
            if mask is None:
                g_x.addmm_(g_low, a)
            else:
                g_x.add_((g_low @ a).mul_(mask))
            g_x = g_x.view(ctx.shape).to(of_x)
        return g_x, None, None, g_a.to(of_a), g_b.to(of_b), None, None


def fuse(model: nn.Module) -> int:
    """Make the plain LoRA layers of `model` compute as above; give how many there are.

    Quantized layers, convolutions and variants such as DoRA stay as they are.
    """
    layers = [m for m in model.modules() if isinstance(m, Linear) and _is_plain(m)]
    for layer in layers:
        layer.forward = partial(_forward, layer, layer.forward)
    return len(layers)


def _is_plain(layer: Any) -> bool:
    return (
        type(layer.base_layer) is nn.Linear
        and list(layer.lora_A) == [ADAPTER]
        and not layer.lora_variant
        and not layer.fan_in_fan_out
        and not layer.lora_bias[ADAPTER]
    )


def _forward(
    layer: Any,
    plain: Callable[..., torch.Tensor],
    x: torch.Tensor,
    *args: Any,
    **options: Any,
) -> torch.Tensor:
    if layer.disable_adapters or layer.merged or args or options:
        return plain(x, *args, **options)
    base, dropout = layer.base_layer, layer.lora_dropout[ADAPTER]
    share = dropout.p if isinstance(dropout, nn.Dropout) and layer.training else 0.0
    return _LoraLinear.apply(
        x,
        base.weight,
        base.bias,
        layer.lora_A[ADAPTER].weight,
        layer.lora_B[ADAPTER].weight,
        layer.scaling[ADAPTER] / (1 - share),
        dropout_mask(x, share) if share else None,
    )


def dropout_mask(x: torch.Tensor, share: float) -> torch.Tensor:
    """Give bool[tokens, width], False with the chance `share`.

    torch's own takes a random number of 64 bits for each value; on a CPU that is a good part of
    a step. Sixteen bits tell chances well enough.
    """
    size = (x.numel() // x.shape[-1], x.shape[-1])
    if x.device.type != "cpu":
        return torch.rand(size, device=x.device) >= share
    words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    limit = round(share * _CHANCES) - _CHANCES // 2
    return words.view(torch.int16)[: x.numel()].view(size) >= limit
