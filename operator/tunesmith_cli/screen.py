"""What a person sees while a stage runs: bars in a terminal, lines elsewhere.

Called by ``running`` a few times a second with what the trainer says of itself.
"""

import sys
from types import TracebackType

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from tunesmith_api.attempts import StageName
from tunesmith_api.result import Phase, TrainerProgress
from tunesmith_cli.terminal import out

_WORDS = {
    Phase.STARTING: "starting",
    Phase.READING: "reading",
    Phase.CLEANING: "cleaning",
    Phase.TOKENIZING: "tokenizing",
    Phase.LOADING_MODEL: "loading the model",
    Phase.TRAINING: "training",
    Phase.EVALUATING: "evaluating",
    Phase.EXPORTING: "exporting",
    Phase.UPLOADING: "writing the results",
    Phase.DONE: "done",
}


class StageScreen:
    """The line of one stage; a context that ends with it."""

    def __init__(self, stage: StageName) -> None:
        self._stage = stage
        self._phase: Phase | None = None
        self._bars = Progress(
            TextColumn("{task.fields[stage]:<8}{task.description:<20}"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[numbers]}"),
            TimeElapsedColumn(),
            console=out,
            disable=not sys.stdout.isatty(),
        )
        self._task = self._bars.add_task("starting", total=None, stage=stage.value, numbers="")

    def __enter__(self) -> "StageScreen":
        self._bars.start()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def show(self, seen: TrainerProgress) -> None:
        """Show how far it is."""
        words = _WORDS[seen.phase]
        if self._bars.disable and seen.phase is not self._phase:
            out.print(f"{self._stage.value}: {words}", markup=False)
        self._phase = seen.phase
        is_training = seen.phase is Phase.TRAINING and seen.total_steps > 0
        self._bars.update(
            self._task,
            description=words,
            completed=seen.step if is_training else 0,
            total=seen.total_steps if is_training else None,
            numbers=numbers(seen) if is_training else "",
        )

    def end(self, text: str) -> None:
        """Show how it ended."""
        self._bars.update(self._task, description=text, completed=1, total=1, numbers="")


def numbers(seen: TrainerProgress) -> str:
    """Give step, loss, tokens a second and the time left, in one line."""
    values = {metric.name: float(metric.value) for metric in seen.metrics}
    parts = [f"step {seen.step}/{seen.total_steps}"]
    if "loss" in values:
        parts.append(f"loss {values['loss']:.3f}")
    if "tokens_per_second" in values:
        parts.append(f"{values['tokens_per_second']:.0f} tokens/s")
    if seen.eta_seconds is not None:
        parts.append(f"ETA {duration(seen.eta_seconds)}")
    return "  ".join(parts)


def duration(seconds: int) -> str:
    """Write 250 seconds as 4m10s."""
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02}m"
    return f"{minutes}m{rest:02}s" if minutes else f"{rest}s"
