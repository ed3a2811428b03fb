"""How an attempt begins and ends: the run is read, progress is served, the result fits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from botocore.exceptions import ReadTimeoutError

from tests.ports import refusing_port
from tests.trainer.conftest import Bucket, jsonl, pairs
from tunesmith_api.attempts import StageName
from tunesmith_api.jobstatus import ArtifactStatus
from tunesmith_api.measurements import BaselineValue, Measurement
from tunesmith_api.output import ArtifactName
from tunesmith_api.result import (
    TERMINATION_BYTES,
    CheckpointRef,
    ExitCode,
    Outcome,
    Phase,
    TrainerProgress,
    TrainerResult,
    TrainingSummary,
    UserErrorReason,
)
from tunesmith_api.run import TrainingRun
from tunesmith_trainer.__main__ import main
from tunesmith_trainer.outcome import (
    Interrupted,
    OutOfMemory,
    Superseded,
    UserError,
    classify,
    exit_code,
    failed,
    write_result,
)
from tunesmith_trainer.progress import Progress, serve
from tunesmith_trainer.stopping import StopSignal

MakeRun = Callable[..., TrainingRun]
DIGEST = "sha256:" + "0" * 64


class OutOfMemoryError(RuntimeError):
    """Called as torch calls its own."""


@pytest.mark.parametrize(
    ("error", "outcome", "reason"),
    [
        pytest.param(
            UserError(UserErrorReason.MODEL_NOT_FOUND, "x"),
            Outcome.USER_ERROR,
            "ModelNotFound",
            id="a user's error stays one",
        ),
        pytest.param(Interrupted(), Outcome.CHECKPOINTED, "Interrupted", id="SIGTERM"),
        pytest.param(Superseded("x"), Outcome.INFRASTRUCTURE, "Superseded", id="a newer attempt"),
        pytest.param(
            OutOfMemoryError("CUDA"),
            Outcome.OUT_OF_MEMORY,
            "OutOfMemory",
            id="torch's out of memory",
        ),
        pytest.param(MemoryError(), Outcome.OUT_OF_MEMORY, "OutOfMemory", id="Python's"),
        pytest.param(
            RuntimeError("DefaultCPUAllocator: not enough memory"),
            Outcome.OUT_OF_MEMORY,
            "OutOfMemory",
            id="torch's on CPU",
        ),
        pytest.param(
            ReadTimeoutError(endpoint_url="http://s3"),
            Outcome.INFRASTRUCTURE,
            "StorageUnavailable",
            id="an S3 error nobody caught",
        ),
        pytest.param(OSError(28, "full"), Outcome.INFRASTRUCTURE, "DiskFull", id="a full disk"),
        pytest.param(
            ValueError("I/O error: No space left on device (os error 28)"),
            Outcome.INFRASTRUCTURE,
            "DiskFull",
            id="a full disk in Rust",
        ),
        pytest.param(OSError(5, "bad"), Outcome.INFRASTRUCTURE, "LocalIOError", id="a bad disk"),
        pytest.param(KeyError("x"), Outcome.INFRASTRUCTURE, "InternalError", id="a bug"),
    ],
)
def test_every_error_is_sorted(error: Exception, outcome: Outcome, reason: str) -> None:
    known = classify(error)
    assert (known.outcome, known.reason) == (outcome, reason)
    assert known.message


def test_every_outcome_has_an_exit_code() -> None:
    assert {exit_code(outcome) for outcome in Outcome} == set(ExitCode)


@pytest.mark.parametrize(
    "text", ["x", "ä€🎵\n" * 5000, '"\\' * 3000], ids=["short", "wide", "escaped"]
)
def test_the_result_fits_and_keeps_the_digest(text: str, tmp_path: Path) -> None:
    full = TrainerResult(
        stage=StageName.TRAIN,
        attempt=3,
        outcome=Outcome.SUCCEEDED,
        reason="Trained",
        message=text,
        report_digest="sha256:" + "0" * 64,
        measurements=tuple(
            Measurement(metric=f"suite-{n}/perplexity", value="1.25", base_value="2.5")
            for n in range(32)
        ),
    )
    path = tmp_path / "log"
    write_result(full, path)
    data = path.read_bytes()
    assert len(data) <= TERMINATION_BYTES
    back = TrainerResult.model_validate_json(data)
    assert back.report_digest == full.report_digest
    assert back.message


def test_the_longest_names_fit_into_the_result(tmp_path: Path) -> None:
    """output.uri and the job's name as long as the API lets them be."""
    run_uri = f"s3://{'b' * 63}/{'p' * 151}/{'n' * 45}-12345678/"
    kept = {
        ArtifactStatus(
            name=name.value,
            uri=f"{run_uri}{name.value.lower()}/attempt-100/",
            digest=DIGEST,
            size_bytes=10**12,
        )
        for name in ArtifactName
    }
    ends = {"low": "0.12345", "high": "0.12345"}
    difference = {"difference_low": "-0.12345", "difference_high": "-0.12345"}
    long = Measurement(
        metric=f"{'s' * 30}/token_accuracy",
        value="0.1234567891",
        base_value="0.1234567891",
        others=(BaselineValue(name="Deployed", value="0.1234567891", **difference),),
        **ends,
        **difference,
    )
    full = TrainerResult(
        stage=StageName.TRAIN,
        attempt=100,
        outcome=Outcome.SUCCEEDED,
        reason="Trained",
        message="m" * 1000,
        step=10**6,
        dataset_digest=DIGEST,
        model_revision="r" * 40,
        training=TrainingSummary(
            steps=10**6, first_loss="1.234567891", last_loss="1.234567891", tokens=10**12
        ),
        measurements=(long,) * 8,
        artifacts=tuple(kept),
        report_uri=f"{run_uri}report.json",
        report_digest=DIGEST,
    )
    write_result(full, tmp_path / "log")
    back = TrainerResult.model_validate_json((tmp_path / "log").read_bytes())
    assert set(back.artifacts) == kept
    # All six forms with names as long as these leave room for half of the measurements.
    assert len(back.measurements) >= 4
    assert {m.value for m in back.measurements} == {"0.1234567891"}
    # The first are those that gates ask for: their intervals go last.
    whole = [m == long for m in back.measurements]
    assert whole == sorted(whole, reverse=True)


