"""A disturbed run ends with the same losses and the same weights, bit for bit."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.conftest import Bucket
from tests.trainer.trials import PodLost, Trial, lose_pod
from tunesmith_api.measurements import Measurement
from tunesmith_api.result import Outcome, UserErrorReason
from tunesmith_trainer.outcome import Infrastructure, Interrupted, Superseded, UserError
from tunesmith_trainer.snapshot import Snapshot

MakeTrial = Callable[..., Trial]

FULL = {"method": {"full": {}}, "output": {"uri": "s3://any/", "artifacts": ["Merged"]}}
QLORA = {"method": {"qlora": {"rank": 4, "alpha": 8, "dropout": "0.1"}}}
DORA = {"method": {"lora": {"rank": 4, "alpha": 8, "variant": "DoRA"}}}

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def make_trial(bucket: Bucket, make_run: Any, tmp_path: Path) -> MakeTrial:
    def make(**settings: Any) -> Trial:
        return Trial(bucket, make_run, tmp_path, **settings)

    return make


def be_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class End:
    """What must not depend on disturbances."""

    curve: list[str]
    weights: dict[str, str]
    measurements: tuple[Measurement, ...]

    @classmethod
    def of(cls, trial: Trial) -> End:
        made = trial.report().artifacts[0].name.lower()
        return cls(trial.curve(), trial.artifact(made), trial.report().measurements)


_ENDS: dict[str, End] = {}


def undisturbed(make_trial: MakeTrial, **settings: Any) -> End:
    """Give the end of the run that nothing happens to; made once for the same settings."""
    key = repr(settings)
    if key not in _ENDS:
        calm = make_trial(name="calm", **settings)
        calm.go()
        _ENDS[key] = End.of(calm)
    return _ENDS[key]


@pytest.mark.parametrize(
    ("settings", "stops"),
    [
        pytest.param({}, [2], id="before the first checkpoint that is due, with dropout"),
        pytest.param({}, [9], id="in epoch 2"),
        pytest.param({}, [7, 9, 10], id="three times in one epoch"),
        pytest.param({}, [12], id="after the last step"),
        pytest.param(
            {"hyperparameters": {"perDeviceBatchSize": 2, "gradientAccumulationSteps": 2}},
            [5],
            id="with accumulation",
        ),
        pytest.param({"hyperparameters": {"packing": "Disabled"}}, [7], id="padded"),
        pytest.param(
            {"hyperparameters": {"neftuneAlpha": "5", "labelSmoothing": "0.1"}},
            [7],
            id="with noise and smoothing",
        ),
        pytest.param(
            {"hyperparameters": {"scheduler": "CosineWithRestarts", "schedulerCycles": 3}},
            [3, 6],
            id="with a rate that rises again, stopped before it and after",
        ),
        pytest.param({"sections": DORA}, [7], id="DoRA"),
        pytest.param({"hyperparameters": {"optimizer": "Adafactor"}}, [7], id="Adafactor"),
        pytest.param({"sections": QLORA}, [7], id="QLoRA"),
        pytest.param({"sections": FULL}, [5], id="all weights"),
        pytest.param(
            {"hyperparameters": {"earlyStopping": {"everySteps": 2, "patience": 9}}},
            [4],
            id="on a step whose look at the validation loss is still due",
        ),
    ],
)
def test_sigterm_loses_nothing(
    make_trial: MakeTrial, settings: dict[str, Any], stops: list[int]
) -> None:
    disturbed = make_trial(name="cut", **settings)
    for step in stops:
        with pytest.raises(Interrupted):
            disturbed.go(at_step=step)
        saved = disturbed.progress.snapshot().checkpoint
        assert saved is not None
        assert saved.step == step
    result = disturbed.go()
    assert result.outcome is Outcome.SUCCEEDED
    assert result.resumed_from_step == stops[-1]
    assert End.of(disturbed) == undisturbed(make_trial, **settings)


def test_a_lost_pod_costs_the_steps_since_the_last_checkpoint(make_trial: MakeTrial) -> None:
    disturbed = make_trial(name="cut")
    with pytest.raises(PodLost):
        disturbed.go(at_step=7, act=disturbed.lose_pod_with_saved(4))
    assert disturbed.go().resumed_from_step == 4
    assert End.of(disturbed) == undisturbed(make_trial)


def test_sigkill_loses_nothing_but_time(
    make_trial: MakeTrial, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that is killed, with its threads and an upload that may be on its way."""
    # A child that was forked has none of OpenMP's threads and must not wait for them.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    accumulating = {"perDeviceBatchSize": 2, "gradientAccumulationSteps": 2}
    disturbed = make_trial(name="cut", hyperparameters=accumulating)
    for step in (3, 8, 10, 12):
        child = multiprocessing.get_context("fork").Process(
            target=disturbed.go, kwargs={"at_step": step, "act": be_killed}
        )
        child.start()
        child.join(200)
        assert child.exitcode == -signal.SIGKILL
        disturbed.attempts += 1
    assert disturbed.go().resumed_from_step in {4, 8, 12}
    calm = make_trial(name="calm", hyperparameters=accumulating)
    calm.go()
    assert End.of(disturbed) == End.of(calm)


