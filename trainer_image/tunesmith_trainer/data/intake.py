"""Sources to rows on the disk: files are found, read and cleaned, one source after the other.

What the rows of a source are to be is decided here; what they are for is ``gathering``'s matter,
which calls this.
"""

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

from tunesmith_api.cleaning import Deduplication
from tunesmith_api.dataset import Corrections, DataFormat, Dataset, FeedbackFilter, Source
from tunesmith_api.objectives import Objective
from tunesmith_api.result import UserErrorReason
from tunesmith_trainer.data.cleaning import Cleaner, text_masker
from tunesmith_trainer.data.columns import UnreadColumns
from tunesmith_trainer.data.compression import SourceFile
from tunesmith_trainer.data.finding import find_beside, find_files
from tunesmith_trainer.data.ratings import Said, feedback_beside, said_later
from tunesmith_trainer.data.reading import Reading, read_rows
from tunesmith_trainer.data.rowfile import Picked, RowFile
from tunesmith_trainer.data.rows import Reader
from tunesmith_trainer.data.scratch import Scratch
from tunesmith_trainer.data.seen import SeenKeys
from tunesmith_trainer.data.tally import Tally
from tunesmith_trainer.disk import full_disk_told
from tunesmith_trainer.logs import log
from tunesmith_trainer.outcome import UserError
from tunesmith_trainer.progress import Progress
from tunesmith_trainer.stopping import StopSignal
from tunesmith_trainer.storage import Storage

_ROWS_BETWEEN_LOOKS = 256


class Intake:
    """Takes in the sources of one data set, and counts what it meets."""

    def __init__(
        self,
        *,
        dataset: Dataset,
        objective: Objective | None,
        storage: Callable[[], Storage],
        directory: Path,
        progress: Progress,
        stop: StopSignal,
    ) -> None:
        """Without an `objective` rows of all formats are taken."""
        self._dataset, self._objective = dataset, objective
        self._storage, self._directory = storage, directory
        self._progress, self._stop = progress, stop
        self._unread = UnreadColumns(dataset.columns)
        self.reading = Reading(dataset.checks, text_masker(dataset.clean))
        self.tally = Tally()
        """What cleaning dropped and masked."""
        self.weights: dict[str, Decimal] = {}
        """Of each file: how often its rows are to be taken."""
        self.scratch = Scratch(directory)
        self._seen: dict[str, SeenKeys] = {}
        self.rows = RowFile(directory / "rows", self.scratch)
        """The rows that stayed, of all sources."""

    def finish(self, formats: str) -> None:
        """Raise UserError where too many rows were malformed, or a column was never there.

        ``formats`` says what the training rows are; it is empty where there are none.
        """
        self.reading.finish()
        if formats:
            self._unread.check(formats)

    def read(self, part: str, source: Source) -> tuple[Picked, DataFormat | None]:
        """Read and clean one source; give its rows that stay and the format that was found.

        Raises UserError as the parts of ``data`` do.
        """
        wanted = self._wanted(source)
        directory = self._directory / part
        files = find_files(source.uri, self._storage, directory, self._progress.touch, wanted)
        late = self._said_later(source, files, directory)
        reader = Reader(wanted, self._dataset, late, self._unread)
        self._weigh(files, Decimal(source.weight))
        # All sources of one side together: what two of them share is the first one's.
        seen = self._seen.setdefault(part.partition("-")[0], SeenKeys(self.scratch))
        cleaner = Cleaner(self._dataset.clean, self.tally, self.scratch, seen)
        read = read_rows(files, reader, self.reading, self._on_row)
        size = sum(file.path.stat().st_size for file in files)
        with full_disk_told(self._directory, lambda: size, f"the rows of {source.uri}, or more"):
            rows = self.rows.extend(cleaner.clean(read))
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
            duplicates=self.tally.duplicates,
            cleaned=self.tally.cleaned,
            format=reader.format.value if reader.format else "",
        )
        return rows, reader.format

    def _weigh(self, files: list[SourceFile], weight: Decimal) -> None:
        """Note the weight of files; one that two sources have counts as the first one's."""
        is_off = self._dataset.clean.deduplicate is Deduplication.OFF
        for file in files:
            if self.weights.setdefault(file.uri, weight) != weight and is_off:
                raise UserError(
                    UserErrorReason.INVALID_RUN,
                    f"{file.uri} is in two of dataset.train.sources, with weights of"
                    f" {self.weights[file.uri]} and {weight}, and dataset.clean.deduplicate is Off."
                    " Leave it in one source, with the sum of both weights.",
                )

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

    def _said_later(
        self, source: Source, files: list[SourceFile], directory: Path
    ) -> dict[str, Said]:
        """Give what was said about conversations after they had been logged, by their id.

        Also where the source is only the log's folder of conversations.
        """
        corrects = self._dataset.corrections is Corrections.USE
        if self._dataset.feedback is FeedbackFilter.ANY and not corrects:
            return {}
        beside = feedback_beside(source.uri)
        folder = directory.with_name(f"{directory.name}-feedback")
        # Nobody may have said anything late.
        touch = self._progress.touch
        found = find_beside(beside, self._storage, folder, touch) if beside else []
        return said_later([*files, *found], with_corrections=corrects)

    def _on_row(self) -> None:
        if self.reading.rows % _ROWS_BETWEEN_LOOKS == 0:
            self._stop.check()
            self._progress.touch()
