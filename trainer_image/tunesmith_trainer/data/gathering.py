"""All rows of a data set, by what they are for: what comes before the tokenizer.

Held-out sources come first: a row that repeats one of theirs is kept out of the training rows.
How a source is read is ``intake``'s matter. Called by ``prepare``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from tunesmith_api.dataset import Dataset, Overlap, Source
from tunesmith_api.dataset import Split as SplitSpec
from tunesmith_api.datastatus import SourceStatus
from tunesmith_api.objectives import Objective
from tunesmith_api.result import Phase, UserErrorReason
from tunesmith_trainer.data.intake import Intake
from tunesmith_trainer.data.mixing import mix
from tunesmith_trainer.data.reading import Reading, Row
from tunesmith_trainer.data.repeats import Part, Repeated, Repeats
from tunesmith_trainer.data.rowfile import Picked
from tunesmith_trainer.data.splitting import Sides, split_rows
from tunesmith_trainer.data.synthesis import generator_prompts, synthetic_rows
from tunesmith_trainer.data.tally import Tally
from tunesmith_trainer.logs import log
from tunesmith_trainer.outcome import UserError, shorten
from tunesmith_trainer.progress import Progress
from tunesmith_trainer.stopping import StopSignal
from tunesmith_trainer.storage import Storage


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
        self._dataset, self._seed = dataset, seed
        self._progress, self._stop = progress, stop
        self._intake = Intake(
            dataset=dataset,
            objective=objective,
            storage=storage,
            directory=directory,
            progress=progress,
            stop=stop,
        )
        self._reading, self._tally = self._intake.reading, self._intake.tally
        self._rows, self._scratch = self._intake.rows, self._intake.scratch
        self._found: list[SourceStatus] = []

    def gather(self) -> Gathered:
        """Read, clean and split. Raises UserError as the parts of ``data`` do."""
        dataset = self._dataset
        read = {
            "test": self._held_out("test", dataset.test),
            "validation": self._held_out("validation", dataset.validation),
            "train": self._train(),
        }
        self._intake.finish(_formats(self._found) if read["train"] else "")
        self._progress.enter(Phase.CLEANING)
        test, validation, train = self._without_repeats(read)
        self._check_count(train.rows)
        split = split_rows(
            train.rows,
            train.clusters,
            self._seed,
            self._scratch,
            validation=_percent(dataset.validation),
            test=_percent(dataset.test),
            repeats=self._tally.duplicates,
        )
        mixed = mix(split.train, self._intake.weights, self._seed, self._scratch)
        made = self._synthetic(split.train, [test.rows, validation.rows, train.rows])
        if made:
            mixed = self._rows.joined([mixed, self._rows.extend(made)])
        sides = Sides(mixed, validation.rows or split.validation, test.rows or split.test)
        log.info("split", **{name: len(rows) for name, rows in sides._asdict().items()})
        return Gathered(sides, self._reading, self._tally, len(made), tuple(self._found))

    def _synthetic(self, train: Sequence[Row], others: Sequence[Sequence[Row]]) -> list[Row]:
        """Have rows written after the training rows; they are like none of the others."""
        synthetic = self._dataset.synthetic
        if synthetic is None:
            return []
        answers = self._ask_generator(generator_prompts(synthetic, train, self._scratch))
        rows = synthetic_rows(answers, self._dataset, others, self._tally, self._scratch)
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
        parts: list[Picked] = []
        for number, source in enumerate(self._dataset.train.all_sources):
            more, found = self._intake.read(f"train-{number}", source)
            status = SourceStatus(
                uri=shorten(source.uri, 200),
                format=found.value if found else "",
                rows=len(more),
                weight=source.weight,
            )
            self._found.append(status)
            parts.append(more)
        return self._rows.joined(parts)

    def _without_repeats(self, read: dict[str, Picked]) -> list[Part]:
        repeats = Repeats(self._dataset.clean, self._tally, self._scratch)
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
        rows, _ = self._intake.read(name, Source(uri=spec.uri))
        if not rows:
            reading, cleaned = self._reading, self._tally.cleaned
            raise UserError(
                UserErrorReason.DATASET_EMPTY,
                f"No conversations in {spec.uri}: of {reading.rows} rows so far"
                f" {reading.malformed} are malformed and {cleaned} dropped by dataset.clean, which"
                f" is for held-out rows too. Give dataset.{name} rows that stay and are in no other"
                " part, or set its percent.",
            )
        return rows

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


def _percent(spec: SplitSpec) -> Decimal:
    return Decimal(spec.percent or 0)


def _overlapping(first: Repeated, count: int) -> UserError:
    return UserError(
        UserErrorReason.DATASET_OVERLAPS,
        f"{count} rows repeat held-out ones; the first: {first.row.file} line {first.row.line} is"
        f" {first.similarity:.0%} like {first.other.file} line {first.other.line}. Take them out of"
        " one of the two, or set dataset.checks.onOverlap to Drop.",
    )
