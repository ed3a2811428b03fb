"""TensorBoard's file over resumes, and services that fail, hang, or go on with a run."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.trainer.conftest import Bucket
from tests.trainer.event_reading import CHECK_VALUE, crc32c, scalars
from tests.trainer.trials import PodLost, Trial
from tunesmith_api.result import UserErrorReason
from tunesmith_api.run import TrainingRun
from tunesmith_trainer.outcome import Interrupted, UserError
from tunesmith_trainer.progress import Progress, serve
from tunesmith_trainer.tracking.eventfile import EventFile
from tunesmith_trainer.tracking.identity import Identity
from tunesmith_trainer.tracking.sending import Ending, Point, Sender
from tunesmith_trainer.tracking.services import check_tracking
from tunesmith_trainer.tracking.session import EVENTS

MakeRun = Callable[..., TrainingRun]
DIGEST = "sha256:" + "1" * 64
LONG_SECONDS = 60.0
"""What takes an instant may take some seconds on a busy machine."""


@pytest.fixture
def trial(bucket: Bucket, make_run: MakeRun, tmp_path: Path) -> Trial:
    return Trial(bucket, make_run, tmp_path)


def uploaded(trial: Trial) -> list[tuple[int, str, float]]:
    return scalars(trial.bucket.get(f"runs/{trial.name}/tensorboard/{EVENTS}"))


def test_the_reader_of_these_tests_knows_the_checksum() -> None:
    assert crc32c(b"123456789") == CHECK_VALUE


def test_values_come_back_from_the_file_and_it_can_be_gone_on_with(tmp_path: Path) -> None:
    file = EventFile(tmp_path / "a", now=1.0)
    file.add(0, {"loss": 1.5}, 2.0)
    file.add(300, {"loss": 0.25, "rate": 1e-4}, 3.0)
    more = EventFile(tmp_path / "b", file.path.read_bytes(), now=9.0)
    more.add(70_000, {"loss": float("nan")}, 4.0)
    points = scalars(more.path.read_bytes())
    assert [(s, n) for s, n, _ in points] == [
        (0, "loss"), (300, "loss"), (300, "rate"), (70_000, "loss"),
    ]  # fmt: skip
    assert [v for _, _, v in points[:3]] == [1.5, 0.25, pytest.approx(1e-4)]


def test_tensorboard_itself_reads_the_file(tmp_path: Path) -> None:
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    file = EventFile(tmp_path / EVENTS, now=1.0)
    file.add(7, {"train/loss": 0.5}, 12.0)
    head, event = loader.EventFileLoader(str(file.path)).Load()
    assert head.file_version == "brain.Event:2"
    assert (event.step, event.wall_time) == (7, 12.0)
    assert event.summary.value[0].tag == "train/loss"


def test_no_point_is_twice_in_the_file_after_a_lost_pod_and_a_sigterm(trial: Trial) -> None:
    with pytest.raises(PodLost):
        trial.go(at_step=7, act=trial.lose_pod_with_saved(4))
    assert max(step for step, _, _ in uploaded(trial)) == 4, "as the checkpoint has it"
    with pytest.raises(Interrupted):
        trial.go(at_step=9)
    trial.go()
    points = uploaded(trial)
    losses = [(step, value) for step, name, value in points if name == "train/loss"]
    assert [step for step, _ in losses] == list(range(1, 13))
    assert [value for _, value in losses] == pytest.approx(trial.losses())
    names = {name for _, name, _ in points}
    assert {"train/learning_rate", "train/epoch", "train/tokens_per_second"} <= names
    assert {"train/gradient_norm", "train/peak_memory_bytes"} <= names
    assert {"evaluation/heldout/loss", "base/heldout/loss"} <= names


def test_validation_losses_are_tracked(trial: Trial) -> None:
    trial.go(earlyStopping={"everySteps": 5, "patience": 9})
    looks = [step for step, name, _ in uploaded(trial) if name == "eval/loss"]
    assert looks == [5, 10]


def test_prometheus_has_what_is_looked_at(make_run: MakeRun) -> None:
    progress = Progress.of(make_run())
    values = ("loss", "learning_rate", "gradient_norm", "tokens_per_second", "peak_memory_bytes")
    progress.advance(3, epoch="0.250", metrics=dict.fromkeys(values, 2.0))
    server = serve(progress, 0)
    try:
        page = httpx.get(f"http://127.0.0.1:{server.port}/metrics", timeout=60).text
    finally:
        server.close()
    for name in values:
        assert f"tunesmith_trainer_{name} 2.0" in page
    assert "tunesmith_trainer_epoch 0.25" in page
    assert "tunesmith_trainer_step 3.0" in page


class Memory:
    """A service in memory; `trouble` is called before each act, with its name."""

    def __init__(
        self,
        trouble: Callable[[str], None] = lambda _: None,
        known: Mapping[str, int] | None = None,
    ) -> None:
        self.trouble, self.known = trouble, known or {}
        self.points: list[Point] = []
        self.ending: Ending | None = None

    def open(self) -> Mapping[str, int]:
        self.trouble("open")
        return self.known

    def send(self, points: Sequence[Point]) -> None:
        self.trouble("send")
        self.points += points

    def close(self, ending: Ending) -> None:
        self.trouble("close")
        self.ending = ending


def sending(service: Memory, **settings: Any) -> Sender:
    return Sender("memory", lambda: service, **{"period_seconds": 0.01} | settings)


def fill(sender: Sender, count: int) -> None:
    for step in range(count):
        sender.add(Point(step, 0.0, {"loss": float(step)}))


def test_a_service_that_fails_at_first_gets_everything_in_the_end() -> None:
    left = ["open", "open", "send"]

    def trouble(act: str) -> None:
        if left and left[0] == act:
            left.pop(0)
            raise OSError("away")

    service = Memory(trouble)
    sender = sending(service)
    fill(sender, 300)
    deadline = time.monotonic() + LONG_SECONDS
    while len(service.points) < 300 and time.monotonic() < deadline:
        time.sleep(0.01)
    sender.finish(Ending.FINISHED, LONG_SECONDS)
    assert [point.step for point in service.points] == list(range(300))
    assert (sender.dropped, service.ending) == (0, Ending.FINISHED)
    assert not left


def test_a_service_that_hangs_costs_points_and_no_time() -> None:
    release = threading.Event()
    sender = sending(Memory(lambda _: release.wait() and None), capacity=50)
    start = time.monotonic()
    fill(sender, 1000)
    sender.finish(Ending.FINISHED, 0.2)
    # It hangs for ever.
    assert time.monotonic() - start < 20
    assert sender.dropped == 1000
    release.set()


def test_a_service_that_is_never_there_ends_with_the_attempt() -> None:
    def trouble(_: str) -> None:
        raise ImportError("broken")

    # It would be tried again after a minute.
    sender = sending(Memory(trouble), period_seconds=60)
    fill(sender, 3)
    start = time.monotonic()
    sender.finish(Ending.FAILED, 55)
    assert time.monotonic() - start < 40
    assert sender.dropped == 3


def test_steps_that_the_service_has_are_not_sent_again() -> None:
    service = Memory(known={"loss": 4})
    sender = sending(service)
    fill(sender, 7)
    sender.add(Point(4, 0.0, {"loss": 4.0, "eval/loss": 1.0}))
    sender.finish(Ending.INTERRUPTED, LONG_SECONDS)
    seen = [(point.step, name) for point in service.points for name in point.values]
    assert seen == [(5, "loss"), (6, "loss"), (4, "eval/loss")]


def test_attempts_of_a_run_share_its_key_and_other_inputs_do_not(make_run: MakeRun) -> None:
    def key(attempt: int, inputs: str) -> str:
        return Identity.of(make_run(attempt=attempt), inputs, DIGEST, "s3://r").key

    assert key(1, DIGEST) == key(2, DIGEST) != key(1, DIGEST.replace("1", "2"))


def test_a_service_is_told_of_the_settings_and_no_secret(make_run: MakeRun) -> None:
    run = make_run(model={"uri": "builtin://tiny", "secretRef": {"name": "hub-keys"}})
    identity = Identity.of(run, DIGEST, DIGEST, "s3://r/report.json")
    assert identity.parameters["method.lora.rank"] == "16"
    assert identity.parameters["hyperparameters.learningRate"] == "2e-4"
    assert identity.tags["tunesmith.job"] == "default/demo"
    assert identity.tags["tunesmith.dataset"] == DIGEST
    assert "hub-keys" not in json.dumps(identity.parameters | identity.tags)


def with_tracking(bucket: Bucket, tracking: dict[str, Any]) -> dict[str, Any]:
    return {"output": {"uri": bucket.uri("runs/"), "artifacts": ["Adapter"], "tracking": tracking}}


WANDB = {"wandb": {"project": "p", "secretRef": {"name": "keys"}}}


def test_a_package_that_the_image_lacks_is_named_before_anything_is_done(
    bucket: Bucket, make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = "tunesmith_trainer.tracking.services.find_spec"
    monkeypatch.setattr(find, lambda name: None)
    run = make_run(**with_tracking(bucket, {"mlflow": {"uri": "http://mlflow:5000"}}))
    with pytest.raises(UserError, match="mlflow-skinny") as caught:
        check_tracking(run, tmp_path)
    assert caught.value.reason == UserErrorReason.PACKAGE_MISSING
    monkeypatch.setattr(find, lambda name: object())
    check_tracking(run, tmp_path)
    wanted = make_run(**with_tracking(bucket, WANDB))
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match="WANDB_API_KEY"):
        check_tracking(wanted, tmp_path)
    # Without a cluster there is no Secret.
    for name, value in (("WANDB_API_KEY", "k"), ("WANDB_MODE", "offline")):
        with monkeypatch.context() as patched:
            patched.setenv(name, value)
            check_tracking(wanted, tmp_path)


def test_a_resumed_run_is_one_run_in_mlflow(
    bucket: Bucket, make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    # The store of files needs no database, which is all that MLflow holds against it.
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = f"file://{tmp_path / 'mlruns'}"
    tracking = {"mlflow": {"uri": uri, "experiment": "tries"}}
    trial = Trial(bucket, make_run, tmp_path, sections=with_tracking(bucket, tracking))
    with pytest.raises(Interrupted):
        trial.go(at_step=7)
    client = mlflow.MlflowClient(tracking_uri=uri)
    (experiment,) = [e for e in client.search_experiments() if e.name == "tries"]

    def run_with(status: str) -> Any:
        """Wait for the end of the one run: what is sent in the end may outlive the attempt."""
        until = time.monotonic() + LONG_SECONDS
        while True:
            (found,) = client.search_runs([experiment.experiment_id])
            if found.info.status == status:
                return found
            assert time.monotonic() < until, f"{found.info.status}, not {status}"
            time.sleep(0.05)

    first = run_with("KILLED")
    trial.go()
    run = run_with("FINISHED")
    assert run.info.run_id == first.info.run_id
    assert run.data.tags["tunesmith.attempt"] == "2"
    assert run.data.tags["tunesmith.report"] == f"{trial.run_uri}report.json"
    assert run.data.params["method.lora.rank"] == "4"
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert [point.step for point in history] == list(range(1, 13))
    assert [point.value for point in history] == trial.losses()
    assert run.data.metrics["evaluation/heldout/loss"] < run.data.metrics["base/heldout/loss"]


def test_a_run_ends_well_while_mlflow_is_away(
    bucket: Bucket, make_run: MakeRun, tmp_path: Path
) -> None:
    pytest.importorskip("mlflow")
    tracking = {"mlflow": {"uri": "http://127.0.0.1:9"}}
    trial = Trial(bucket, make_run, tmp_path, sections=with_tracking(bucket, tracking))
    assert trial.go().report_digest


def test_wandb_gets_a_run_when_offline(
    bucket: Bucket, make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    trial = Trial(bucket, make_run, tmp_path, sections=with_tracking(bucket, WANDB))
    trial.go()
    (log,) = (trial.work(1) / "wandb").rglob("run-*.wandb")
    data = log.read_bytes()
    assert b"train/loss" in data and b"evaluation/heldout/loss" in data
    assert b"tunesmith.dataset" in data
