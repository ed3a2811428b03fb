"""Small train stages on the tiny model and a real S3 server, and ways to disturb them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.state import AcceleratorState
from transformers import AutoTokenizer

from tests.trainer.conftest import Bucket
from tunesmith_api.datastatus import DataStatus, RowCounts
from tunesmith_api.report import TrainingReport
from tunesmith_api.result import TrainerResult
from tunesmith_api.run import TrainingRun
from tunesmith_trainer.data.prepared import SPLITS, PreparedData, PreparedMeta, Split, write_split
from tunesmith_trainer.progress import Progress
from tunesmith_trainer.recipe import fine_tune
from tunesmith_trainer.stopping import StopSignal
from tunesmith_trainer.storage import Storage
from tunesmith_trainer.storage.manifest import commit_directory, read_manifest
from tunesmith_trainer.tiny import write_tiny

# Threads that wait for each other in a spin make such small models slower, not faster.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)

WORDS = ("alpha", "beta", "gamma", "delta")
OTHERS = ("omega", "iota", "kappa", "theta")
DIGEST = "sha256:" + "0" * 64


@cache
def tiny_tokenizer(folder: Path) -> Any:
    write_tiny(folder)
    return AutoTokenizer.from_pretrained(folder)


def echo_rows(count: int, seed: int, tokenizer: Any) -> Split:
    """Rows of differing length that a small model can learn: repeat the word so many times."""
    chance = np.random.default_rng(seed)
    asked = [_question(chance) for _ in range(count)]
    return split_of([(f"{w} {n}", " ".join([w] * n)) for w, n in asked], tokenizer)


def echo_pairs(count: int, seed: int, tokenizer: Any) -> Split:
    """Pairs of rows: the better answer repeats the word, the worse one a word as long."""
    chance = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        word, times = _question(chance)
        other = OTHERS[WORDS.index(word)]
        rows += [(f"{word} {times}", " ".join([said] * times)) for said in (word, other)]
    return split_of(rows, tokenizer)


def _question(chance: np.random.Generator) -> tuple[str, int]:
    times, word = int(chance.integers(1, 5)), WORDS[int(chance.integers(4))]
    return word, times


def split_of(rows: list[tuple[str, str]], tokenizer: Any) -> Split:
    """Tokenize questions with their answers, of which the loss is taken."""
    tokens: list[int] = []
    supervised: list[int] = []
    offsets = [0]
    for question, answer in rows:
        asked = [{"role": "user", "content": question}]
        answered = [*asked, {"role": "assistant", "content": answer}]
        prompt = tokenizer.apply_chat_template(
            asked, add_generation_prompt=True, tokenize=True, return_dict=False
        )
        whole = tokenizer.apply_chat_template(answered, tokenize=True, return_dict=False)
        tokens += whole
        supervised += [0] * len(prompt) + [1] * (len(whole) - len(prompt))
        offsets.append(len(tokens))
    return Split(
        np.array(tokens, np.int32), np.array(offsets, np.int64), np.array(supervised, np.uint8)
    )


class Watcher(Progress):
    """A record that does something when a step is done."""

    def __init__(self, run: TrainingRun, at_step: int, act: Callable[[], None]) -> None:
        super().__init__(run.stage, run.attempt)
        self._at_step, self._act = at_step, act

    def advance(self, step: int, **values: Any) -> None:
        super().advance(step, **values)
        if step == self._at_step:
            self._act()


class PodLost(BaseException):
    """Ends an attempt in the middle, with no chance to save anything."""


@dataclass
class Trial:
    """One run and its attempts. `sections` are those of the TrainingRun, in API spelling."""

    bucket: Bucket
    make_run: Callable[..., TrainingRun]
    folder: Path
    name: str = "u-1"
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    sections: dict[str, Any] = field(default_factory=dict)
    rows: tuple[int, int, int] = (24, 4, 6)
    make_rows: Callable[[int, int, Any], Split] = echo_rows
    attempts: int = 0

    def __post_init__(self) -> None:
        tokenizer = tiny_tokenizer(self.folder / "tiny")
        splits = [self.make_rows(count, seed, tokenizer) for seed, count in enumerate(self.rows)]
        rows = RowCounts(train=self.rows[0], validation=self.rows[1], test=self.rows[2])
        meta = PreparedMeta(data=DataStatus(rows=rows), dataset_digest=DIGEST)
        self.data = PreparedData(*splits, meta)
        prepared = self.folder / f"prepared-{self.name}"
        for split_name, split in zip(SPLITS, splits, strict=True):
            write_split(prepared, split_name, map(split.row, range(len(split))))
        meta.write(prepared)
        commit_directory(self.storage, prepared, f"{self.run_uri}prepared/", attempt=1)

    @property
    def run_uri(self) -> str:
        return self.bucket.uri(f"runs/{self.name}/")

    @property
    def storage(self) -> Storage:
        return Storage.open(self.bucket.connection, "output")

    def run(self, attempt: int = 1, **hyperparameters: Any) -> TrainingRun:
        settings = {
            "epochs": "2",
            "learningRate": "5e-3",
            "perDeviceBatchSize": 4,
            "maxSequenceLength": 128,
        }
        given: dict[str, Any] = {
            "stage": "train",
            "attempt": attempt,
            "runUri": self.run_uri,
            "method": {"lora": {"rank": 4, "alpha": 8, "dropout": "0.1"}},
            "checkpoint": {"everySteps": 4},
            "output": {"uri": self.bucket.uri("runs/"), "artifacts": ["Adapter"]},
            "hyperparameters": settings | self.hyperparameters | hyperparameters,
        }
        return self.make_run(**given | self.sections)

    def work(self, attempt: int) -> Path:
        return self.folder / f"work-{self.name}-{attempt}"

    def go(
        self, at_step: int = -1, act: Callable[[], None] | None = None, **hyperparameters: Any
    ) -> TrainerResult:
        """Make another attempt, in a pod of its own as it were."""
        stop = StopSignal()
        # It allows one kind of run a process; every attempt is a new pod.
        AcceleratorState._reset_state(reset_partial_state=True)
        self.attempts += 1
        run = self.run(self.attempts, **hyperparameters)
        progress = Watcher(run, at_step, act or stop.request)
        self.progress = progress
        work = self.work(self.attempts)
        work.mkdir()
        return fine_tune(run, work, progress, stop)

    def lose_pod_with_saved(self, step: int) -> Callable[[], None]:
        """Return an act that ends the attempt once the checkpoint of `step` is whole in S3.

        Its upload goes on beside training, and on a busy machine reaches past the next steps.
        """

        def act() -> None:
            until = time.monotonic() + 200
            while (ref := self.progress.snapshot().checkpoint) is None or ref.step < step:
                assert time.monotonic() < until, f"no checkpoint of step {step}"
                time.sleep(0.01)
            raise PodLost

        return act

    def curve(self) -> list[str]:
        """Give the exact lines of the newest attempt's curve."""
        return (self.work(self.attempts) / "metrics.jsonl").read_text().splitlines()

    def losses(self) -> list[float]:
        return [float(json.loads(line)["loss"]) for line in self.curve()]

    def artifact(self, name: str) -> dict[str, str]:
        """Give the sha256 of the weights of an artifact, by file."""
        found = read_manifest(self.storage, f"{self.run_uri}{name}/")
        assert found is not None
        files = found.manifest.files
        return {f.path: f.sha256 for f in files if f.path.endswith(".safetensors")}

    def fetch(self, name: str) -> Path:
        """Fetch an artifact."""
        found = read_manifest(self.storage, f"{self.run_uri}{name}/")
        assert found is not None
        target = self.folder / f"fetched-{self.name}-{name}"
        self.storage.download_prefix(found.uri, target)
        return target

    def report(self) -> TrainingReport:
        data = self.storage.get_bytes(f"{self.run_uri}report.json")
        return TrainingReport.model_validate_json(data)


def lose_pod() -> None:
    raise PodLost
