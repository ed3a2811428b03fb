"""Checkpoints: all that is needed to go on as if nothing had happened.

Saving copies the state to host memory; writing it to the local disk and uploading it happen in the
background while training goes on, one at a time. The manifest is last, so a checkpoint is complete
or not there. Called by `recipe`, all
methods on all ranks unless they say otherwise. Nothing is ever unpickled.
"""

import os
import re
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import numpy as arrays
from safetensors.torch import load_file, save_file

from tunesmith_api.meta import Digest
from tunesmith_api.result import CheckpointRef
from tunesmith_trainer.attempt import Attempt
from tunesmith_trainer.logs import log
from tunesmith_trainer.loop import Training
from tunesmith_trainer.outcome import Infrastructure
from tunesmith_trainer.preference import Reference
from tunesmith_trainer.state import Chance, TrainState, host_copy
from tunesmith_trainer.storage import NotFound
from tunesmith_trainer.storage.manifest import (
    Damaged,
    commit_directory,
    fetch_committed,
    read_manifest,
)
from tunesmith_trainer.tracking.session import EVENTS, upload_events

_NAME = re.compile(r"^step-(\d{8,})/")
_WEIGHTS, _OPTIMIZER = "weights.safetensors", "optimizer.pt"
_STATE, _CURVE = "state.json", "metrics.jsonl"
_REFERENCES = "references.safetensors"


class _Saved(BaseModel):
    """state.json."""

    model_config = ConfigDict(extra="forbid")

    ranks: int
    state: TrainState


@dataclass(frozen=True)
class Found:
    """A checkpoint that training goes on from, its files in `directory`."""

    directory: Path
    ref: CheckpointRef
    state: TrainState
    curve: list[str]


@dataclass(frozen=True)
class Search:
    """What became of looking for a checkpoint."""

    found: Found | None
    notes: tuple[str, ...] = ()
    """Sentences about checkpoints that were passed over."""


@dataclass(frozen=True)
class _Snapshot:
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
    def take(cls, training: Training, chances: list[bytes], ranks: int) -> "_Snapshot":
        """Copy what a later step would change."""
        scaler = training.scaler.state_dict() if training.scaler else {}
        return cls(
            step=training.state.step,
            weights={
                name: host_copy(weight.detach())
                for name, weight in training.loss.named_parameters()
                if weight.requires_grad
            },
            optimizer=host_copy({"optimizer": training.optimizer.state_dict(), "scaler": scaler}),
            chances=chances,
            state=_Saved(ranks=ranks, state=training.state).model_dump_json(),
            curve=tuple(training.curve.lines),
            events=training.tracking.events(),
            references=training.pairs.references if training.pairs else {},
        )

    def write(self, directory: Path) -> None:
        """Write all of it into `directory`, over what is there, down to the disk."""
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        save_file(self.weights, directory / _WEIGHTS)
        torch.save(self.optimizer, directory / _OPTIMIZER)
        for rank, content in enumerate(self.chances):
            (directory / _chance_file(rank)).write_bytes(content)
        arrays.save_file(self.references, directory / _REFERENCES)
        (directory / _STATE).write_text(self.state)
        (directory / _CURVE).write_text("".join(f"{line}\n" for line in self.curve))
        (directory / EVENTS).write_bytes(self.events)
        _sync(directory)


