"""The prepare stage: conversations in, rows of tokens out, before a GPU is taken.

Everything that can be wrong with a job's inputs is found here: no write permission, no model, no
data, bad rows. Called by ``__main__``. Doing it again finds what an earlier attempt has finished.
"""

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import orjson

from tunesmith_api.gates import unmeasured
from tunesmith_api.result import Outcome, Phase, TrainerResult, UserErrorReason
from tunesmith_api.run import TrainingRun
from tunesmith_trainer import VERSION
from tunesmith_trainer.data.dating import date_shown
from tunesmith_trainer.data.gathering import Gathered, Gatherer
from tunesmith_trainer.data.newtokens import NewTokens
from tunesmith_trainer.data.prepared import (
    SPLITS,
    PreparedMeta,
    Written,
    load_split,
    write_split,
)
from tunesmith_trainer.data.prompting import Prompting
from tunesmith_trainer.data.reading import Reading
from tunesmith_trainer.data.splitting import Sides
from tunesmith_trainer.data.spreading import spare_processes
from tunesmith_trainer.data.templates import load_extended, used_template
from tunesmith_trainer.data.tokenizing import RowTokenizer
from tunesmith_trainer.description import describe
from tunesmith_trainer.disk import Forecast
from tunesmith_trainer.generating import generated_answers
from tunesmith_trainer.gguf.file import check_gguf
from tunesmith_trainer.keys import check_keys
from tunesmith_trainer.logs import log
from tunesmith_trainer.outcome import UserError
from tunesmith_trainer.progress import Progress
from tunesmith_trainer.sources import (
    check_vocabulary,
    fetch_tokenizer,
    vocabulary_size,
)
from tunesmith_trainer.stopping import StopSignal
from tunesmith_trainer.storage import Storage, Store, open_store
from tunesmith_trainer.storage.fence import Fence
from tunesmith_trainer.storage.locations import as_prefix
from tunesmith_trainer.storage.manifest import (
    Damaged,
    check_listing,
    commit_directory,
    read_manifest,
)
from tunesmith_trainer.tracking.services import check_tracking


def prepare(run: TrainingRun, work: Path, progress: Progress, stop: StopSignal) -> TrainerResult:
    """Fetch, check, clean, split and tokenize the data, and commit it below the run's prefix.

    Raises TrainerError in all its kinds.
    """
    output = open_store(run.run_uri, run.s3, "output", stop)
    output.check_writable(run.run_uri)
    _check_services(run)
    fence = Fence(output, run.run_uri, run.attempt)
    fence.claim()
    if earlier := _earlier(output, run):
        return _result(run, earlier, "An earlier attempt had prepared")

    progress.enter(Phase.READING)
    model = fetch_tokenizer(run, work / "model", progress=progress, stop=stop)
    tokenizer, tokens = load_extended(model.path, run.dataset)
    check_gguf(run, model.path, tokenizer, tokens)
    gathered = gather(run, output, work, progress, stop)

    progress.enter(Phase.TOKENIZING)
    rows = row_tokenizer(run, tokenizer, gathered.reading)
    splits = write_splits(rows, gathered.sides, work / "prepared", _looking_up(progress, stop))
    _check_highest(run, model.path, tokens, splits)
    meta = describe(
        run,
        gathered,
        splits,
        rows.counts,
        model=model,
        template=used_template(tokenizer, run.dataset),
        template_date=date_shown(tokenizer),
        tokens=tokens,
    )
    said = tokens.sentences(load_split(work / "prepared", "train").tokens)
    meta = meta.model_copy(update={"notes": tuple(said)})

    progress.enter(Phase.UPLOADING)
    meta.write(work / "prepared")
    commit(run, output, work / "prepared", meta, fence=fence, progress=progress)
    return _result(run, meta, "Prepared")


def _check_services(run: TrainingRun) -> None:
    """Refuse what could not end well, before anything is fetched or a GPU is taken."""
    check_gates(run)
    check_push(run)
    check_tracking(run)
    check_keys(run)


def _check_highest(
    run: TrainingRun, model: Path, tokens: NewTokens, splits: dict[str, Written]
) -> None:
    """Refuse rows with a token that the model has no embedding for, after it got its new ones."""
    highest = max(split.highest for split in splits.values())
    size = vocabulary_size(run, model)
    check_vocabulary(run, size and max(size, tokens.rows), highest)


