"""`tunesmith data select`: rows of conversation logs that are worth a person's time.

Rows go from the files to the disk, so logs may be larger than memory; which are picked is
``tunesmith_trainer.selection``'s matter.
"""

import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from tunesmith_api.dataset import Checks, Corrections, DataFormat, Dataset, FeedbackFilter, Training
from tunesmith_api.run import S3Connection
from tunesmith_cli.jobfile import JOB_FILES, as_uri, load_job, near_by
from tunesmith_cli.local import connection
from tunesmith_cli.mistakes import Refused, one_of
from tunesmith_cli.models import find_model
from tunesmith_cli.s3_mistakes import said_plainly
from tunesmith_cli.terminal import err, out

if TYPE_CHECKING:
    from tunesmith_trainer.data.compression import SourceFile
    from tunesmith_trainer.data.reading import Reading
    from tunesmith_trainer.data.rowfile import RowFile
    from tunesmith_trainer.data.rows import Reader
    from tunesmith_trainer.data.scratch import Scratch
    from tunesmith_trainer.selection import Selected
    from tunesmith_trainer.storage import Storage

_FILE = "file://"
_OF_A_LOG = ("id", "session", "revision", "time", "feedback")
"""Members of a line of a ModelDeployment's log that an annotator may want to see or join by."""


class Wishes(NamedTuple):
    """Options of the command line."""

    model: str
    rows: int
    by: str
    format: str
    sample: int
    """Most rows that the model is asked about; 0: all."""
    seed: int


class _Read(NamedTuple):
    """What was read of all sources."""

    rows: "RowFile"
    reading: "Reading"
    sources: "list[tuple[Reader, list[SourceFile]]]"
    feedback: "list[SourceFile]"
    """Files that lie beside a source which is only a log's folder of conversations."""


def select_rows(place: str, target: Path, wishes: Wishes) -> None:
    """Write the rows worth annotating to ``target``, and say how many there were of each kind.

    Raises Refused, TrainerError.
    """
    from tunesmith_trainer.data.scratch import Scratch
    from tunesmith_trainer.selection import By, draw, measure, select

    by = one_of(By, "--by", wishes.by)
    _check_target(target)
    dataset, s3 = _dataset(place, wishes.format)
    with TemporaryDirectory(prefix="tunesmith-select-") as folder:
        work = Path(folder)
        scratch = Scratch(work)
        read = _read(dataset, s3, work, scratch)
        drawn = draw(read.rows, wishes.sample, wishes.seed, scratch)
        tokenizer, model = _load(wishes.model, work)
        with _bar(len(drawn)) as on_row:
            doubts = measure(model, tokenizer, drawn, dataset, on_row)
        picked = select(drawn, doubts, wishes.rows, by, wishes.seed)
        if not picked:
            raise Refused(f"{place}: none of {len(read.rows)} rows has an answer to look at")
        _write(picked, _origins(read, picked), target)
    counts = {
        "read": read.reading.rows,
        "malformed": read.reading.malformed,
        "lines of feedback": read.reading.filtered,
        "repeated, or not drawn": len(read.rows) - len(drawn),
        "measured": len(drawn),
        "without answers": doubts.count(None),
        f"→ {target}": len(picked),
    }
    _show(counts, read.reading.examples)


def _dataset(place: str, format_: str) -> tuple[Dataset, S3Connection]:
    # Rows that somebody has called bad are among those worth a look.
    lenient = {
        "checks": Checks(fail_on_malformed="1"),
        "feedback": FeedbackFilter.ANY,
        "corrections": Corrections.IGNORE,
    }
    if Path(place).suffix in JOB_FILES:
        settings = [f"dataset.format={format_}"] if format_ else []
        spec = load_job(Path(place), settings).job.spec
        return spec.dataset.model_copy(update=lenient), connection(spec.s3)
    wanted = one_of(DataFormat, "--format", format_) if format_ else DataFormat.AUTO
    uri = as_uri(place, Path.cwd())
    file = Path(uri.removeprefix(_FILE))
    if uri.startswith(_FILE) and not file.exists():
        raise Refused(f"{file} does not exist{near_by(file)}")
    dataset = Dataset(train=Training(uri=uri), format=wanted)
    return dataset.model_copy(update=lenient), connection(None)


