"""Update rules over the trainable weights.

Called by `recipe`. Must not know about steps; the loop sets the learning rate before each.
"""

import torch
from torch import nn

from tunesmith_api.result import UserErrorReason
from tunesmith_api.training import Hyperparameters, Optimizer
from tunesmith_trainer.embeddings import ROWS_NAME
from tunesmith_trainer.outcome import UserError
from tunesmith_trainer.sharding import trained_weights


def build_optimizer(model: nn.Module, settings: Hyperparameters) -> torch.optim.Optimizer:
    """Give the update rule that `settings` name.

    AdamW (Loshchilov and Hutter 2017, arXiv:1711.05101), the same with its state in 8 bits
    (Dettmers et al. 2021, arXiv:2110.02861), or Adafactor (Shazeer and Stern 2018,
    arXiv:1804.04235). Only matrices decay: pulling norms and biases to zero hurts and regularizes
    nothing, and embeddings of new tokens would go to zero wherever a token is rare. Raises
    UserError InvalidRun for what the device cannot do.
    """
    weights = trained_weights(model)
    decaying = {name: p.ndim >= 2 and ROWS_NAME not in name for name, p in weights.items()}
    decay, rate = float(settings.weight_decay), float(settings.learning_rate)
    groups = [
        {"params": [p for name, p in weights.items() if decaying[name]], "weight_decay": decay},
        {"params": [p for name, p in weights.items() if not decaying[name]], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    device = next(iter(weights.values())).device.type
    match settings.optimizer:
        case Optimizer.ADAMW:
            return torch.optim.AdamW(groups, lr=rate, fused=device in {"cpu", "cuda"})
        case Optimizer.ADAMW_8BIT:
            return _adamw_8bit(groups, rate, device)
        case Optimizer.ADAFACTOR:
            return torch.optim.Adafactor(groups, lr=rate)


def _adamw_8bit(groups: list[dict], rate: float, device: str) -> torch.optim.Optimizer:
    if device != "cuda":
        raise UserError(
            UserErrorReason.INVALID_RUN,
            "hyperparameters.optimizer AdamW8bit needs a GPU. Use AdamW or Adafactor, or ask for "
            "one with compute.gpusPerNode.",
        )
    from bitsandbytes.optim import AdamW8bit

    return AdamW8bit(groups, lr=rate)
