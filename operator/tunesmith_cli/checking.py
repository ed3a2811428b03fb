"""`tunesmith data check`: what the prepare stage would make of data, without keeping anything.

The same reading, cleaning, splitting and tokenizing as in ``prepare``, with malformed and too
long rows counted and not refused.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import orjson
from rich.table import Table
from rich.text import Text

from tunesmith_api import API_VERSION
from tunesmith_api.attempts import StageName
from tunesmith_api.dataset import DataFormat, Split, TooLong
from tunesmith_api.finetunejob import FineTuneJob
from tunesmith_api.objectives import Objective
from tunesmith_api.report import DroppedSample
from tunesmith_api.result import UserErrorReason
from tunesmith_api.run import JobRef, TrainingRun, sections_of
from tunesmith_cli.jobfile import JOB_FILES, as_uri, load_job, near_by
from tunesmith_cli.local import connection
from tunesmith_cli.mistakes import Refused, one_of
from tunesmith_cli.s3_mistakes import said_plainly
from tunesmith_cli.terminal import out

_BUCKETS = 10
_BAR = 40
_MOST_TEXT = 1500


class Wishes(NamedTuple):
    """Options of the command line; empty or 0 where nothing was said."""

    format: str = ""
    objective: str = ""
    model: str = ""
    limit: int = 0
    """Most tokens of a row."""


class Asked(NamedTuple):
    """What is to be looked at."""

    run: TrainingRun
    objective: Objective | None
    """What the rows are for; None: what their format is for."""
    has_model: bool
    """Whether a model's tokenizer is to count tokens."""
    is_limit_said: bool
    """Whether the length of rows is limited by a job or the user."""
    is_synthetic_left_out: bool = False
    """Whether a generator would write rows besides."""


def read_asked(place: str, wishes: Wishes) -> Asked:
    """Make a run of what the command line names: a job's file, or data. Raises Refused."""
    format_ = one_of(DataFormat, "--format", wishes.format) if wishes.format else None
    objective = one_of(Objective, "--objective", wishes.objective) if wishes.objective else None
    model, limit = wishes.model, wishes.limit
    if Path(place).suffix in JOB_FILES:
        settings = [f"dataset.format={format_}"] if format_ else []
        settings += [f"objective={objective}"] if objective else []
        settings += [f"model.uri={as_uri(model, Path.cwd())}"] if model else []
        settings += [f"hyperparameters.maxSequenceLength={limit}"] if limit else []
        job = load_job(Path(place), settings).job
        is_synthetic = job.spec.dataset.synthetic is not None
        return Asked(_run(job), job.spec.objective, True, True, is_synthetic)
    uri = as_uri(place, Path.cwd())
    file = Path(uri.removeprefix("file://"))
    if uri.startswith("file://") and not file.exists():
        raise Refused(f"{file} does not exist{near_by(file)}")
    spec: dict[str, Any] = {
        "model": {"uri": as_uri(model or "builtin://tiny", Path.cwd())},
        "dataset": {
            "train": {"uri": uri},
            "format": format_ or DataFormat.AUTO,
        },
        # Fits every model; what the rows are is known when they are counted.
        "hyperparameters": {"maxSequenceLength": limit or 8},
        "output": {"uri": "file:///-"},
    }
    document = {"apiVersion": API_VERSION, "metadata": {"name": "check"}, "spec": spec}
    return Asked(_run(FineTuneJob.model_validate(document)), objective, bool(model), bool(limit))


def _run(job: FineTuneJob) -> TrainingRun:
    spec = job.spec
    lenient: dict[str, object] = {"fail_on_malformed": "1", "min_rows": 1}
    if spec.dataset.checks.too_long is TooLong.FAIL:
        lenient["too_long"] = TooLong.DROP
    checks = spec.dataset.checks.model_copy(update=lenient)
    # What a generator would write costs too much to be only looked at.
    dataset = spec.dataset.model_copy(update={"checks": checks, "synthetic": None})
    return TrainingRun(
        job=JobRef(namespace=job.metadata.namespace, name=job.metadata.name, uid=""),
        stage=StageName.PREPARE,
        attempt=1,
        run_uri="file:///-/",
        s3=connection(spec.s3),
        **sections_of(spec) | {"dataset": dataset},
    )