def test_a_failure_tells_how_far_it_got() -> None:
    progress = Progress(StageName.TRAIN, 4)
    progress.plan(10, resumed_from_step=2)
    progress.advance(5)
    checkpoint = CheckpointRef(step=4, uri="s3://b/c/", time=datetime.now(UTC))
    progress.saved(checkpoint)
    result = failed(OutOfMemory("x"), progress.snapshot())
    assert (result.step, result.resumed_from_step, result.attempt) == (5, 2, 4)
    assert result.checkpoint == checkpoint


def test_progress_is_served_to_the_operator_and_to_prometheus() -> None:
    progress = Progress(StageName.TRAIN, 2)
    server = serve(progress, 0)
    try:
        progress.enter(Phase.TRAINING)
        progress.plan(100)
        progress.advance(
            7, epoch="0.7", metrics={"loss": 1.23456789, "tokens_per_second": 99}, eta_seconds=12.6
        )
        url = f"http://127.0.0.1:{server.port}"
        seen = TrainerProgress.model_validate_json(httpx.get(f"{url}/progress", timeout=60).content)
        assert (seen.phase, seen.step, seen.total_steps) == (Phase.TRAINING, 7, 100)
        assert (seen.epoch, seen.eta_seconds) == ("0.7", 13)
        assert {m.name: m.value for m in seen.metrics} == {
            "loss": "1.23457",
            "tokens_per_second": "99",
        }
        page = httpx.get(f"{url}/metrics", timeout=60).text
        assert "tunesmith_trainer_step 7.0" in page
        assert "tunesmith_trainer_loss 1.23457" in page
        assert 'tunesmith_trainer_phase_seconds{phase="Training"}' in page
        assert httpx.get(f"{url}/secrets", timeout=60).status_code == 404
    finally:
        server.close()


def test_only_real_advance_is_progress() -> None:
    progress = Progress(StageName.PREPARE, 1)
    time.sleep(0.05)
    assert progress.snapshot().seconds_since_progress >= 0.05
    before = time.monotonic()
    progress.touch(10)
    since = progress.snapshot().seconds_since_progress
    # Rounded to thousandths.
    assert since <= time.monotonic() - before + 0.001


def test_progress_may_be_changed_from_many_threads() -> None:
    progress = Progress(StageName.TRAIN, 1)

    def work() -> None:
        for step in range(200):
            progress.advance(step, metrics={f"m{step % 7}": 1.0})
            progress.snapshot()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(progress.snapshot().metrics) == 7


