"""A checkpoint's files: the state of a run, whole and in host memory, written and read back.

The same whatever number of ranks made them and however these hold the model, so any number can go
on from them. Called by `checkpoints`, which knows when and where to; never unpickles.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError
from safetensors import numpy as arrays
from safetensors.torch import load_file, save_file

from tunesmith_trainer.curve import METRICS
from tunesmith_trainer.distributed import Ranks
from tunesmith_trainer.loop import Training
from tunesmith_trainer.outcome import Infrastructure
from tunesmith_trainer.preference import Reference
from tunesmith_trainer.sharding import placed_like, trained_weights
from tunesmith_trainer.state import Chance, TrainState, host_copy
from tunesmith_trainer.tracking.session import EVENTS

STATE = "state.json"
_WEIGHTS, _OPTIMIZER = "weights.safetensors", "optimizer.pt"
_REFERENCES = "references.safetensors"
_MIB = 1 << 20


class Saved(BaseModel):
    """state.json."""

    model_config = ConfigDict(extra="forbid")

    ranks: int
    state: TrainState


@dataclass(frozen=True)
class Snapshot:
    """A state in host memory, which no later step changes."""

    step: int
    weights: dict[str, torch.Tensor]
    optimizer: dict[str, Any]
    chances: list[bytes]
    """Of each rank."""
    state: str
    """Content of state.json."""
    curve: tuple[str, ...]
    events: bytes
    """Content of TensorBoard's event file."""
    references: dict[str, Reference]
    """With objective DPO; no step changes them."""

    @classmethod
    def take(cls, training: Training, chances: list[bytes], ranks: Ranks) -> "Snapshot":
        """Copy what a later step would change; on other ranks than 0 without any tensors."""
        keep = ranks.is_main
        scaler = training.scaler.state_dict() if training.scaler else {}
        return cls(
            step=training.state.step,
            weights=host_copy(trained_weights(training.loss), keep=keep),
            optimizer=host_copy(
                {"optimizer": training.optimizer.state_dict(), "scaler": scaler}, keep=keep
            ),
            chances=chances,
            state=Saved(ranks=ranks.size, state=training.state).model_dump_json(),
            curve=tuple(training.curve.lines),
            events=training.tracking.events(),
            references=training.pairs.references if training.pairs else {},
        )

    def write(self, directory: Path) -> None:
        """Write all of it into `directory`, over what is there, down to the disk.

        Nothing is left there where that fails. Raises Infrastructure DiskFull.
        """
        shutil.rmtree(directory, ignore_errors=True)
        try:
            self._write(directory)
        except (OSError, RuntimeError, SafetensorError) as error:
            # Also so that there is room to say what has happened.
            shutil.rmtree(directory, ignore_errors=True)
            free = shutil.disk_usage(directory.parent).free
            # torch says of a full disk nothing but "unexpected pos"; its headers are small.
            needed = int(1.05 * _size_bytes([self.weights, self.optimizer]))
            if needed <= free:
                raise
            raise Infrastructure(
                "DiskFull",
                f"The disk of {directory.parent} is full: a checkpoint needs {needed / _MIB:,.1f}"
                f" MiB, {free / _MIB:,.1f} MiB are free. Free some room and run it again, or choose"
                " a larger disk (in a cluster compute.resources.requests.ephemeral-storage).",
            ) from error

    def _write(self, directory: Path) -> None:
        directory.mkdir(parents=True)
        save_file(self.weights, directory / _WEIGHTS)
        torch.save(self.optimizer, directory / _OPTIMIZER)
        for rank, content in enumerate(self.chances):
            (directory / _chance_file(rank)).write_bytes(content)
        arrays.save_file(self.references, directory / _REFERENCES)
        (directory / STATE).write_text(self.state)
        (directory / METRICS).write_text("".join(f"{line}\n" for line in self.curve))
        (directory / EVENTS).write_bytes(self.events)
        _sync(directory)


def _size_bytes(value: Any) -> int:
    """Add up the tensors inside of nested dicts and lists."""
    if isinstance(value, torch.Tensor):
        return value.nbytes
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return sum(map(_size_bytes, inner))


def restore(training: Training, directory: Path) -> None:
    """Set weights, optimizer and generators to those of a checkpoint's files; on every rank."""
    weights = trained_weights(training.loss)
    with torch.no_grad():
        for name, saved in load_file(directory / _WEIGHTS).items():
            weights[name].copy_(placed_like(saved, weights[name]))
    extra = torch.load(
        directory / _OPTIMIZER,
        map_location="cpu",
        weights_only=True,
        # Ranks that share a node need not read all of it into memory to take their parts.
        mmap=training.ranks.is_sharded,
    )
    training.optimizer.load_state_dict(placed(extra["optimizer"], training.optimizer))
    if training.scaler and extra["scaler"]:
        training.scaler.load_state_dict(extra["scaler"])
    if training.pairs:
        training.pairs.references.update(arrays.load_file(directory / _REFERENCES))
    chance = directory / _chance_file(training.ranks.rank)
    # With more ranks than before, the new ones keep the generators they were seeded with.
    if chance.exists():
        Chance.load(chance).restore()


def placed(saved: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Part the whole state of an optimizer as its weights are."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    state = {
        index: {
            name: placed_like(value, weights[index])
            if isinstance(value, torch.Tensor) and value.shape == weights[index].shape
            else value
            for name, value in values.items()
        }
        for index, values in saved["state"].items()
    }
    return saved | {"state": state}


def _chance_file(rank: int) -> str:
    return f"chance-{rank:05d}.pt"


def _sync(directory: Path) -> None:
    """Wait until all files of a directory are on the disk."""
    for path in directory.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
