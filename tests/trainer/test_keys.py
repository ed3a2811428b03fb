"""Keys of endpoints: none where no Secret is named, and one that is missing is told of at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.conftest import Bucket
from tunesmith_api.run import TrainingRun
from tunesmith_trainer.keys import check_keys
from tunesmith_trainer.outcome import UserError
from tunesmith_trainer.prepare import prepare
from tunesmith_trainer.progress import Progress
from tunesmith_trainer.stopping import StopSignal

MakeRun = Callable[..., TrainingRun]

JUDGE = {"url": "http://judge:8000/v1", "model": "j"}
ENDPOINT = {"url": "http://generator:8000/v1", "model": "g"}
TRACKING = "http://mlflow:5000"
SECRET = {"secretRef": {"name": "keys"}}
VARIABLES = ("API_KEY", "OPENAI_API_KEY", "MLFLOW_TRACKING_TOKEN")


def judged(bucket: Bucket, more: dict[str, Any]) -> dict[str, Any]:
    return {"evaluation": {"suites": [{"name": "j", "judge": JUDGE | more}]}}


def generated(bucket: Bucket, more: dict[str, Any]) -> dict[str, Any]:
    synthetic = {"generator": ENDPOINT | more, "prompts": ["More."], "samples": 1}
    train = {"uri": bucket.uri("data/train.jsonl")}
    return {"dataset": {"train": train, "synthetic": synthetic}}


def tracked(bucket: Bucket, more: dict[str, Any]) -> dict[str, Any]:
    tracking = {"mlflow": {"uri": TRACKING, **more}}
    return {"output": {"uri": bucket.uri("runs/"), "tracking": tracking}}


ENDPOINTS = [
    pytest.param(judged, "evaluation.suites[0].judge", "judge-0/API_KEY", id="judge"),
    pytest.param(
        generated, "dataset.synthetic.generator", "generator/OPENAI_API_KEY", id="generator"
    ),
    pytest.param(tracked, "output.tracking.mlflow", "mlflow/MLFLOW_TRACKING_TOKEN", id="mlflow"),
]


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(("section", "field", "file"), ENDPOINTS)
def test_a_secret_that_is_named_must_hold_its_key(
    bucket: Bucket,
    make_run: MakeRun,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    section: Callable[[Bucket, dict[str, Any]], dict[str, Any]],
    field: str,
    file: str,
) -> None:
    check_keys(make_run(**section(bucket, {})), tmp_path)
    run, path = make_run(**section(bucket, SECRET)), tmp_path / file
    for content in (None, " \n"):
        path.parent.mkdir(exist_ok=True)
        if content is not None:
            path.write_text(content)
        with pytest.raises(UserError) as caught:
            check_keys(run, tmp_path)
        assert caught.value.reason == "CredentialsMissing"
        for words in ("Secret keys", f"{field}.secretRef", path.name, "leave secretRef out"):
            assert words in str(caught.value)
    path.write_text("k1\n")
    check_keys(run, tmp_path)
    path.unlink()
    monkeypatch.setenv(path.name, "of a run without a cluster")
    check_keys(run, tmp_path)


def test_a_judges_key_is_missed_before_anything_is_read(
    bucket: Bucket, make_run: MakeRun, tmp_path: Path
) -> None:
    """There is no data either: what is found first costs nothing."""
    dataset = {"train": {"uri": bucket.uri("none.jsonl")}, "test": {"percent": "20"}}
    suites = [{"name": "heldout", "heldOut": {}}, {"name": "j", "judge": JUDGE | SECRET}]
    run = make_run(evaluation={"suites": suites}, dataset=dataset)
    with pytest.raises(UserError, match="Secret keys, named in") as caught:
        prepare(run, tmp_path, Progress(run.stage, run.attempt), StopSignal())
    assert caught.value.reason == "CredentialsMissing"