def check_data(asked: Asked, rows: int) -> None:
    """Print what preparation would do, and the first ``rows`` rows. Raises TrainerError."""
    from tunesmith_trainer.outcome import UserError

    with TemporaryDirectory(prefix="tunesmith-check-") as folder:
        try:
            _show(asked, _gather(asked, Path(folder) / "data"), Path(folder), rows)
        except UserError as error:
            if error.reason == UserErrorReason.DATASET_TOO_SMALL:
                # What there is can be looked at all the same.
                whole = _unsplit(asked)
                _show(whole, _gather(whole, Path(folder) / "whole"), Path(folder), rows)
            raise


def _unsplit(asked: Asked) -> Asked:
    """Ask for the same with no rows held out of those to train on."""
    dataset = asked.run.dataset
    sides = {name: getattr(dataset, name) for name in ("validation", "test")}
    none = {name: Split(percent="0") for name, side in sides.items() if side.uri is None}
    run = asked.run.model_copy(update={"dataset": dataset.model_copy(update=none)})
    return asked._replace(run=run)


def _show(asked: Asked, gathered: Any, folder: Path, rows: int) -> None:
    if asked.objective is None:
        is_for_dpo = gathered.format == DataFormat.PREFERENCE
        asked = asked._replace(objective=Objective.DPO if is_for_dpo else Objective.SFT)
    _show_counts(gathered)
    if asked.is_synthetic_left_out:
        out.print("The rows that dataset.synthetic would add are not among them.")
    if asked.has_model:
        _show_tokens(asked, gathered, folder, rows)
    else:
        _show_turns(gathered, rows, asked.objective)
        out.print("With --model, tokens are counted and rows shown as the model sees them.")


def _gather(asked: Asked, directory: Path) -> Any:
    # Imported here and below: what reads data takes a second to load.
    from tunesmith_trainer.data.gathering import Gatherer
    from tunesmith_trainer.progress import Progress
    from tunesmith_trainer.stopping import StopSignal
    from tunesmith_trainer.storage import Storage

    stop, run = StopSignal(), asked.run
    gatherer = Gatherer(
        dataset=run.dataset,
        objective=asked.objective,
        seed=run.hyperparameters.seed,
        storage=cache(lambda: Storage.open(run.s3, "dataset", stop=stop)),
        directory=directory,
        progress=Progress.of(run),
        stop=stop,
    )
    uris = ", ".join(source.uri for source in run.dataset.train.all_sources)
    with said_plainly(uris, run.s3):
        return gatherer.gather()


def _show_counts(gathered: Any) -> None:
    reading, sides = gathered.reading, gathered.sides
    table = Table(title="Rows", title_justify="left", show_header=False, box=None)
    for source in gathered.sources:
        table.add_row(Text(source.uri, overflow="fold"), f"{source.format}, {source.rows} rows")
    table.add_row("read", str(reading.rows))
    table.add_row("malformed", str(reading.malformed))
    for dropped in gathered.tally.dropped():
        table.add_row(f"dropped: {dropped.reason}", str(dropped.rows))
    for masked in gathered.tally.masked_pieces():
        table.add_row(f"masked: {masked.kind}", str(masked.pieces))
    table.add_row("left out by feedback", str(reading.filtered))
    for name in ("train", "validation", "test"):
        table.add_row(f"→ {name}", str(len(getattr(sides, name))))
    out.print(table)
    for example in reading.examples:
        out.print(Text(f"malformed: {example}", style="red"))
    _show_samples(gathered.tally.samples)


def _show_samples(samples: Sequence[DroppedSample]) -> None:
    for sample in samples:
        place = f"{sample.file} line {sample.line}"
        out.print(Text(f"{sample.reason}: {place}: {sample.text}", style="yellow"))


def _settled(asked: Asked, longest: int) -> TrainingRun:
    """Give the run with what was not said: what rows are for, and how long they may be."""
    run, settings = asked.run, asked.run.hyperparameters
    if not asked.is_limit_said:
        limit = min(type(settings)().max_sequence_length, longest)
        settings = settings.model_copy(update={"max_sequence_length": limit})
    said = {"objective": asked.objective or Objective.SFT, "hyperparameters": settings}
    return run.model_copy(update=said)


