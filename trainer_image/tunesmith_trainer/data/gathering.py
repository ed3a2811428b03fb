"""All sources of a data set, read, cleaned and split: what comes before the tokenizer.

Held-out sources are read first, so that their rows can be kept out of the training rows. Called
by ``prepare``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from tunesmith_api.dataset import Dataset
from tunesmith_api.dataset import Split as SplitSpec
from tunesmith_api.run import Phase, UserErrorReason
from tunesmith_trainer.data.cleaning import Cleaner, content_key
from tunesmith_trainer.data.formats import Reader
from tunesmith_trainer.data.reading import Reading, Row, find_files, read_rows
from tunesmith_trainer.data.splitting import Sides, split_rows
from tunesmith_trainer.logs import log
from tunesmith_trainer.outcome import UserError
from tunesmith_trainer.progress import Progress
from tunesmith_trainer.stopping import StopSignal
from tunesmith_trainer.storage import Storage

_ROWS_BETWEEN_LOOKS = 256


@dataclass(frozen=True)
class Gathered:
    """The rows, by what they are for, and what was counted on the way."""

    sides: Sides
    reading: Reading
    duplicates: int
    format: str
    """Shape of the training rows."""


class Gatherer:
    """Reads the sources of one data set; used once."""

    def __init__(
        self,
        *,
        dataset: Dataset,
        seed: int,
        storage: Callable[[], Storage],
        directory: Path,
        progress: Progress,
        stop: StopSignal,
    ) -> None:
        self._dataset, self._seed = dataset, seed
        self._storage, self._directory = storage, directory
        self._progress, self._stop = progress, stop
        self._reading = Reading(dataset.checks)
        self._duplicates = 0
        self._format = ""

    def gather(self) -> Gathered:
        """Read, clean and split. Raises UserError as the parts of ``data`` do."""
        dataset = self._dataset
        test = self._held_out("test", dataset.test, [])
        validation = self._held_out("validation", dataset.validation, test)
        train = self._read("train", dataset.train.uri, [*test, *validation])
        self._reading.finish()
        self._check_count(train)
        self._progress.enter(Phase.CLEANING)
        split = split_rows(train, self._seed, _percent(dataset.validation), _percent(dataset.test))
        sides = Sides(split.train, validation or split.validation, test or split.test)
        log.info("split", **{name: len(rows) for name, rows in sides._asdict().items()})
        return Gathered(sides, self._reading, self._duplicates, self._format)

    def _held_out(self, name: str, spec: SplitSpec, others: list[Row]) -> list[Row]:
        if spec.uri is None:
            return []
        rows = self._read(name, spec.uri, others)
        if not rows:
            raise UserError(
                UserErrorReason.DATASET_EMPTY,
                f"No conversations in {spec.uri}. Give dataset.{name} rows that are in no other"
                " part, or set its percent.",
            )
        return rows

    def _read(self, name: str, uri: str, held_out: list[Row]) -> list[Row]:
        reader = Reader(self._dataset.format, self._dataset.columns)
        cleaner = Cleaner(self._dataset.clean.deduplicate, map(content_key, held_out))
        directory = self._directory / name
        files = find_files(uri, self._storage, directory, self._progress.touch)
        rows = list(cleaner.clean(read_rows(files, reader, self._reading, self._on_row)))
        self._duplicates += cleaner.duplicates
        self._format = reader.format.value if reader.format else ""
        log.info(
            "read",
            part=name,
            uri=uri,
            files=len(files),
            rows=len(rows),
            duplicates=cleaner.duplicates,
            format=self._format,
        )
        return rows

    def _on_row(self) -> None:
        if self._reading.rows % _ROWS_BETWEEN_LOOKS == 0:
            self._stop.check()
            self._progress.touch()

    def _check_count(self, train: list[Row]) -> None:
        uri, fewest = self._dataset.train.uri, self._dataset.checks.min_rows
        if not train:
            why = (
                f"none of the {self._reading.rows} rows read can be used"
                f" ({self._reading.malformed} malformed, {self._duplicates} duplicates or held out)"
                if self._reading.rows
                else "it has no rows"
            )
            raise UserError(
                UserErrorReason.DATASET_EMPTY,
                f"No conversations to train on in {uri}: {why}. Correct dataset.train.uri or the"
                " file.",
            )
        if len(train) < fewest:
            raise UserError(
                UserErrorReason.DATASET_TOO_SMALL,
                f"{uri} has {len(train)} usable rows ({self._duplicates} duplicates and"
                f" {self._reading.malformed} malformed ones left out), dataset.checks.minRows asks"
                f" for {fewest}. Give more rows or lower it.",
            )


def _percent(spec: SplitSpec) -> Decimal:
    return Decimal(spec.percent or 0)
