"""Which kernels compute a model: chosen here by the device, named in the report.

Called by `recipe`. `capability` tries out attention before it is used; Liger's kernels are taken
as they are, where the image has them.
"""

import importlib.util
import sys
from typing import Any

import torch
from torch import nn

from tunesmith_trainer.attention import PADDED, RAGGED
from tunesmith_trainer.logs import log

_AMPERE = (8, 0)
_NAMES = {RAGGED: "FlashAttention", PADDED: "SDPA", "sdpa": "SDPA"}
LIGER = "Liger"


def attentions(
    device_type: str, capability: tuple[int, int], dtype: torch.dtype
) -> tuple[str, ...]:
    """Give the kinds of attention that packed rows may be computed with, the fastest first.

    `capability` is that of the CUDA device, `dtype` the computation's. FlashAttention is in torch
    itself; it needs an Ampere GPU or a newer one, and 16 bits.
    """
    is_half = dtype in (torch.bfloat16, torch.float16)
    if device_type == "cuda" and capability >= _AMPERE and is_half:
        return (RAGGED, PADDED)
    return (PADDED,)


def attentions_here(device: torch.device, dtype: torch.dtype) -> tuple[str, ...]:
    """Give the same for a device of this machine."""
    is_cuda = device.type == "cuda"
    return attentions(
        device.type, torch.cuda.get_device_capability(device) if is_cuda else (0, 0), dtype
    )


def apply_liger(model: nn.Module, device: torch.device) -> bool:
    """Compute norms and gates by Liger (Hsu et al. 2024, arXiv:2410.10989) where that can be.

    That is on a CUDA device, where the package is installed. Its loss is left out: `objective` has
    one that needs no logits of all tokens either. Models that Liger does not know stay as they are.
    """
    if device.type != "cuda" or importlib.util.find_spec("liger_kernel") is None:
        return False
    from liger_kernel.transformers import _apply_liger_kernel_to_instance
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN

    base: Any = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    if base.config.model_type not in MODEL_TYPE_TO_APPLY_LIGER_FN:
        log.info("Liger does not know the model", type=base.config.model_type)
        return False
    # Liger also puts its classes into transformers' module, where models that are exported on the
    # CPU would find them: there they cannot run. The rotation is nothing but such a replacement.
    shared = vars(sys.modules[type(base).__module__])
    before = dict(shared)
    try:
        _apply_liger_kernel_to_instance(
            model=base,
            rope=False,
            rms_norm=True,
            layer_norm=True,
            swiglu=True,
            geglu=True,
            cross_entropy=False,
            fused_linear_cross_entropy=False,
        )
    finally:
        shared.update(before)
    return True


def kernels_of(model: nn.Module, *, has_liger: bool) -> tuple[str, ...]:
    """Name what computes a model, for the report."""
    attention = str(model.config._attn_implementation)  # type: ignore[union-attr]
    return (_NAMES.get(attention, attention), *((LIGER,) if has_liger else ()))
