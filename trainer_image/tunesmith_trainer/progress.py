"""How far the run is: one thread-safe record, served to the operator and printed for people.

The operator polls ``GET /progress``; ``seconds_since_progress`` is how it finds a run that hangs,
so only real advance may touch the record. Rank 0 serves; the others may keep a record unserved.
"""

import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from tunesmith_api.attempts import StageName
from tunesmith_api.measurements import Metric
from tunesmith_api.result import LONGEST_ETA_SECONDS, CheckpointRef, Phase, TrainerProgress
from tunesmith_api.run import TrainingRun
from tunesmith_trainer.logs import log

_REQUEST_TIMEOUT_SECONDS = 10
_METRICS_ON_PAGE = (
    "loss",
    "learning_rate",
    "gradient_norm",
    "tokens_per_second",
    "packing_efficiency",
    "peak_memory_bytes",
    "eval_loss",
    "reward_chosen",
    "reward_rejected",
    "reward_accuracy",
    "reward_margin",
)


class Progress:
    """What the run is doing. All methods may be called from any thread."""

    def __init__(self, stage: StageName, attempt: int) -> None:
        self._lock = threading.Lock()
        self._stage, self._attempt = stage, attempt
        self._phase = Phase.STARTING
        self._phase_start = datetime.now(UTC)
        self._phase_clock = self._touched = time.monotonic()
        self._seconds: dict[Phase, float] = {}
        self._step = self._total_steps = self._bytes = 0
        self._epoch = "0"
        self._eta: float | None = None
        self._metrics: dict[str, float] = {}
        self._checkpoint: CheckpointRef | None = None
        self._resumed_from: int | None = None
        self._notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, run: TrainingRun) -> "Progress":
        """Return the empty record of a run."""
        return cls(run.stage, run.attempt)

    def enter(self, phase: Phase) -> None:
        """Begin a phase; the one before ends. Entering a phase again adds to its time."""
        with self._lock:
            now = time.monotonic()
            seconds = now - self._phase_clock
            before = self._phase
            self._seconds[before] = self._seconds.get(before, 0.0) + seconds
            self._phase, self._phase_clock, self._touched = phase, now, now
            self._phase_start = datetime.now(UTC)
        log.info("phase", phase=phase.value, before=before.value, before_seconds=round(seconds, 3))

    def plan(self, total_steps: int, resumed_from_step: int | None = None) -> None:
        """Say how many optimizer steps there will be, and at which one this attempt begins."""
        with self._lock:
            self._total_steps = total_steps
            self._resumed_from = resumed_from_step
            self._step = resumed_from_step or 0
            self._touched = time.monotonic()

    def advance(
        self,
        step: int,
        *,
        epoch: str = "",
        metrics: Mapping[str, float] | None = None,
        eta_seconds: float | None = None,
    ) -> None:
        """Note that ``step`` optimizer steps are done; ``metrics`` replace those of equal name."""
        with self._lock:
            self._step = step
            self._epoch = epoch or self._epoch
            self._metrics.update(metrics or {})
            self._eta = eta_seconds
            self._touched = time.monotonic()

    def measured(self, metrics: Mapping[str, float]) -> None:
        """Note values that came without a step, such as an evaluation's."""
        with self._lock:
            self._metrics.update(metrics)
            self._touched = time.monotonic()

    def touch(self, count: int = 1) -> None:
        """Note that work inside a phase moved: bytes, rows or batches."""
        with self._lock:
            self._bytes += count
            self._touched = time.monotonic()

    def saved(self, checkpoint: CheckpointRef) -> None:
        """Note a complete checkpoint."""
        with self._lock:
            self._checkpoint = checkpoint
            self._touched = time.monotonic()

    def noted(self, notes: tuple[str, ...]) -> None:
        """Note why checkpoints that are there were not used."""
        with self._lock:
            self._notes = notes

    def phase_seconds(self) -> dict[str, str]:
        """Return the seconds spent in each phase so far, the running one included."""
        with self._lock:
            seconds = dict(self._seconds)
            running = time.monotonic() - self._phase_clock
            seconds[self._phase] = seconds.get(self._phase, 0.0) + running
        return {phase.value: f"{value:.3f}" for phase, value in seconds.items()}

    def snapshot(self) -> TrainerProgress:
        """Return the body of ``GET /progress``."""
        with self._lock:
            return TrainerProgress(
                stage=self._stage,
                attempt=self._attempt,
                phase=self._phase,
                phase_start_time=self._phase_start,
                step=self._step,
                total_steps=self._total_steps,
                epoch=self._epoch,
                eta_seconds=None if self._eta is None else _whole_seconds(self._eta),
                seconds_since_progress=round(time.monotonic() - self._touched, 3),
                metrics=tuple(
                    Metric(name=name, value=f"{value:.6g}") for name, value in self._metrics.items()
                ),
                checkpoint=self._checkpoint,
                resumed_from_step=self._resumed_from,
                notes=self._notes,
            )


