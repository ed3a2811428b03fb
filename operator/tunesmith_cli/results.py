"""Finds a run's folder and what is in it. Reads only. Called by ``reports`` and ``chatting``."""

from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from tunesmith_api.report import TrainingReport
from tunesmith_api.run import TrainingRun
from tunesmith_cli.mistakes import Refused, suggestion

REPORT = "report.json"
RUN = "run.json"


class RunFolder(NamedTuple):
    """A run that has finished."""

    path: Path
    report: TrainingReport
    run: TrainingRun | None
    """Its orders, where `tunesmith run` made it."""


def find_run(path: Path) -> RunFolder:
    """Give the run at ``path``: its folder, its report.json, or the newest run below it.

    Raises Refused.
    """
    if not path.exists():
        near = [item.name for item in path.parent.iterdir()] if path.parent.is_dir() else []
        raise Refused(f"{path} does not exist{suggestion(path.name, near)}")
    reports = [path] if path.is_file() else [path / REPORT]
    if path.is_dir() and not reports[0].is_file():
        reports = sorted(path.glob(f"*/{REPORT}"), key=lambda file: file.stat().st_mtime)
    if not reports:
        raise Refused(
            f"{path} holds no {REPORT}: give the folder that `tunesmith run` has named, or the"
            " folder of its output"
        )
    return read_run(reports[-1])


def read_run(report: Path) -> RunFolder:
    """Read a run by its report. Raises Refused."""
    try:
        found = TrainingReport.model_validate_json(report.read_bytes())
        orders = report.parent / RUN
        run = TrainingRun.model_validate_json(orders.read_bytes()) if orders.is_file() else None
    except (OSError, ValidationError) as error:
        raise Refused(
            f"{report} is not the report of a run: {str(error).splitlines()[0]}"
        ) from error
    return RunFolder(report.parent, found, run)