def _read(dataset: Dataset, s3: S3Connection, work: Path, scratch: "Scratch") -> _Read:
    """Bring the files here, and their rows to the disk one after the other."""
    # Imported here and below: what reads data takes a second to load.
    from tunesmith_trainer.data.finding import find_beside, find_files
    from tunesmith_trainer.data.ratings import feedback_beside
    from tunesmith_trainer.data.reading import Reading, read_rows
    from tunesmith_trainer.data.rowfile import RowFile
    from tunesmith_trainer.data.rows import Reader
    from tunesmith_trainer.storage import Storage

    read = _Read(RowFile(work / "rows", scratch), Reading(dataset.checks), [], [])
    storage = cache(lambda: Storage.open(s3, "dataset"))
    for number, source in enumerate(dataset.train.all_sources):
        wanted = source.format or dataset.format
        with said_plainly(source.uri, s3):
            uri = _placed(source.uri, storage, s3)
            files = find_files(uri, storage, work / f"source-{number}", lambda _: None, wanted)
            if beside := feedback_beside(uri):
                folder = work / f"feedback-{number}"
                read.feedback.extend(find_beside(beside, storage, folder, lambda _: None))
        reader = Reader(wanted, dataset)
        read.rows.extend(read_rows(files, reader, read.reading, lambda: None))
        read.sources.append((reader, files))
    return read


def _placed(uri: str, storage: "Callable[[], Storage]", s3: S3Connection) -> str:
    """Give a prefix of S3 its slash, and leave all else as it is. Raises Refused for nothing."""
    if not uri.startswith("s3://") or storage().list(uri):
        return uri
    if storage().list(f"{uri.rstrip('/')}/"):
        return f"{uri.rstrip('/')}/"
    raise Refused(f"There is nothing at {uri}, at {s3.endpoint or 'Amazon S3'}: correct the URI")


def _load(path: str, work: Path) -> tuple[Any, Any]:
    from tunesmith_cli.in_process import load

    found = find_model(path, work)
    if found.model.is_file():
        raise Refused(
            f"{found.model} says no probabilities of answers that are given: name the run, or its"
            " merged model or adapter, with --model"
        )
    loaded = load(found.model, found.adapter)
    return loaded.tokenizer, loaded.model


def _origins(read: _Read, picked: "Sequence[Selected]") -> dict[tuple[str, int], dict[str, Any]]:
    """Read the lines of the picked rows again, for what a log says besides the conversation.

    What was said of it later stands elsewhere; of several ratings the last one counts.
    """
    from tunesmith_trainer.data.ratings import all_said, feedback_lines
    from tunesmith_trainer.data.reading import records

    wanted: dict[str, set[int]] = defaultdict(set)
    for one in picked:
        wanted[one.row.file].add(one.row.line)
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for reader, files in read.sources:
        for file in files:
            lines = wanted.get(file.uri, set())
            for line, value, _ in records(file, reader) if lines else ():
                if line in lines and isinstance(value, dict):
                    kept = {name: value[name] for name in _OF_A_LOG if value.get(name)}
                    found[file.uri, line] = kept
    names = {str(origin["id"]) for origin in found.values() if "id" in origin}
    late: dict[str, list[dict[str, Any]]] = defaultdict(list)
    files = [file for _, files in read.sources for file in files] + read.feedback
    for value in feedback_lines(files) if names else ():
        if (name := str(value.get("id"))) in names:
            late[name].append(value)
    for origin in found.values():
        if said := all_said([origin, *late.get(str(origin.get("id")), ())]):
            origin["feedback"] = said
    return found


def _write(
    picked: "Sequence[Selected]", origins: dict[tuple[str, int], dict[str, Any]], target: Path
) -> None:
    """Write the rows as Messages, best first, with their place and why they are there."""
    part = target.with_name(f"{target.name}.part")
    with part.open("wb") as file:
        for rank, (row, doubt) in enumerate(picked, 1):
            why = {
                "rank": rank,
                "loss": round(doubt.loss, 6),
                "entropy": round(doubt.entropy, 6),
                "file": row.file,
                "line": row.line,
            }
            line = {
                "messages": orjson.loads(row.content),
                "selection": why | origins.get((row.file, row.line), {}),
            }
            file.write(orjson.dumps(line) + b"\n")
    part.replace(target)


def _check_target(target: Path) -> None:
    """Refuse a place that cannot be written, before a model is asked for hours."""
    if target.exists():
        raise Refused(f"{target} is there already, maybe with somebody's work in it: name another")
    folder = target.absolute().parent
    if not folder.is_dir():
        raise Refused(f"{folder} is not a folder{near_by(folder)}: make it, or name another --out")
    if not os.access(folder, os.W_OK):
        raise Refused(f"{folder} cannot be written: name another --out")


def _show(counts: dict[str, int], examples: Sequence[str]) -> None:
    table = Table(title="Rows", title_justify="left", show_header=False, box=None)
    for name, count in counts.items():
        table.add_row(name, str(count))
    out.print(table)
    for example in examples:
        out.print(f"malformed: {example}", markup=False, style="red")


@contextmanager
def _bar(rows: int) -> Iterator[Callable[[], None]]:
    """Show how many rows the model was asked about, where that is seen; a line elsewhere."""
    is_seen = sys.stderr.isatty()
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(TextColumn("measuring"), *columns, console=err, disable=not is_seen) as bars:
        if not is_seen:
            err.print(f"Measuring {rows} rows", markup=False)
        task = bars.add_task("", total=rows)
        yield lambda: bars.advance(task)
