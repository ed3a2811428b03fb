"""`tunesmith run`: both stages of a job on this machine, one after the other.

What the operator does in a cluster: attempts are counted, half a batch is tried once where memory
was short, and the gates are judged. A run that was stopped goes on from its last checkpoint.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from tunesmith_api.attempts import StageName
from tunesmith_api.compute import OnOutOfMemory
from tunesmith_api.finetunejob import FineTuneJob
from tunesmith_api.measurements import Verdict
from tunesmith_api.report import TrainingReport
from tunesmith_api.result import Outcome, TrainerResult
from tunesmith_cli.devices import Devices, find_devices
from tunesmith_cli.jobfile import LoadedJob
from tunesmith_cli.local import Places, Plan, build_run, plan
from tunesmith_cli.locking import alone_in
from tunesmith_cli.mirror import RUN
from tunesmith_cli.reports import judgement, show_report
from tunesmith_cli.results import RunFolder
from tunesmith_cli.screen import StageScreen
from tunesmith_cli.stages import StageProcess
from tunesmith_cli.terminal import err, out

GATE_FAILED = 1
_LOOKS_SECONDS = 0.25
_FILE = "file://"


def run_job(loaded: LoadedJob, work: Path | None, *, is_cpu_wanted: bool) -> int:
    """Run a job to its end; returns the exit code. Raises Refused, TrainerError."""
    job, says_gpus = loaded
    devices = Devices(0) if is_cpu_wanted else _devices(job, says_gpus)
    planned = plan(job, devices, is_cpu_wanted=is_cpu_wanted, says_gpus=says_gpus)
    places = Places.of(planned.job, work)
    for note in planned.notes:
        out.print(note, markup=False)
    with alone_in(places.folder) as lock:
        attempts = _Attempts(planned, places, lock)
        result = attempts.make(StageName.PREPARE)
        if result.outcome is Outcome.SUCCEEDED:
            result = attempts.train()
        if result.outcome is not Outcome.SUCCEEDED:
            return _failed(result, attempts)
        return attempts.conclude()


def _devices(job: FineTuneJob, says_gpus: bool) -> Devices:
    if says_gpus and job.spec.compute.gpus_per_node == 0:
        return Devices(0)
    return find_devices()


class _Attempts:
    """The attempts of one run."""

    def __init__(self, planned: Plan, places: Places, lock: int) -> None:
        # Imported here: boto3 takes a second to load.
        from tunesmith_trainer.storage import open_store
        from tunesmith_trainer.storage.fence import newest_attempt

        self._plan, self._places, self._lock = planned, places, lock
        first = build_run(planned, places, StageName.PREPARE, 1)
        self._store = open_store(places.run_uri, first.s3, "output")
        self._number = newest_attempt(self._store, places.run_uri)
        self._run = first
        self.log = places.folder

    def make(self, stage: StageName, *, is_halved: bool = False) -> TrainerResult:
        """Make the next attempt at a stage."""
        self._number += 1
        run = build_run(self._plan, self._places, stage, self._number, is_halved=is_halved)
        self._run = run
        process = StageProcess(run, self._places.folder, self._lock)
        self.log = process.log
        with _passing_stops_on(process), StageScreen(stage) as screen:
            while not process.wait(_LOOKS_SECONDS):
                if seen := process.progress():
                    screen.show(seen)
            result = process.finish()
            screen.end("done" if result.outcome is Outcome.SUCCEEDED else str(result.outcome))
        if stage is StageName.PREPARE:
            self._plan = self._plan.placed(result.placement)
        if result.outcome is Outcome.SUCCEEDED:
            out.print(f"{stage.value}: {result.message}", markup=False)
        return result

    def train(self) -> TrainerResult:
        """Train, with half the batch once more where memory was not enough."""
        result = self.make(StageName.TRAIN)
        spec = self._plan.job.spec
        may_halve = spec.compute.on_out_of_memory is OnOutOfMemory.HALVE_BATCH
        given = spec.hyperparameters
        has_fewer = given.per_device_batch_size > 1
        if result.outcome is Outcome.OUT_OF_MEMORY and may_halve and has_fewer:
            out.print(
                f"Out of memory: once more with {given.halved().per_device_batch_size} rows at once"
                f" in the place of {given.per_device_batch_size}, and the same rows a step.",
                markup=False,
            )
            return self.make(StageName.TRAIN, is_halved=True)
        return result

    def conclude(self) -> int:
        """Show the report and judge the gates; returns the exit code."""
        uri = self._places.run_uri
        orders = self._run.model_dump_json(by_alias=True, indent=1).encode()
        self._store.put_bytes(uri + RUN, orders)
        report = TrainingReport.model_validate_json(self._store.get_bytes(uri + "report.json"))
        folder = RunFolder(Path(uri.removeprefix(_FILE)), report, self._run)
        show_report(folder)
        out.print(f"All of it: {uri.removeprefix(_FILE)}", markup=False)
        return 0 if judgement(folder).verdict is Verdict.PASSED else GATE_FAILED


def _failed(result: TrainerResult, attempts: _Attempts) -> int:
    from tunesmith_trainer.outcome import exit_code

    if result.outcome is Outcome.CHECKPOINTED:
        at = f" at step {result.checkpoint.step}" if result.checkpoint else ""
        err.print(f"Stopped{at}. Run the same command again to go on.", markup=False)
    else:
        err.print(f"{result.reason}: {result.message}", markup=False)
        err.print(f"The log: {attempts.log}", markup=False)
    return int(exit_code(result.outcome))


@contextmanager
def _passing_stops_on(process: StageProcess) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM saves a checkpoint, the second ends at once."""
    asked = 0

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        asked += 1
        if asked == 1:
            err.print("Saving a checkpoint; once more to end at once.")
            process.stop()
        else:
            process.kill()

    names = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {name: signal.signal(name, on_signal) for name in names}
    try:
        yield
    finally:
        process.kill()
        for name, handler in before.items():
            signal.signal(name, handler)