def _whole_seconds(eta: float) -> int:
    return round(min(max(0.0, eta), LONGEST_ETA_SECONDS))


class _Metrics:
    """The same record as Prometheus gauges."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._registry = CollectorRegistry()
        gauge = self._gauge
        self._step = gauge("step", "Optimizer steps done")
        self._total = gauge("total_steps", "Optimizer steps in all")
        self._epoch = gauge("epoch", "Passes over the training rows done")
        self._idle = gauge("seconds_since_progress", "Seconds since anything moved")
        self._values = {
            name: gauge(name, f"Latest {name.replace('_', ' ')}") for name in _METRICS_ON_PAGE
        }
        self._phases = Gauge(
            "tunesmith_trainer_phase_seconds",
            "Seconds spent in each phase",
            ["phase"],
            registry=self._registry,
        )

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"tunesmith_trainer_{name}", text, registry=self._registry)

    def page(self) -> bytes:
        seen = self._progress.snapshot()
        self._step.set(seen.step)
        self._total.set(seen.total_steps)
        self._epoch.set(float(seen.epoch))
        self._idle.set(seen.seconds_since_progress)
        for metric in seen.metrics:
            if metric.name in self._values:
                self._values[metric.name].set(float(metric.value))
        for phase, seconds in self._progress.phase_seconds().items():
            self._phases.labels(phase).set(float(seconds))
        return generate_latest(self._registry)


class ProgressServer:
    """Answers ``GET /progress`` (JSON) and ``GET /metrics`` (Prometheus) from daemon threads."""

    def __init__(self, progress: Progress, port: int, host: str) -> None:
        metrics = _Metrics(progress)

        class Handler(BaseHTTPRequestHandler):
            timeout = _REQUEST_TIMEOUT_SECONDS

            def do_GET(self) -> None:
                if self.path == "/progress":
                    body = progress.snapshot().model_dump_json(by_alias=True).encode()
                    self._answer(200, "application/json", body)
                elif self.path == "/metrics":
                    self._answer(200, "text/plain; version=0.0.4; charset=utf-8", metrics.page())
                else:
                    self._answer(404, "text/plain", b"try /progress or /metrics\n")

            def _answer(self, status: int, kind: str, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Say nothing: a poll every few seconds would drown the log."""

        self._server = ThreadingHTTPServer((host, port), Handler)
        self._server.daemon_threads = True
        threading.Thread(
            target=self._server.serve_forever, name="progress-server", daemon=True
        ).start()

    @property
    def port(self) -> int:
        """The port it listens on, also where 0 was asked for."""
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()


def serve(progress: Progress, port: int, host: str = "") -> ProgressServer:
    """Serve the record, on all interfaces if no host is given; port 0 takes any free one.

    Raises OSError when the port is taken.
    """
    return ProgressServer(progress, port, host)
