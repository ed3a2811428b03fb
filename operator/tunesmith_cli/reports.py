"""A run's report as tables: data, training, base against tuned, gates, where everything lies.

Called by ``running`` at the end of a run, and for `tunesmith report`.
"""

import os
import sys
import webbrowser
from pathlib import Path

from rich.table import Table
from rich.text import Text

from tunesmith_api.gates import judge
from tunesmith_api.measurements import EvaluationStatus, Measurement, Verdict
from tunesmith_api.report import TrainingReport
from tunesmith_cli.results import RunFolder
from tunesmith_cli.terminal import out

_FILE = "file://"
_PAGE = "report.html"
_LARGE = 1e5
_SHOWN_SAMPLES = 6
_COLORS = {Verdict.PASSED: "green", Verdict.FAILED: "red", Verdict.INCONCLUSIVE: "yellow"}


def show_report(folder: RunFolder) -> None:
    """Print all tables of a run."""
    report = folder.report
    show_training(report)
    show_metrics(report.measurements)
    show_verdict(judgement(folder))
    show_samples(report)
    show_places(report)


def judgement(folder: RunFolder) -> EvaluationStatus:
    """Judge a run by its newest gates: they may have changed after it was measured."""
    report = folder.report
    asked = folder.run.evaluation if folder.run else report.evaluation
    earlier = [model.name for model in report.baselines]
    return judge(asked.gates, report.measurements, earlier)


def show_training(report: TrainingReport) -> None:
    """Print what was trained, on what, and how long that took."""
    done, rows = report.training, report.data.rows
    table = _table("Training")
    table.add_row("model", f"{report.base_model.uri} {report.model_revision}".strip())
    table.add_row(
        "rows", f"{rows.train} trained, {rows.validation} validated, {rows.test} held out"
    )
    table.add_row("steps", f"{done.steps}{' (stopped early)' if done.stopped_early else ''}")
    table.add_row("loss", f"{short(done.first_loss)} → {short(done.last_loss)}")
    table.add_row("speed", f"{done.tokens_per_second} tokens/s, {done.train_seconds} s in training")
    table.add_row("memory", f"{done.peak_memory_bytes / 1024**3:.2f} GiB at most")
    out.print(table)


def show_metrics(measurements: tuple[Measurement, ...]) -> None:
    """Print base against tuned, with the 95 % interval where there is one."""
    if not measurements:
        return
    table = Table("metric", "base", "tuned", title="Base against tuned", title_justify="left")
    for measured in measurements:
        tuned = short(measured.value)
        if measured.low and measured.high:
            tuned += f" ({short(measured.low)} to {short(measured.high)})"
        table.add_row(measured.metric, short(measured.base_value), tuned)
    out.print(table)


def show_verdict(status: EvaluationStatus) -> None:
    """Print the gates in the words of the cluster."""
    out.print(Text(f"Gates: {status.verdict}", style=f"bold {_COLORS[status.verdict]}"))
    for result in status.results:
        out.print(Text(f"  {result.verdict}: {result.message}", style=_COLORS[result.verdict]))


def show_samples(report: TrainingReport) -> None:
    """Print the first answers of both models; the page has all of them."""
    for sample in report.samples[:_SHOWN_SAMPLES]:
        table = _table(sample.prompt)
        table.add_row("base", Text(sample.base))
        table.add_row("tuned", Text(sample.tuned))
        out.print(table)
    if more := len(report.samples[_SHOWN_SAMPLES:]):
        out.print(f"{more} more answers are in {_PAGE}.", markup=False)


def show_places(report: TrainingReport) -> None:
    """Print where the results lie."""
    table = _table("Results")
    for artifact in report.artifacts:
        table.add_row(artifact.name, artifact.uri.removeprefix(_FILE))
    out.print(table)
    for note in report.notes:
        out.print(note, markup=False, style="yellow")


def open_page(folder: Path) -> None:
    """Show report.html in a browser if there is one; print its path where there is no screen."""
    page = folder / _PAGE
    if not page.is_file():
        return
    has_screen = sys.platform != "linux" or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))
    if not (has_screen and webbrowser.open(page.as_uri())):
        out.print(f"The page with curves: {page}", markup=False)


def short(number: str) -> str:
    """Give a decimal with four places, and a large one, such as bytes, with none."""
    if not number:
        return "none"
    value = float(number)
    return f"{value:,.0f}" if abs(value) >= _LARGE else f"{value:.4f}"


def _table(title: str) -> Table:
    return Table(title=Text(title), title_justify="left", show_header=False, box=None)
