"""``python -m tunesmith_trainer``: reads the run, does its stage, writes how it ended.

Nothing heavy is imported before SIGTERM is taken over and the progress is served. Started by the
pods' command, or by a launcher once a rank; only rank 0 serves and reports.
"""

import argparse
import os
import sys
from pathlib import Path

import orjson
from pydantic import ValidationError

from tunesmith_api.attempts import StageName
from tunesmith_api.meta import Status
from tunesmith_api.result import (
    PROGRESS_PORT,
    TERMINATION_PATH,
    Outcome,
    Phase,
    TrainerResult,
    UserErrorReason,
)
from tunesmith_api.run import RUN_PATH, WORK_PATH, TrainingRun
from tunesmith_process.logs import configure_logs
from tunesmith_trainer.logs import log, name_the_run
from tunesmith_trainer.outcome import (
    TrainerError,
    UserError,
    classify,
    exit_code,
    failed,
    shorten,
    write_result,
)
from tunesmith_trainer.progress import Progress, serve
from tunesmith_trainer.stopping import StopSignal

# A rank that is ended by its launcher must not hide the result of the one that failed first.
_CONSEQUENCES = (Outcome.CHECKPOINTED, Outcome.INFRASTRUCTURE)


def main(arguments: list[str] | None = None) -> int:
    """Run one attempt; returns the exit code."""
    options = _parse_arguments(arguments)
    # Read when the libraries are loaded: bars between the lines of a log are no lines of it.
    os.environ.setdefault("TQDM_DISABLE", "1")
    configure_logs("INFO", sys.stdout)
    stop = StopSignal()
    stop.install()
    if options.stop_with_input:
        stop.stop_with(sys.stdin.fileno())
    rank = int(os.environ.get("RANK", "0"))
    progress = _unread_run(options.run)
    try:
        run = read_run(options.run)
        name_the_run(run)
        progress = Progress.of(run)
        port = serve(progress, options.port, options.host).port if rank == 0 else None
        log.info("started", run_uri=run.run_uri, model=run.model.uri, rank=rank, port=port)
        result = _do_stage(run, options.work, progress, stop)
        progress.enter(Phase.DONE)
    except BaseException as error:
        result = failed(_sorted(error), progress.snapshot())
    _report(result, options.result, rank)
    return int(exit_code(result.outcome))


def read_run(path: Path) -> TrainingRun:
    """Parse the run. Raises UserError (InvalidRun) that names the first wrong field."""
    try:
        return TrainingRun.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UserError(
            UserErrorReason.INVALID_RUN, f"The run cannot be read from {path}: {error.strerror}."
        ) from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise UserError(
            UserErrorReason.INVALID_RUN,
            f"The run is not valid at {field}: {first['msg']} ({error.error_count()} errors)."
            " Operator and trainer image must be of the same version.",
        ) from error


class _Names(Status):
    stage: StageName = StageName.PREPARE
    attempt: int = 1


def _unread_run(path: Path) -> Progress:
    """Name stage and attempt even of a run that is not valid, so that its result is taken."""
    try:
        names = _Names.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        names = _Names()
    return Progress(names.stage, names.attempt)


def _do_stage(run: TrainingRun, work: Path, progress: Progress, stop: StopSignal) -> TrainerResult:
    work.mkdir(parents=True, exist_ok=True)
    if run.stage is StageName.PREPARE:
        from tunesmith_trainer.prepare import prepare

        return prepare(run, work, progress, stop)
    from tunesmith_trainer.importing import import_bitsandbytes

    import_bitsandbytes()
    from tunesmith_trainer.recipe import fine_tune

    return fine_tune(run, work, progress, stop)


def _sorted(error: BaseException) -> TrainerError:
    known = classify(error)
    if isinstance(error, TrainerError):
        cause = error.__cause__
        log.error("ended", reason=known.reason, message=known.message, cause=repr(cause)[:300])
    else:
        log.error("ended", reason=known.reason, message=known.message, exc_info=error)
    return known


def _report(result: TrainerResult, path: Path, rank: int) -> None:
    log.info("result", **orjson.loads(result.model_dump_json(exclude_none=True)))
    if rank != 0 and result.outcome in (Outcome.SUCCEEDED, *_CONSEQUENCES):
        return
    try:
        if result.outcome in _CONSEQUENCES and path.is_file() and path.stat().st_size > 0:
            return
        write_result(result, path)
    except OSError as error:
        log.warning("the result cannot be written", path=str(path), error=shorten(str(error)))


def _parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tunesmith_trainer", description=__doc__)
    parser.add_argument("--run", type=Path, default=Path(RUN_PATH), help="the TrainingRun (JSON)")
    parser.add_argument("--work", type=Path, default=Path(WORK_PATH), help="scratch folder")
    parser.add_argument("--host", default="", help="address to serve progress on; empty: all")
    parser.add_argument("--port", type=int, default=PROGRESS_PORT, help="0: any free port")
    parser.add_argument(
        "--stop-with-input",
        action="store_true",
        help="end with a checkpoint, as on SIGTERM, when standard input ends",
    )
    parser.add_argument(
        "--result", type=Path, default=Path(TERMINATION_PATH), help="where the result is written"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
