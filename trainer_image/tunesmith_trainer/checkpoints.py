"""Checkpoints: all that is needed to go on as if nothing had happened.

Saving copies the state to host memory; writing it to the local disk and uploading it happen in the
background while training goes on, one at a time. The manifest is last, so a checkpoint is complete
or not there. Called by `recipe`, all methods on all ranks unless they say otherwise. Nothing is
ever unpickled.
"""

import json
import re
import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from tunesmith_api.meta import Digest
from tunesmith_api.result import CheckpointRef, UserErrorReason
from tunesmith_trainer.attempt import Attempt
from tunesmith_trainer.curve import METRICS
from tunesmith_trainer.logs import log
from tunesmith_trainer.loop import Training
from tunesmith_trainer.outcome import Infrastructure, UserError
from tunesmith_trainer.snapshot import STATE, Saved, Snapshot
from tunesmith_trainer.state import Chance, TrainState
from tunesmith_trainer.storage import NotFound
from tunesmith_trainer.storage.manifest import (
    Damaged,
    commit_directory,
    fetch_committed,
    read_manifest,
)
from tunesmith_trainer.tracking.session import EVENTS, upload_events

_NAME = re.compile(r"^step-(\d{8,})/")
_INPUTS = TypeAdapter(dict[str, Digest])


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


class Checkpoints:
    """The checkpoints of one run, below `<run_uri>checkpoints/`."""

    def __init__(self, attempt: Attempt, inputs: Mapping[str, Digest]) -> None:
        """Look after the checkpoints of a run whose inputs have the digests `inputs`."""
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
            if self._ranks.is_sharded:
                Snapshot.take(training, chances, self._ranks)
            return
        self._finish_upload()
        snapshot = Snapshot.take(training, chances, self._ranks)
        self._uploading = self._uploader.submit(self._write_and_upload, snapshot)

    def wait(self) -> None:
        """Wait until the last checkpoint is complete in S3; raise what that failed with."""
        uploading, self._uploading = self._uploading, None
        if uploading:
            uploading.result()

    def search(self) -> Search:
        """Fetch the newest complete checkpoint, or the one before if it is damaged.

        What is newer than the one found, and everything if none is to be used, is deleted: it
        would be taken for this attempt's. The directory is shared by the ranks of a node. Raises
        UserError CheckpointMismatch where they are of a run with other inputs.
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

    def _write_and_upload(self, snapshot: Snapshot) -> None:
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
            extra={"inputs": json.dumps(self._inputs), "time": now.isoformat()},
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
            self._check_inputs(_INPUTS.validate_json(head.manifest.extra["inputs"]))
            fetch_committed(self._storage, head.uri, directory, self._progress.touch)
            saved = Saved.model_validate_json((directory / STATE).read_bytes())
        except (Damaged, NotFound, KeyError, ValidationError) as error:
            notes.append(f"The checkpoint of step {step} is damaged and was passed over: {error}.")
            log.warning("checkpoint damaged", step=step, error=str(error))
            return None
        time = datetime.fromisoformat(head.manifest.extra["time"])
        ref = CheckpointRef(step=step, uri=head.uri, time=time)
        lines = (directory / METRICS).read_text().splitlines()
        return Found(directory, ref, saved.state, lines)

    def _check_inputs(self, saved: dict[str, Digest]) -> None:
        names = sorted(self._inputs.keys() | saved.keys())
        others = [name for name in names if saved.get(name) != self._inputs.get(name)]
        if others:
            raise UserError(
                UserErrorReason.CHECKPOINT_MISMATCH,
                f"The checkpoints in {self._prefix} are of a run that differs in "
                f"{' and '.join(others)}. Set checkpoint.resume to Never to delete them and train "
                "from the beginning, or give the run another name or output to keep them.",
            )


class _StartAnew(Exception):
    """No checkpoint is to be used, whatever is there."""
