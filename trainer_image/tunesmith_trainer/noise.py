"""NEFTune (Jain et al. 2023, arXiv:2310.05914): noise on embeddings, in training only.

Called by `recipe`.
"""

from typing import Any

import torch
from torch import nn

from tunesmith_trainer.packing import PackedRows


def add_noise(model: nn.Module, alpha: float) -> None:
    """Make the embeddings noisy while `model` trains; `alpha` 0 changes nothing.

    Uniform between plus and minus alpha / sqrt(length * width), drawn from torch's generator.
    """
    if not alpha:
        return
    lengths: list[torch.Tensor | int] = [1]

    def look(_: nn.Module, __: tuple[Any, ...], options: dict[str, Any]) -> None:
        packed: PackedRows | None = options.get("packed_rows")
        lengths[0] = options["input_ids"].shape[1] if packed is None else packed.row_lengths()

    def disturb(module: nn.Module, _: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor | None:
        if not module.training:
            return None
        size = torch.as_tensor(lengths[0], device=output.device) * output.shape[-1]
        strength = (alpha / size.to(torch.float32).sqrt()).to(output.dtype)
        noise = torch.empty_like(output).uniform_(-1, 1)
        return output + noise * strength.reshape(1, -1, 1)

    model.register_forward_pre_hook(look, with_kwargs=True)
    model.get_input_embeddings().register_forward_hook(disturb)  # type: ignore[operator]
