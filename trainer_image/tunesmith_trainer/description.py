"""What was prepared, in numbers: counts, digest, and where the model would be placed.

Called by ``prepare`` when all rows are tokenized. Reads rows and writes nothing.
"""

import hashlib
from pathlib import Path

from tunesmith_api.datastatus import DataStatus, RowCounts, TokenCounts
from tunesmith_api.result import UserErrorReason
from tunesmith_api.run import TrainingRun
from tunesmith_api.sharding import Placement
from tunesmith_api.templating import Template
from tunesmith_trainer.data.gathering import Gathered
from tunesmith_trainer.data.newtokens import NONE, NewTokens
from tunesmith_trainer.data.prepared import PreparedMeta, Written
from tunesmith_trainer.data.splitting import Sides
from tunesmith_trainer.data.tokenizing import Tokenizing
from tunesmith_trainer.outcome import UserError
from tunesmith_trainer.sources import FetchedModel


def describe(
    run: TrainingRun,
    gathered: Gathered,
    splits: dict[str, Written],
    counts: Tokenizing,
    *,
    model: FetchedModel,
    template: Template,
    template_date: str = "",
    tokens: NewTokens = NONE,
) -> PreparedMeta:
    """Give all that is said of prepared data.

    Raises UserError (NothingToTrainOn, DatasetTooSmall, those of too many malformed rows) where too
    little is left.
    """
    gathered.reading.finish()
    _check_remaining(splits, gathered.sides, counts)
    data = _data_status(run, gathered, splits, counts, template)
    return PreparedMeta(
        data=data.model_copy(update={"template_date": template_date}),
        dataset_digest=_digest(gathered.sides),
        model_revision=model.revision,
        template=template.value,
        max_sequence_length=run.hyperparameters.max_sequence_length,
        seed=run.hyperparameters.seed,
        unsupervised=counts.unsupervised,
        dropped=(*gathered.reading.samples.rows, *gathered.tally.samples),
        placement=_place(run, model.path, splits["train"].longest, tokens),
    )


def _check_remaining(splits: dict[str, Written], sides: Sides, counts: Tokenizing) -> None:
    why = (
        f"{counts.too_long} rows are longer than hyperparameters.maxSequenceLength and"
        f" {counts.unsupervised} have no answer to learn"
    )
    if not splits["train"].rows:
        raise UserError(
            UserErrorReason.NOTHING_TO_TRAIN_ON,
            f"None of the {len(sides.train)} training rows has a token that would be trained on:"
            f" {why}. Give rows with answers of the assistant, or raise the limit.",
        )
    for name in ("validation", "test"):
        if getattr(sides, name) and not splits[name].rows:
            raise UserError(
                UserErrorReason.DATASET_TOO_SMALL,
                f"No {name} row is left: {why}. Raise dataset.{name}.percent or the limit.",
            )


def _data_status(
    run: TrainingRun,
    gathered: Gathered,
    splits: dict[str, Written],
    counts: Tokenizing,
    template: Template,
) -> DataStatus:
    train = splits["train"]
    return DataStatus(
        format=gathered.format,
        sources=gathered.sources,
        template=template.value,
        prompt_version=run.dataset.prompt.name,
        rows=RowCounts(
            read=gathered.reading.rows,
            malformed=gathered.reading.malformed,
            duplicates=gathered.tally.duplicates,
            cleaned=gathered.tally.cleaned,
            filtered=gathered.reading.filtered,
            synthetic=gathered.synthetic,
            unsupervised=counts.unsupervised,
            too_long=counts.too_long,
            **{name: split.rows // run.objective.sides for name, split in splits.items()},
        ),
        tokens=TokenCounts(train=train.tokens, supervised=train.supervised, longest=train.longest),
        dropped=gathered.tally.dropped(),
        masked=gathered.tally.masked_pieces(),
    )


def _digest(sides: Sides) -> str:
    """Return the sha256 over the rows of each side in order; the same on every machine."""
    digest = hashlib.sha256()
    for name, rows in sides._asdict().items():
        digest.update(f"{name} {len(rows)}\n".encode())
        for row in rows:
            digest.update(row.content + b"\n")
    return "sha256:" + digest.hexdigest()


def _place(run: TrainingRun, model_path: Path, longest: int, tokens: NewTokens) -> Placement | None:
    if run.planned_gpus is None:
        return None
    # Imported here: torch takes seconds to load, and a run on a CPU has nothing to place.
    from tunesmith_trainer.memory import read_shape, with_tokens
    from tunesmith_trainer.placing import place

    shape = with_tokens(read_shape(model_path), tokens.rows, len(tokens.ids))
    return place(shape, run, longest)
