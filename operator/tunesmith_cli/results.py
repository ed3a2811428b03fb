"""Finds a run's folder and what is in it, on this machine or in S3.

Reads, and fetches small files into the cache. Called by ``reports``, ``models`` and ``running``.
"""

from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from tunesmith_api.report import TrainingReport
from tunesmith_api.run import S3Connection, TrainingRun
from tunesmith_cli.jobfile import JOB_FILES, as_uri, load_job, near_by
from tunesmith_cli.local import connection
from tunesmith_cli.mirror import REPORT, RUN, Mirror
from tunesmith_cli.mistakes import Refused

FILE = "file://"
S3 = "s3://"


class Origin(NamedTuple):
    """Where results are, as a person says it."""

    uri: str
    """file://, s3://, hf:// or builtin://."""
    s3: S3Connection
    job: str = ""
    """Only runs of the job of that name; empty: of any."""

    @property
    def path(self) -> Path:
        """Its place on this machine, of a ``file://`` URI."""
        return Path(self.uri.removeprefix(FILE))


class RunFolder(NamedTuple):
    """A run that has finished."""

    path: Path
    report: TrainingReport
    run: TrainingRun | None
    """Its orders, where `tunesmith run` made it."""


def parse_origin(text: str) -> Origin:
    """Read a path or URI; a job's file stands for its output. Raises Refused."""
    if Path(text).suffix in JOB_FILES:
        job = load_job(Path(text)).job
        return Origin(job.spec.output.uri, connection(job.spec.s3), job.metadata.name)
    return Origin(as_uri(text, Path.cwd()), connection(None))


def find_run(origin: Origin) -> RunFolder:
    """Give the run at a place: its folder, its report.json, or the newest run right below it.

    Raises Refused, TrainerError.
    """
    if origin.uri.startswith(S3):
        found = Mirror(origin.s3).run(origin.uri, origin.job)
        if found is None:
            raise Refused(_no_report(origin))
        return read_run(found.folder / REPORT)
    if not origin.uri.startswith(FILE):
        raise Refused(f"{origin.uri}: give a folder, s3://BUCKET/PREFIX or a job's YAML")
    path = origin.path
    if not path.exists():
        raise Refused(f"{path} does not exist{near_by(path)}")
    reports = [path] if path.is_file() else [path / REPORT]
    if path.is_dir() and not reports[0].is_file():
        runs = f"{origin.job}-*" if origin.job else "*"
        reports = sorted(path.glob(f"{runs}/{REPORT}"), key=lambda file: file.stat().st_mtime)
    if not reports:
        raise Refused(_no_report(origin))
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


def _no_report(origin: Origin) -> str:
    where = origin.uri.removeprefix(FILE)
    if origin.job:
        return f"{where} holds no finished run of the job {origin.job}: start it with tunesmith run"
    return (
        f"{where} holds no {REPORT}: give the folder that `tunesmith run` has named, or the"
        " folder of its output"
    )