@pytest.mark.parametrize("harm", ["flip", "cut off", "remove"])
def test_a_damaged_checkpoint_is_passed_over_and_named(make_trial: MakeTrial, harm: str) -> None:
    disturbed = make_trial(name="cut")
    with pytest.raises(Interrupted):
        disturbed.go(at_step=6)
    key = "runs/cut/checkpoints/step-00000006/attempt-1/optimizer.pt"
    bucket, data = disturbed.bucket, bytearray(disturbed.bucket.get(key))
    data[len(data) // 2] ^= 1
    if harm == "remove":
        bucket.client.delete_object(Bucket=bucket.name, Key=key)
    else:
        bucket.put(key, bytes(data) if harm == "flip" else bytes(data[:-100]))
    result = disturbed.go()
    assert result.resumed_from_step == 4
    assert "checkpoint of step 6 is damaged" in result.message
    (note,) = disturbed.progress.snapshot().notes
    assert "checkpoint of step 6 is damaged" in note
    assert End.of(disturbed) == undisturbed(make_trial)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_an_upload_that_was_cut_off_is_no_checkpoint(make_trial: MakeTrial, share: float) -> None:
    """The manifest is last, so a pod that is killed leaves some files, and never the manifest."""
    trial = make_trial(name="cut")
    with pytest.raises(Interrupted):
        trial.go(at_step=6)
    keys = trial.bucket.keys("runs/cut/checkpoints/step-00000006/")
    files = [key for key in keys if not key.endswith("manifest.json")]
    assert len(files) >= 4
    for key in {*keys} - {*files[: round(share * len(files))]}:
        trial.bucket.client.delete_object(Bucket=trial.bucket.name, Key=key)
    assert trial.go().resumed_from_step == 4
    assert trial.progress.snapshot().notes == (), "nothing was promised, nothing is damaged"
    assert End.of(trial) == undisturbed(make_trial)


def test_twenty_disruptions_at_random_steps_change_nothing(make_trial: MakeTrial) -> None:
    chance = random.Random(20)
    longer = {"hyperparameters": {"epochs": "5"}}
    trial, least, most = make_trial(name="cut", **longer), 0, 0
    for number in range(20):
        is_kill = number % 3 > 0
        step = most + chance.randrange(1, 4)
        with pytest.raises(PodLost if is_kill else Interrupted):
            trial.go(at_step=step, act=lose_pod if is_kill else None)
        begun = trial.progress.snapshot().resumed_from_step or 0
        assert least <= begun <= most
        # A kill may come while the checkpoint of every fourth step is still on its way.
        least, most = (begun, max(most, step // 4 * 4)) if is_kill else (step, step)
    result = trial.go()
    assert result.outcome is Outcome.SUCCEEDED
    assert trial.attempts == 21
    assert End.of(trial) == undisturbed(make_trial, **longer)


def test_checkpoints_of_other_inputs_are_refused_and_kept(make_trial: MakeTrial) -> None:
    trial = make_trial(name="cut")
    with pytest.raises(Interrupted):
        trial.go(at_step=6)
    kept = trial.bucket.keys("runs/cut/checkpoints/")
    with pytest.raises(
        UserError, match=r"differs in hyperparameters\. Set checkpoint\.resume"
    ) as caught:
        trial.go(learningRate="1e-3")
    assert caught.value.reason == UserErrorReason.CHECKPOINT_MISMATCH
    assert trial.bucket.keys("runs/cut/checkpoints/") == kept
    assert trial.go().resumed_from_step == 6
    assert End.of(trial) == undisturbed(make_trial)


def test_resume_never_starts_anew(make_trial: MakeTrial) -> None:
    trial = make_trial(name="cut", sections={"checkpoint": {"everySteps": 4, "resume": "Never"}})
    with pytest.raises(Interrupted):
        trial.go(at_step=6)
    assert trial.go(learningRate="1e-3").resumed_from_step is None
    slower = {"learningRate": "1e-3"}
    assert End.of(trial) == undisturbed(make_trial, hyperparameters=slower)


@pytest.mark.parametrize("rows", [4, 3], ids=["four rows", "three rows, which have no half"])
def test_half_the_micro_batch_goes_on_from_the_checkpoint(make_trial: MakeTrial, rows: int) -> None:
    given = {"hyperparameters": {"perDeviceBatchSize": rows}}
    disturbed = make_trial(name="cut", **given)
    with pytest.raises(Interrupted):
        disturbed.go(at_step=6)
    halved = disturbed.run().hyperparameters.halved()
    result = disturbed.go(
        perDeviceBatchSize=halved.per_device_batch_size,
        gradientAccumulationSteps=halved.gradient_accumulation_steps,
    )
    assert result.resumed_from_step == 6
    calm = undisturbed(make_trial, **given).curve
    assert disturbed.curve()[:6] == calm[:6]
    # Dropout falls otherwise on other micro-batches, so only nearly the same.
    expected = [float(json.loads(line)["loss"]) for line in calm]
    assert disturbed.losses()[6:] == pytest.approx(expected[6:], rel=0.2)


def test_only_the_last_checkpoints_are_kept_and_none_after_success(make_trial: MakeTrial) -> None:
    trial = make_trial(sections={"checkpoint": {"everySteps": 2, "keepLast": 2}})
    with pytest.raises(Interrupted):
        trial.go(at_step=9)
    keys = trial.bucket.keys("runs/u-1/checkpoints/")
    assert {key.split("/")[3] for key in keys} == {"step-00000008", "step-00000009"}
    trial.go()
    assert trial.bucket.keys("runs/u-1/checkpoints/") == []


def test_an_old_attempt_cannot_write_any_more(make_trial: MakeTrial) -> None:
    trial = make_trial()
    trial.attempts = 1
    with pytest.raises(Interrupted):
        trial.go(at_step=5)
    trial.attempts = 0
    with pytest.raises(Superseded):
        trial.go()


def test_a_newer_attempt_ends_the_old_one_at_its_next_checkpoint(make_trial: MakeTrial) -> None:
    old, new = make_trial(), make_trial(name="u-1")
    new.attempts = 1

    def start_newer() -> None:
        with pytest.raises(Interrupted):
            new.go(at_step=2)

    with pytest.raises(Superseded):
        old.go(at_step=3, act=start_newer)
    assert not any("attempt-1/manifest" in k for k in old.bucket.keys("runs/u-1/checkpoints/"))
    assert new.go().outcome is Outcome.SUCCEEDED


@pytest.mark.parametrize("megabytes", [1, 3], ids=["weights do not fit", "optimizer does not fit"])
def test_a_full_disk_is_named_and_leaves_room_to_say_so(tmp_path: Path, megabytes: int) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(disk)]
    if subprocess.run(mounted, check=False, capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        two_mebibytes = torch.zeros(1 << 19)
        snapshot = Snapshot(
            step=1,
            weights={"w": two_mebibytes},
            optimizer={"optimizer": {"state": {0: {"m": two_mebibytes}}}, "scaler": None},
            chances=[],
            state="{}",
            curve=(),
            events=b"",
            references={},
        )
        with pytest.raises(
            Infrastructure, match=r"4\.2 MiB are needed .*, \d\.\d MiB are free"
        ) as full:
            snapshot.write(disk / "step-1")
        assert full.value.reason == "DiskFull"
        assert not list(disk.iterdir())
    finally:
        # Lazily: the writer of torch that failed still has its file open.
        subprocess.run(["umount", "--lazy", str(disk)], check=True)