def _show_tokens(asked: Asked, gathered: Any, directory: Path, rows: int) -> None:
    from tunesmith_trainer.data.prepared import load_split, write_split
    from tunesmith_trainer.data.templates import load_extended, used_template
    from tunesmith_trainer.prepare import row_tokenizer
    from tunesmith_trainer.sources import fetch_tokenizer

    model = fetch_tokenizer(asked.run, directory / "model").path
    tokenizer, added = load_extended(model, asked.run.dataset)
    run = _settled(asked, tokenizer.model_max_length)
    objective, limit = run.objective, run.hyperparameters.max_sequence_length
    maker = row_tokenizer(run, tokenizer, gathered.reading)
    known = len(gathered.reading.samples.rows)
    write_split(directory, "train", maker.tokenize(gathered.sides.train, lambda _: None))
    split = load_split(directory, "train")
    template = used_template(tokenizer, run.dataset)
    out.print(
        f"Tokens of {run.model.uri}, template {template}, objective {objective}, at most {limit} a"
        f" row: {len(split.tokens)} in {len(split)} rows, {int(split.supervised.sum())} of them"
        " learned",
        markup=False,
    )
    for note in added.sentences(split.tokens):
        out.print(note, markup=False)
    if saved := added.saved(split.tokens):
        out.print(f"Without the added tokens there would be about {saved} tokens more.")
    is_cut = run.dataset.checks.too_long is TooLong.TRUNCATE
    _show_losses(maker.counts.too_long, maker.counts.unsupervised, is_cut=is_cut)
    _show_samples(gathered.reading.samples.rows[known:])
    _show_lengths(split.lengths)
    sides = ("chosen", "rejected") if objective is Objective.DPO else ("",)
    for index in range(min(rows * len(sides), len(split))):
        row, side = divmod(index, len(sides))
        _show_row(tokenizer, f"row {row + 1} {sides[side]}".strip(), *split.row(index))


def _show_losses(too_long: int, unsupervised: int, *, is_cut: bool) -> None:
    if too_long or unsupervised:
        out.print(
            f"{'cut or ' * is_cut}left out: {too_long} rows too long,"
            f" {unsupervised} with nothing to learn",
            style="yellow",
        )


def _show_lengths(lengths: Any) -> None:
    if not len(lengths):
        return
    table = Table("tokens a row", "rows", "", title="Lengths", title_justify="left", box=None)
    counts, edges = np.histogram(lengths, bins=_BUCKETS)
    for count, (low, high) in zip(counts, pairwise(edges), strict=True):
        bar = "█" * int(np.ceil(_BAR * count / counts.max()))
        table.add_row(f"{low:.0f} to {high:.0f}", str(count), bar)
    out.print(table)


def _show_row(tokenizer: Any, name: str, tokens: Any, supervised: Any) -> None:
    """Print a row with what is learned in brackets, and green where there are colours."""
    from tunesmith_trainer.outcome import harmless

    text = Text(f"{name}: ")
    edges = [0, *(np.flatnonzero(np.diff(supervised)) + 1).tolist(), len(tokens)]
    for start, end in pairwise(edges):
        part = harmless(tokenizer.decode(tokens[start:end]))
        if supervised[start]:
            text.append(f"⟦{part}⟧", style="bold green")
        else:
            text.append(part, style="dim")
    text.truncate(_MOST_TEXT, overflow="ellipsis")
    out.print(text)


def _show_turns(gathered: Any, rows: int, objective: Objective | None) -> None:
    from tunesmith_trainer.outcome import harmless

    for number, row in enumerate(gathered.sides.train[:rows], 1):
        text = Text(f"row {number}: ")
        for name, said, is_learned in _turns(orjson.loads(row.content)):
            is_green = is_learned or objective is Objective.PRETRAIN
            text.append(f"{name}: {harmless(said)}\n", style="bold green" if is_green else "dim")
        text.truncate(_MOST_TEXT, overflow="ellipsis")
        out.print(text)


def _turns(content: Any) -> Iterator[tuple[str, str, bool]]:
    """Give who speaks in a row, what is said, and whether it is learned."""
    is_conversation = isinstance(content, list)
    for turn in content if is_conversation else content.pop("messages", ()):
        is_answer = turn["role"] == "assistant" and turn.get("weight", 1) != 0
        yield turn["role"], turn["content"], is_answer and is_conversation
    if not is_conversation:
        yield from ((name, said, True) for name, said in content.items())
