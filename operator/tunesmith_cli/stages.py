"""One stage of a job as a process of its own: the same program that the cluster's pods run.

So a stage's memory is free when the next begins, and one that is killed takes nobody with it. It
serves its progress to this machine only, and its log goes to a file. Called by ``running``.
"""

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from tunesmith_api.attempts import StageName
from tunesmith_api.result import Outcome, TrainerProgress, TrainerResult
from tunesmith_api.run import TrainingRun
from tunesmith_cli.locking import not_writable, scratch_of

_HOST = "127.0.0.1"
_POLL_TIMEOUT_SECONDS = 5
_TAIL_LINES = 5


class StageProcess:
    """A stage that runs, from its start to its result."""

    def __init__(self, run: TrainingRun, folder: Path, lock: int | None = None) -> None:
        """Start it. ``folder`` takes its log, and its scratch files while it runs.

        It holds the ``lock`` as long as it lives. Raises Refused where nothing can be written.
        """
        name = f"attempt-{run.attempt}-{run.stage}"
        self._run = run
        self._scratch = scratch_of(folder) / name
        self._result = self._scratch / "result.json"
        self.log = folder / "logs" / f"{name}.log"
        self._port: int | None = None
        self._is_unwanted = False
        orders = self._scratch / "run.json"
        try:
            self._scratch.mkdir(parents=True)
            self.log.parent.mkdir(parents=True, exist_ok=True)
            orders.write_text(run.model_dump_json(by_alias=True, indent=1))
        except OSError as error:
            raise not_writable(folder, error) from error
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command(orders),
                # Held open while we live: without us, a stage saves a checkpoint and ends.
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=_environment(run),
                # Ctrl-C is for us: we pass it on once, as the SIGTERM that saves a checkpoint.
                start_new_session=True,
                pass_fds=() if lock is None else (lock,),
            )

    def _command(self, orders: Path) -> list[str]:
        work = str(self._scratch / "work")
        own = ["--run", str(orders), "--work", work, "--result", str(self._result)]
        own += ["--host", _HOST, "--port", "0", "--stop-with-input"]
        ranks = self._run.world.ranks
        if self._run.stage is StageName.PREPARE or ranks == 1:
            return [sys.executable, "-m", "tunesmith_trainer", *own]
        launcher = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
        launcher += ["--num_machines=1", f"--num_processes={ranks}", "--mixed_precision=no"]
        launcher += ["--dynamo_backend=no", "--num_cpu_threads_per_process=1"]
        return [*launcher, "--module", "tunesmith_trainer", *own]

    def wait(self, seconds: float) -> bool:
        """Wait for the end, at most so long; say whether it came."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        return self._process.returncode is not None

    def stop(self) -> None:
        """Ask it to save a checkpoint and end."""
        self._process.terminate()

    def release(self) -> None:
        """Let go of it, as our own end would: it saves a checkpoint and ends."""
        if self._process.stdin:
            self._process.stdin.close()

    def kill(self) -> None:
        """End it at once, as its user wants, with all of its processes."""
        self._is_unwanted = True
        self._kill_all()

    def _kill_all(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def progress(self) -> TrainerProgress | None:
        """Ask how far it is; None while it does not answer."""
        self._port = self._port or self._find_port()
        if self._port is None:
            return None
        asked = http.client.HTTPConnection(_HOST, self._port, timeout=_POLL_TIMEOUT_SECONDS)
        try:
            asked.request("GET", "/progress")
            return TrainerProgress.model_validate_json(asked.getresponse().read())
        except (OSError, http.client.HTTPException, ValidationError):
            return None
        finally:
            asked.close()

    def _find_port(self) -> int | None:
        for line in self._lines():
            with suppress(ValueError):
                said = json.loads(line)
                if isinstance(said, dict) and said.get("event") == "started" and said.get("port"):
                    return int(said["port"])
        return None

    def _lines(self) -> list[str]:
        return self.log.read_text(encoding="utf-8", errors="replace").splitlines()

    def finish(self) -> TrainerResult:
        """Give its result once it has ended, and remove its scratch files."""
        self._kill_all()  # What a launcher left behind.
        self.release()
        try:
            return TrainerResult.model_validate_json(self._result.read_bytes())
        except (OSError, ValidationError):
            return self._without_result()
        finally:
            shutil.rmtree(self._scratch, ignore_errors=True)
            with suppress(OSError):
                self._scratch.parent.rmdir()

    def _without_result(self) -> TrainerResult:
        code = self._process.returncode
        if self._is_unwanted:
            return self._ended(Outcome.CHECKPOINTED, "Interrupted", "Ended at once, as asked for.")
        if code == -signal.SIGKILL:
            # So does the system where memory is short, and half the batch may fit.
            why = (
                "The stage was killed, most likely because the machine was out of memory. Lower"
                " hyperparameters.perDeviceBatchSize or maxSequenceLength."
            )
            return self._ended(Outcome.OUT_OF_MEMORY, "OutOfMemory", why)
        said = " / ".join(self._lines()[-_TAIL_LINES:])
        why = f"The stage ended with exit code {code} and no result. Its last words: {said}"
        return self._ended(Outcome.INFRASTRUCTURE, "NoResult", why)

    def _ended(self, outcome: Outcome, reason: str, message: str) -> TrainerResult:
        run = self._run
        return TrainerResult(
            stage=run.stage, attempt=run.attempt, outcome=outcome, reason=reason, message=message
        )


def _environment(run: TrainingRun) -> dict[str, str]:
    grace = run.checkpoint.grace_period_seconds
    quiet = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "PYTHONUNBUFFERED": "1"}
    # torchrun kills its workers 30 s after SIGTERM unless it is told otherwise.
    return os.environ | quiet | {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(grace)}
