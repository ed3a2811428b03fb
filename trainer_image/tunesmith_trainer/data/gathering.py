"""All sources of a data set, read, cleaned and split: what comes before the tokenizer.

Held-out sources come first: a row that repeats one of theirs is kept out of the training rows.
Called by ``prepare``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import orjson

from tunesmith_api.dataset import DataFormat, Dataset, FeedbackFilter, Overlap, Source
from tunesmith_api.dataset import Split as SplitSpec
from tunesmith_api.datastatus import SourceStatus
from tunesmith_api.objectives import Objective
from tunesmith_api.result import Phase, UserErrorReason
from tunesmith_trainer.data.cleaning import Cleaner, text_masker
from tunesmith_trainer.data.columns import UnreadColumns
from tunesmith_trainer.data.compression import SourceFile, open_text
from tunesmith_trainer.data.containers import JSON_SUFFIXES, numbered_lines
from tunesmith_trainer.data.finding import find_files
from tunesmith_trainer.data.mixing import mix
from tunesmith_trainer.data.reading import Reading, Row, read_rows
from tunesmith_trainer.data.repeats import Part, Repeated, Repeats
from tunesmith_trainer.data.rowfile import Picked, RowFile
from tunesmith_trainer.data.rows import Reader, rating_of
from tunesmith_trainer.data.splitting import Sides, split_rows
from tunesmith_trainer.data.synthesis import generator_prompts, synthetic_rows
from tunesmith_trainer.data.tally import Tally
from tunesmith_trainer.logs import log
from tunesmith_trainer.outcome import UserError, shorten
from tunesmith_trainer.progress import Progress
from tunesmith_trainer.stopping import StopSignal
from tunesmith_trainer.storage import Storage

_ROWS_BETWEEN_LOOKS = 256


@dataclass(frozen=True)
class Gathered:
    """The rows, by what they are for, and what was counted on the way."""

    sides: Sides
    reading: Reading
    tally: Tally
    """What cleaning dropped and masked."""
    synthetic: int
    """Rows of a generator among those to train on."""
    sources: tuple[SourceStatus, ...]
    """What was found in each source of training rows."""

    @property
    def format(self) -> str:
        """Shapes of the training rows, each once."""
        return _formats(self.sources)


class Gatherer:
    """Reads the sources of one data set; used once."""

    def __init__(
        self,
        *,
        dataset: Dataset,
        objective: Objective | None,
        seed: int,
        storage: Callable[[], Storage],
        directory: Path,
        progress: Progress,
        stop: StopSignal,
        ask_generator: Callable[[list[str]], list[str]] = lambda _: [],
    ) -> None:
        """`ask_generator` gives the answer to each of its prompts, for synthetic rows. Without an
        `objective` rows of all formats are taken."""
        self._ask_generator = ask_generator
        self._dataset, self._objective, self._seed = dataset, objective, seed
        self._storage, self._directory = storage, directory
        self._progress, self._stop = progress, stop
        self._reading = Reading(dataset.checks, text_masker(dataset.clean))
        self._tally = Tally()
        self._found: list[SourceStatus] = []
        self._weights: dict[str, Decimal] = {}
        self._unread = UnreadColumns(dataset.columns)
        self._rows = RowFile(directory / "rows")

    def gather(self) -> Gathered:
        """Read, clean and split. Raises UserError as the parts of ``data`` do."""
        dataset = self._dataset
        read = {
            "test": self._held_out("test", dataset.test),
            "validation": self._held_out("validation", dataset.validation),
            "train": self._train(),
        }
        self._reading.finish()
        if read["train"]:
            self._unread.check(_formats(self._found))
        self._progress.enter(Phase.CLEANING)
        test, validation, train = self._without_repeats(read)
        self._check_count(train.rows)
        split = split_rows(
            train.rows,
            train.clusters,
            self._seed,
            validation=_percent(dataset.validation),
            test=_percent(dataset.test),
            repeats=self._tally.duplicates,
        )
        mixed = mix(split.train, self._weights, self._seed)
        made = self._synthetic(split.train, [test.rows, validation.rows, train.rows])
        mixed += self._rows.extend(made)
        sides = Sides(mixed, validation.rows or split.validation, test.rows or split.test)
        log.info("split", **{name: len(rows) for name, rows in sides._asdict().items()})
        return Gathered(sides, self._reading, self._tally, len(made), tuple(self._found))

    def _synthetic(self, train: Sequence[Row], others: Sequence[Sequence[Row]]) -> list[Row]:
        """Have rows written after the training rows; they are like none of the others."""
        synthetic = self._dataset.synthetic
        if synthetic is None:
            return []
        answers = self._ask_generator(generator_prompts(synthetic, train))
        rows = synthetic_rows(answers, self._dataset, others, self._tally)
        generator = synthetic.generator
        uri = shorten(f"{generator.uri or generator.url} {generator.model}".strip(), 200)
        self._found.append(SourceStatus(uri=uri, format="Synthetic", rows=len(rows)))
        log.info("synthetic rows", generator=uri, answers=len(answers), rows=len(rows))
        if not rows:
            raise UserError(
                UserErrorReason.DATASET_EMPTY,
                f"None of the {len(answers)} answers of dataset.synthetic.generator became a row;"
                f" the first: {shorten(answers[0] if answers else '', 200)!r}. Its prompts must ask"
                " for a JSON object with prompt and response; or lower minQuality.",
            )
        return rows

    def _train(self) -> Picked:
        rows = self._rows.extend(())
        for number, source in enumerate(self._dataset.train.all_sources):
            more, found = self._read(f"train-{number}", source)
            status = SourceStatus(
                uri=shorten(source.uri, 200),
                format=found.value if found else "",
                rows=len(more),
                weight=source.weight,
            )
            self._found.append(status)
            rows += more
        return rows

    def _without_repeats(self, read: dict[str, Picked]) -> list[Part]:
        repeats = Repeats(self._dataset.clean, self._tally)
        parts = repeats.resolve(list(read.values()), self._on_rows)
        if repeats.overlap and self._dataset.checks.on_overlap is Overlap.FAIL:
            raise _overlapping(repeats.overlap, repeats.overlapping)
        for (name, rows), part in zip(read.items(), parts, strict=True):
            if rows and not part.rows and name != "train":
                raise UserError(
                    UserErrorReason.DATASET_EMPTY,
                    f"All {len(rows)} rows of dataset.{name} repeat those of dataset.test. Give it"
                    " rows that are in no other part, or set its percent.",
                )
        return parts

    def _held_out(self, name: str, spec: SplitSpec) -> Picked:
        if spec.uri is None:
            return self._rows.extend(())
        rows, _ = self._read(name, Source(uri=spec.uri))
        if not rows:
            raise UserError(
                UserErrorReason.DATASET_EMPTY,
                f"No conversations in {spec.uri}. Give dataset.{name} rows that are in no other"
                " part, or set its percent.",
            )
        return rows

    def _read(self, part: str, source: Source) -> tuple[Picked, DataFormat | None]:
        """Read and clean one source; give its rows that stay and the format that was found."""
        wanted = self._wanted(source)
        directory = self._directory / part
        files = find_files(source.uri, self._storage, directory, self._progress.touch, wanted)
        reader = Reader(wanted, self._dataset, self._late_ratings(files), self._unread)
        self._weights |= dict.fromkeys((file.uri for file in files), Decimal(source.weight))
        cleaner = Cleaner(self._dataset.clean, self._tally)
        rows = self._rows.extend(
            cleaner.clean(read_rows(files, reader, self._reading, self._on_row))
        )
        if reader.format is DataFormat.PREFERENCE and self._objective not in (Objective.DPO, None):
            raise UserError(
                UserErrorReason.WRONG_COLUMNS,
                f"{source.uri} holds preferences (a chosen and a rejected answer), which need"
                f" objective DPO; objective {self._objective.value} learns from one answer. Give"
                " conversations, or set the format to what the rows are besides.",
            )
        log.info(
            "read",
            part=part,
            uri=source.uri,
            files=len(files),
            rows=len(rows),
            duplicates=self._tally.duplicates,
            cleaned=self._tally.cleaned,
            format=reader.format.value if reader.format else "",
        )
        return rows, reader.format

    def _wanted(self, source: Source) -> DataFormat:
        wanted = source.format or self._dataset.format
        if self._objective is not Objective.DPO or wanted is DataFormat.PREFERENCE:
            return wanted
        if wanted is not DataFormat.AUTO:
            raise UserError(
                UserErrorReason.WRONG_COLUMNS,
                f"Objective DPO learns from preferences, and the format of {source.uri} is"
                f" {wanted.value}. Set it to Preference, or the objective to SFT.",
            )
        # Nothing else is of use, and what is asked for is named where it is missing.
        return DataFormat.PREFERENCE

    def _late_ratings(self, files: list[SourceFile]) -> dict[str, str]:
        """Give what was said about conversations after they had been logged, by their id."""
        if self._dataset.feedback is FeedbackFilter.ANY:
            return {}
        late: dict[str, str] = {}
        for file in files:
            if "/feedback/" in file.uri and file.suffix in JSON_SUFFIXES:
                late |= _ratings(file)
        return late

    def _on_row(self) -> None:
        if self._reading.rows % _ROWS_BETWEEN_LOOKS == 0:
            self._stop.check()
            self._progress.touch()

    def _on_rows(self, count: int) -> None:
        self._stop.check()
        self._progress.touch(count)

    def _check_count(self, train: Sequence[Row]) -> None:
        fewest = self._dataset.checks.min_rows
        uri = shorten(", ".join(s.uri for s in self._dataset.train.all_sources), 300)
        if not train:
            held_out = self._tally.held_out
            why = (
                f"none of its rows can be used ({self._reading.malformed} malformed, {held_out}"
                f" that repeat held-out ones, {self._tally.duplicates - held_out} other duplicates,"
                f" {self._tally.cleaned} dropped by dataset.clean,"
                f" {self._reading.filtered} without the feedback asked for)"
                if self._reading.rows
                else "it has no rows"
            )
            first = next((f" The first malformed one: {e}." for e in self._reading.examples), "")
            do = (
                "Give dataset.test and dataset.validation rows of their own, or set their percent."
                if held_out
                else "Correct dataset.train.uri or the file."
            )
            raise UserError(
                UserErrorReason.DATASET_EMPTY,
                f"No conversations to train on in {uri}: {why}.{first} {do}",
            )
        if len(train) < fewest:
            raise UserError(
                UserErrorReason.DATASET_TOO_SMALL,
                f"{uri} has {len(train)} usable rows ({self._tally.duplicates} duplicates,"
                f" {self._tally.cleaned} dropped by dataset.clean and {self._reading.malformed}"
                " malformed ones left out), dataset.checks.minRows asks"
                f" for {fewest}. Give more rows or lower it.",
            )


def _formats(sources: Sequence[SourceStatus]) -> str:
    return ", ".join(dict.fromkeys(source.format for source in sources if source.format))


def _ratings(file: SourceFile) -> dict[str, str]:
    ratings = {}
    with open_text(file) as stream:
        for _, line in numbered_lines(stream):
            try:
                value = orjson.loads(line or b"null")
            except orjson.JSONDecodeError:
                continue  # Counted as malformed when the file's rows are read.
            if rating := rating_of(value):
                ratings[str(value.get("id", ""))] = rating
    return ratings


def _percent(spec: SplitSpec) -> Decimal:
    return Decimal(spec.percent or 0)


def _overlapping(first: Repeated, count: int) -> UserError:
    return UserError(
        UserErrorReason.DATASET_OVERLAPS,
        f"{count} rows repeat held-out ones; the first: {first.row.file} line {first.row.line} is"
        f" {first.similarity:.0%} like {first.other.file} line {first.other.line}. Take them out of"
        " one of the two, or set dataset.checks.onOverlap to Drop.",
    )