def test_a_sleep_ends_with_the_signal() -> None:
    stop = StopSignal()
    threading.Timer(0.1, stop.request).start()
    began = time.monotonic()
    with pytest.raises(Interrupted):
        stop.sleep(200)
    assert time.monotonic() - began < 100


@pytest.fixture
def attempt(tmp_path: Path) -> Any:
    """Run the entry point on the text of a run; gives exit code and result."""
    before = signal.getsignal(signal.SIGTERM)

    def go(text: str) -> tuple[int, TrainerResult]:
        (tmp_path / "run.json").write_text(text)
        result = tmp_path / "result"
        code = main(
            [
                *["--run", str(tmp_path / "run.json"), "--work", str(tmp_path / "work")],
                *["--port", "0", "--result", str(result)],
            ]
        )
        return code, TrainerResult.model_validate_json(result.read_bytes())

    yield go
    signal.signal(signal.SIGTERM, before)


def test_a_prepare_run_from_its_file_to_its_result(
    bucket: Bucket, make_run: MakeRun, attempt: Any
) -> None:
    bucket.put("data/train.jsonl", jsonl(*pairs(20)))
    code, result = attempt(make_run(attempt=3).model_dump_json(by_alias=True))
    assert (code, result.outcome, result.attempt) == (0, Outcome.SUCCEEDED, 3)
    assert result.dataset_digest and result.model_revision
    assert result.data is not None and result.data.rows.read == 20


def test_a_users_error_becomes_a_result(make_run: MakeRun, attempt: Any) -> None:
    code, result = attempt(make_run().model_dump_json(by_alias=True))
    assert code == ExitCode.USER_ERROR
    assert (result.outcome, result.reason) == (Outcome.USER_ERROR, "DatasetNotFound")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        pytest.param({"version": "tunesmith.dev/run.v9"}, "version", id="another version"),
        pytest.param({"surprise": 1}, "surprise", id="a field nobody knows"),
        pytest.param({"dataset": {}}, "dataset.train", id="a field missing"),
    ],
)
def test_a_run_that_is_not_valid_names_the_field(
    change: dict[str, Any], word: str, make_run: MakeRun, attempt: Any
) -> None:
    run = make_run(attempt=5).model_dump(mode="json", by_alias=True) | change
    code, result = attempt(json.dumps(run))
    assert code == ExitCode.USER_ERROR
    assert (result.reason, result.attempt) == ("InvalidRun", 5)
    assert word in result.message


def test_no_run_at_all(attempt: Any) -> None:
    assert attempt("not json")[1].reason == "InvalidRun"


def test_another_ranks_failure_is_not_hidden(
    make_run: MakeRun, attempt: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = failed(OutOfMemory("rank 1"), Progress(StageName.PREPARE, 1).snapshot())
    write_result(first, tmp_path / "result")
    monkeypatch.setattr("tunesmith_trainer.__main__._do_stage", _interrupted)
    code, result = attempt(make_run().model_dump_json(by_alias=True))
    assert code == ExitCode.CHECKPOINTED
    assert result.outcome is Outcome.OUT_OF_MEMORY


def _interrupted(*_: object) -> TrainerResult:
    raise Interrupted


def test_sigterm_to_the_real_process_ends_it_with_a_result(
    make_run: MakeRun, bucket: Bucket, tmp_path: Path
) -> None:
    # Nobody listens there, so the trainer waits for S3 when the signal comes.
    with refusing_port() as port:
        away = bucket.connection.model_copy(update={"endpoint": f"http://127.0.0.1:{port}"})
        run = make_run(s3=away.model_dump(by_alias=True))
        (tmp_path / "run.json").write_text(run.model_dump_json(by_alias=True))
        process = subprocess.Popen(
            [
                *[sys.executable, "-m", "tunesmith_trainer", "--port", "0"],
                *["--run", str(tmp_path / "run.json"), "--work", str(tmp_path)],
                *["--result", str(tmp_path / "end")],
            ],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": "operator:trainer_image", "PYTHONUNBUFFERED": "1"},
        )
        assert process.stdout is not None
        for line in process.stdout:
            if b"trying again" in line:
                break
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=200)
    assert process.returncode == ExitCode.CHECKPOINTED
    result = TrainerResult.model_validate_json((tmp_path / "end").read_bytes())
    assert result.outcome is Outcome.CHECKPOINTED
