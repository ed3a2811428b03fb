"""What a run starts from: prepared rows, the base model's files, and digests over all of it.

Called by `recipe` on all ranks; the digests are compared by `checkpoints` and `report`.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith_api.meta import Digest, Spec
from tunesmith_api.result import PREPARED_DATA_LOST, UserErrorReason
from tunesmith_api.run import TrainingRun
from tunesmith_trainer.attempt import Attempt
from tunesmith_trainer.data.newtokens import NewTokens
from tunesmith_trainer.data.prepared import PreparedData
from tunesmith_trainer.data.templates import load_extended
from tunesmith_trainer.outcome import Infrastructure, UserError
from tunesmith_trainer.sources import fetch_model
from tunesmith_trainer.storage import NotFound
from tunesmith_trainer.storage.manifest import Damaged, fetch_committed


@dataclass(frozen=True)
class Inputs:
    """What the steps of a run depend on, besides its own settings."""

    data: PreparedData
    base_path: Path
    """Files of the base model."""
    revision: str
    """Commit or digest of the base model."""
    tokenizer: Any
    """The base model's, with the tokens that the run adds."""
    tokens: NewTokens
    """Those tokens."""
    parts: Mapping[str, Digest]
    """What decides the steps, by its name in the spec: same digests, same steps."""

    @property
    def digest(self) -> Digest:
        """The digest over all parts: same digest, same steps."""
        return digest_of(dict(self.parts))


def fetch_inputs(attempt: Attempt) -> Inputs:
    """Fetch prepared rows and base model to the local disk, once a node.

    Raises UserError NothingToTrainOn or what the sources raise, and Infrastructure where prepared
    data is missing or damaged.
    """
    run, ranks, work = attempt.run, attempt.ranks, attempt.work
    prepared, touch = work / "prepared", attempt.progress.touch
    fetched = ("", "")
    with ranks.one_per_node_first() as is_first:
        if is_first:
            try:
                fetch_committed(attempt.storage, f"{run.run_uri}prepared/", prepared, touch)
            except (NotFound, Damaged) as error:
                raise Infrastructure(PREPARED_DATA_LOST, f"The prepared data: {error}") from error
            path, revision = fetch_model(
                run, work / "model", progress=attempt.progress, stop=attempt.stop
            )
            fetched = (str(path), revision)
    # Every node has the same paths: the pods are made from one template.
    base_path, revision = ranks.from_main(fetched)
    data = PreparedData.load(prepared)
    if not len(data.train):
        raise UserError(
            UserErrorReason.NOTHING_TO_TRAIN_ON, "The prepared data has no rows to train on."
        )
    parts = inputs_parts(run, data.meta.dataset_digest, revision, ranks.size)
    tokenizer, tokens = load_extended(Path(base_path), run.dataset)
    return Inputs(data, Path(base_path), revision, tokenizer, tokens, parts)


def global_batch_size(run: TrainingRun, ranks: int) -> int:
    """Give the rows of an optimizer step."""
    settings = run.hyperparameters
    return settings.per_device_batch_size * settings.gradient_accumulation_steps * ranks


def inputs_parts(
    run: TrainingRun, dataset_digest: Digest, revision: str, ranks: int
) -> dict[str, Digest]:
    """Give the sha256 of each thing that decides the steps of a run, by its name in the spec.

    Of the batch only its global size counts: an attempt with half the micro-batch and twice the
    accumulation, as after running out of memory, goes on where the one before stopped. Attempt,
    checkpoint policy, evaluation and output are no inputs of the steps. What has its default is
    left out, so that a trainer that has learnt a new setting goes on as well.
    """
    batch_split = {"per_device_batch_size", "gradient_accumulation_steps"}

    def told(section: Spec | None, without: set[str] | None = None) -> object:
        return section and section.model_dump(mode="json", exclude=without, exclude_defaults=True)

    added = [run.dataset.add_tokens, run.dataset.add_special_tokens]
    parts = {
        "model": [run.model.uri, revision],
        "objective": [run.objective.value, told(run.dpo)],
        "method": told(run.method),
        "dataset": dataset_digest,
        "dataset.template": [run.dataset.template.value, run.dataset.custom_template],
        "dataset.prompt": told(run.dataset.prompt),
        "hyperparameters": told(run.hyperparameters, batch_split),
        "the rows of a step": global_batch_size(run, ranks),
    }
    if any(added):
        parts["dataset.addTokens"] = added
    return {name: digest_of(part) for name, part in parts.items()}


def digest_of(value: object) -> Digest:
    """Give the sha256 of a value as JSON, its keys in order."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()