def gather(
    run: TrainingRun, output: Store, work: Path, progress: Progress, stop: StopSignal
) -> Gathered:
    """Read, clean and split the rows of all sources; `output` keeps a generator's answers."""
    return Gatherer(
        dataset=run.dataset,
        objective=run.objective,
        seed=run.hyperparameters.seed,
        storage=cache(lambda: Storage.open(run.s3, "dataset", stop=stop)),
        directory=work / "data",
        progress=progress,
        stop=stop,
        ask_generator=lambda asked: generated_answers(
            run, asked, output, work, progress=progress, stop=stop
        ),
    ).gather()


def row_tokenizer(run: TrainingRun, tokenizer: Any, reading: Reading) -> RowTokenizer:
    """Give what makes tokens of rows, with the help of the container's other CPUs."""
    return RowTokenizer(
        tokenizer,
        run.hyperparameters.max_sequence_length,
        run.dataset.checks.too_long,
        reading,
        Prompting(run.dataset.prompt),
        objective=run.objective,
        workers=spare_processes(),
    )


def write_splits(
    rows: RowTokenizer, sides: Sides, directory: Path, on_rows: Callable[[int], None]
) -> dict[str, Written]:
    """Tokenize the rows of all sides into files of their own. Raises Infrastructure (DiskFull)."""
    forecast = Forecast(directory, sum(map(len, sides)), "the tokens of all rows")

    def count(done: int) -> None:
        on_rows(done)
        forecast.add(done)

    with forecast.told():
        return {
            name: write_split(directory, name, rows.tokenize(getattr(sides, name), count))
            for name in SPLITS
        }


def check_gates(run: TrainingRun) -> None:
    """Refuse a gate that could only be Inconclusive, after all the training."""
    if mistake := unmeasured(run.evaluation, run.objective):
        raise UserError(UserErrorReason.INVALID_RUN, mistake)


def check_push(run: TrainingRun) -> None:
    """Find out whether the result could be pushed to the Hub, where that is asked for."""
    if run.output.hugging_face:
        # Imported here: the Hub's client takes a second to load and most runs do not need it.
        from tunesmith_trainer.pushing import check_hub

        check_hub(run.output.hugging_face)


def prepared_uri(run: TrainingRun) -> str:
    """Return the prefix that prepared data is committed to."""
    return as_prefix(run.run_uri) + "prepared/"


def inputs_digest(run: TrainingRun) -> str:
    """Return a digest of all that prepared data depends on."""
    inputs = (
        VERSION,
        run.model.model_dump(mode="json"),
        run.dataset.model_dump(mode="json"),
        run.objective.value,
        run.hyperparameters.max_sequence_length,
        run.hyperparameters.seed,
    )
    return hashlib.sha256(orjson.dumps(inputs, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _looking_up(progress: Progress, stop: StopSignal) -> Callable[[int], None]:
    def on_rows(count: int) -> None:
        stop.check()
        progress.touch(count)

    return on_rows


def commit(
    run: TrainingRun,
    output: Store,
    directory: Path,
    meta: PreparedMeta,
    *,
    fence: Fence,
    progress: Progress,
) -> None:
    """Upload what was prepared, so that an attempt on the same inputs finds it."""
    commit_directory(
        output,
        directory,
        prepared_uri(run),
        attempt=run.attempt,
        extra={"inputs": inputs_digest(run), "meta": meta.model_dump_json(by_alias=True)},
        fence=fence,
        on_bytes=progress.touch,
    )


def _earlier(output: Store, run: TrainingRun) -> PreparedMeta | None:
    try:
        found = read_manifest(output, prepared_uri(run))
        if found is None or found.manifest.extra.get("inputs") != inputs_digest(run):
            return None
        check_listing(output, found)
        return PreparedMeta.model_validate_json(found.manifest.extra["meta"])
    except (Damaged, KeyError, ValueError) as error:
        log.warning("earlier prepared data is not used", error=str(error))
        return None


def _result(run: TrainingRun, meta: PreparedMeta, did: str) -> TrainerResult:
    rows, placement = meta.data.rows, meta.placement
    return TrainerResult(
        stage=run.stage,
        attempt=run.attempt,
        outcome=Outcome.SUCCEEDED,
        reason="Prepared",
        message=(
            f"{did} {rows.train} rows to train on, {rows.validation} to validate on and"
            f" {rows.test} to judge on ({meta.data.tokens.train} tokens)."
            + (f" {placement.reason}" if placement and placement.reason else "")
            + "".join(f" {note}" for note in meta.notes)
        ),
        data=meta.data,
        dataset_digest=meta.dataset_digest,
        model_revision=meta.model_revision,
        placement=placement,
    )