class Checkpoints:
    """The checkpoints of one run, below `<run_uri>checkpoints/`."""

    def __init__(self, attempt: Attempt, inputs: Digest) -> None:
        """Look after the checkpoints of a run whose inputs have the digest `inputs`."""
        self._run, self._inputs = attempt.run, inputs
        self._storage, self._fence = attempt.storage, attempt.fence
        self._ranks, self._progress = attempt.ranks, attempt.progress
        self._work = attempt.work / "checkpoints"
        self._prefix = f"{attempt.run.run_uri}checkpoints/"
        self._uploader = ThreadPoolExecutor(1, thread_name_prefix="checkpoint-upload")
        self._uploading: Future[None] | None = None
        self._saved_step = -1

    def save(self, training: Training, chance: Chance) -> None:
        """Save the state after `training.state.step` steps; writing and upload go on afterwards.

        Does nothing where this step is saved already.

        Waits for the upload before. Raises what that failed with, unless S3 was merely away: then
        training goes on, and this newer checkpoint takes its place.
        """
        if training.state.step == self._saved_step:
            return
        self._saved_step = training.state.step
        chances = self._ranks.gather(chance.to_bytes())
        if not self._ranks.is_main:
            return
        self._finish_upload()
        snapshot = _Snapshot.take(training, chances, self._ranks.size)
        self._uploading = self._uploader.submit(self._write_and_upload, snapshot)

    def wait(self) -> None:
        """Wait until the last checkpoint is complete in S3; raise what that failed with."""
        uploading, self._uploading = self._uploading, None
        if uploading:
            uploading.result()

    def search(self) -> Search:
        """Fetch the newest complete checkpoint, or the one before if it is damaged.

        What is newer than the one found, and everything if none is to be used, is deleted: it
        would be taken for this attempt's. The directory is shared by the ranks of a node.
        """
        search = self._search_on_main() if self._ranks.is_main else Search(None)
        search = self._ranks.from_main(search)
        self._progress.noted(search.notes)
        found = search.found
        with self._ranks.one_per_node_first() as is_first:
            if found and is_first and not self._ranks.is_main:
                fetch_committed(self._storage, found.ref.uri, found.directory)
        if found:
            self._saved_step = found.ref.step
        return search

    def delete_all(self) -> None:
        """Delete all checkpoints. On rank 0, after success."""
        self.wait()
        self._storage.delete_prefix(self._prefix)

    def _write_and_upload(self, snapshot: "_Snapshot") -> None:
        directory = self._work / f"step-{snapshot.step:08d}"
        snapshot.write(directory)
        self._upload(directory, snapshot.step)

    def _upload(self, directory: Path, step: int) -> None:
        now = datetime.now(UTC)
        committed = commit_directory(
            self._storage,
            directory,
            f"{self._prefix}{directory.name}/",
            attempt=self._run.attempt,
            extra={"inputs": self._inputs, "time": now.isoformat()},
            fence=self._fence,
            on_bytes=self._progress.touch,
        )
        upload_events(self._storage, self._fence, self._run.run_uri, directory / EVENTS)
        shutil.rmtree(directory)
        self._progress.saved(CheckpointRef(step=step, uri=committed.uri, time=now))
        log.info("checkpoint", step=step, uri=committed.uri)
        for old in self._names()[self._run.checkpoint.keep_last :]:
            self._storage.delete_prefix(f"{self._prefix}{old}")

    def _finish_upload(self) -> None:
        try:
            self.wait()
        except Infrastructure as error:
            log.warning("checkpoint lost", reason=error.reason, message=error.message)

    def _names(self) -> list[str]:
        """Give the names of all checkpoints, complete or not, newest first."""
        steps = {
            match[0]
            for info in self._storage.list(self._prefix)
            if (match := _NAME.match(info.relative))
        }
        return sorted(steps, reverse=True)

    def _search_on_main(self) -> Search:
        names = self._names()
        notes: list[str] = []
        found: Found | None = None
        passed_over: list[str] = []
        try:
            if self._run.checkpoint.resume == "Never":
                raise _StartAnew("checkpoint.resume is Never")
            for name in names:
                found = self._fetch(name, notes)
                if found:
                    break
                passed_over.append(name)
        except _StartAnew as reason:
            notes.append(f"Started from the beginning: {reason}.")
            passed_over = names
        for name in passed_over:
            self._fence.check()
            self._storage.delete_prefix(f"{self._prefix}{name}")
        return Search(found, tuple(notes) if names else ())

    def _fetch(self, name: str, notes: list[str]) -> Found | None:
        """Fetch and check one; give None, with a note if it is damaged, where it is no use."""
        directory = self._work / "resumed" / name
        step = int(name[5:-1])
        try:
            head = read_manifest(self._storage, f"{self._prefix}{name}")
            if head is None:
                return None  # the upload was cut off; nothing was promised
            if head.manifest.extra["inputs"] != self._inputs:
                raise _StartAnew("the checkpoints are of a run with other inputs")
            fetch_committed(self._storage, head.uri, directory, self._progress.touch)
            saved = _Saved.model_validate_json((directory / _STATE).read_bytes())
        except (Damaged, NotFound, KeyError, ValidationError) as error:
            notes.append(f"The checkpoint of step {step} is damaged and was passed over: {error}.")
            log.warning("checkpoint damaged", step=step, error=str(error))
            return None
        time = datetime.fromisoformat(head.manifest.extra["time"])
        ref = CheckpointRef(step=step, uri=head.uri, time=time)
        lines = (directory / _CURVE).read_text().splitlines()
        return Found(directory, ref, saved.state, lines)


class _StartAnew(Exception):
    """No checkpoint is to be used, whatever is there."""


def restore(training: Training, found: Found) -> None:
    """Set weights, optimizer and generators to the checkpoint's; on every rank."""
    weights = dict(training.loss.named_parameters())
    with torch.no_grad():
        for name, saved in load_file(found.directory / _WEIGHTS).items():
            weights[name].copy_(saved)
    extra = torch.load(found.directory / _OPTIMIZER, map_location="cpu", weights_only=True)
    training.optimizer.load_state_dict(extra["optimizer"])
    if training.scaler and extra["scaler"]:
        training.scaler.load_state_dict(extra["scaler"])
    if training.pairs:
        training.pairs.references.update(arrays.load_file(found.directory / _REFERENCES))
    chance = found.directory / _chance_file(training.ranks.rank)
    # With more ranks than before, the new ones keep the generators they were seeded with.
    if chance.exists():
        Chance.load(chance).restore()


def _chance_file(rank: int) -> str:
    return f"chance-{rank:05d}.pt"


def _sync(directory: Path) -> None:
    """Wait until all files of a directory are on the disk."""
    for path in directory.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
