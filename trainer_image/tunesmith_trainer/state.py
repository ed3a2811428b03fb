"""What of a training run is not in the weights: counters, early stopping, generators of chance.

Saved and restored by `checkpoints`, changed by `loop`. Knows nothing of steps or S3.
"""

import io
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch.distributed.tensor import DTensor

from tunesmith_api.training import EarlyStopping
from tunesmith_trainer.evaluation import Judgement

_MT19937 = "MT19937"


class TrainState(BaseModel):
    """Counters of a run, over all its attempts."""

    model_config = ConfigDict(extra="forbid")

    step: int = 0
    """Optimizer steps done; also the index of the next one."""
    tokens: int = 0
    """Tokens without padding that were trained on."""
    looked_at_step: int = 0
    """Step of the last look at the validation loss. A checkpoint taken before a look that is due
    makes the next attempt take it."""
    best_validation_loss: float | None = None
    looks_without_improvement: int = 0
    stopped_early: bool = False
    base: Judgement | None = None
    """Of the base model where training changes its weights, so that it cannot be asked again."""

    def look_is_due(self, settings: EarlyStopping) -> bool:
        """Whether the validation loss is to be measured before the next step."""
        return (
            self.step > 0
            and self.step % settings.every_steps == 0
            and self.looked_at_step != self.step
        )

    def note_validation_loss(self, loss: float, settings: EarlyStopping) -> None:
        """Count a look, and stop where `patience` of them in a row brought no improvement."""
        self.looked_at_step = self.step
        best = self.best_validation_loss
        if best is None or loss < best - float(settings.min_delta):
            self.best_validation_loss = loss
            self.looks_without_improvement = 0
            return
        self.looks_without_improvement += 1
        self.stopped_early = self.looks_without_improvement >= settings.patience


@dataclass(frozen=True)
class Chance:
    """The state of all generators of this process, as tensors and plain values.

    Plain, so that torch.load(weights_only=True) reads it back.
    """

    values: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def capture(cls) -> "Chance":
        """Take the state of python's, numpy's and torch's generators, and of the current GPU's."""
        version, words, gauss = random.getstate()
        _, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
        values: dict[str, Any] = {
            "python": [version, list(words), gauss],
            "numpy": [torch.from_numpy(np.array(keys)), int(position), int(has_gauss), cached],
            "torch": torch.get_rng_state(),
        }
        if torch.cuda.is_available():
            values["cuda"] = torch.cuda.get_rng_state()
        return cls(values)

    def to_bytes(self) -> bytes:
        """Give the state as a file's content, to be sent between ranks, which tensors cannot."""
        buffer = io.BytesIO()
        torch.save(self.values, buffer)
        return buffer.getvalue()

    @classmethod
    def load(cls, path: Path) -> "Chance":
        """Read what `to_bytes` gave; never unpickles."""
        return cls(torch.load(path, map_location="cpu", weights_only=True))

    def restore(self) -> None:
        """Set all generators to this state. A GPU's is left alone if it was not captured."""
        version, words, gauss = self.values["python"]
        random.setstate((version, tuple(words), gauss))
        keys, position, has_gauss, cached = self.values["numpy"]
        np.random.set_state((_MT19937, keys.numpy(), position, has_gauss, cached))
        torch.set_rng_state(self.values["torch"])
        if "cuda" in self.values and torch.cuda.is_available():
            torch.cuda.set_rng_state(self.values["cuda"])


def host_copy(value: Any, *, keep: bool = True) -> Any:
    """Give a copy of nested dicts, lists and tensors, the tensors whole and in host memory.

    Where tensors are in parts, all ranks must call this; one that does not `keep` the copy gets
    None in their place.
    """
    if isinstance(value, DTensor):
        value = value.full_tensor()
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True).contiguous() if keep else None
    if isinstance(value, dict):
        return {key: host_copy(item, keep=keep) for key, item in value.items()}
    if isinstance(value, list):
        return [host_copy(item, keep=keep) for item in value]
    return value


def seed_everything(seed: int, rank: int) -> None:
    """Start all generators anew, differently on every rank: dropout must not repeat itself."""
    mixed = int(np.random.SeedSequence([seed, rank]).generate_state(1)[0])
    random.seed(mixed)
    np.random.seed(mixed)
    torch.manual_seed(mixed)
