"""The demo's first half: how a job is followed, what is printed of it, which caches are removed."""

import json
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import pytest
from rich.console import Console

from deploy import display, results, watch
from deploy.kubectl import Kubectl, Manifest
from deploy.removal import OURS, remove_caches
from deploy.shell import Log, StepError
from deploy.storage import BUCKET, Storage
from deploy.watch import Timeline
from tests.unit.jobs import make_job
from tunesmith_api.jobstatus import (
    DisplayStage,
    FineTuneJobStatus,
    NamedRef,
    ProgressStatus,
    ReportRef,
)
from tunesmith_api.measurements import EvaluationStatus, Measurement, Metric
from tunesmith_api.meta import Condition

NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
DIGEST = "sha256:" + "0" * 64
PREPARING = FineTuneJobStatus(stage=DisplayStage.PREPARE)
TRAINING = FineTuneJobStatus(
    stage=DisplayStage.TRAIN,
    progress=ProgressStatus(step=7, total_steps=40, percent=17, phase="training", eta="1m5s"),
    metrics=(Metric(name="loss", value="1.25"), Metric(name="tokens_per_second", value="170")),
)


def condition(kind: str, status: str = "True", message: str = "so") -> Condition:
    return Condition(
        type=kind, status=status, reason="Because", message=message, last_transition_time=NOW
    )


COMPLETE = TRAINING.model_copy(
    update={
        "stage": DisplayStage.COMPLETE,
        "conditions": (condition("Complete"), condition("Offered")),
        "evaluation": EvaluationStatus(
            verdict="Passed",
            measurements=(Measurement(metric="heldout/loss", value="1.1", base_value="2.2"),),
        ),
        "model_version_ref": NamedRef(name="chat-v1"),
        "report": ReportRef(uri=f"s3://{BUCKET}/out/report.json", digest=DIGEST),
    }
)
FAILED = PREPARING.model_copy(
    update={"conditions": (condition("Failed", message="line 2 is [broken]"),)}
)


def body(status: FineTuneJobStatus) -> Manifest:
    job = make_job(deployTo={"name": "chat"}).model_dump(mode="json", by_alias=True)
    written = json.loads(status.model_dump_json(by_alias=True, exclude_none=True))
    return {**job, "status": written}


class Told:
    """A kubectl that answers what it was told to, the last answer for ever."""

    def __init__(self, answers: Iterable[Manifest | StepError | None], log: Log) -> None:
        self._answers = list(answers)
        self.log = log

    def get(self, kind: str, name: str, namespace: str) -> Manifest | None:
        if kind == "modelversion":
            one = {"format": "Merged", "uri": "s3://x/y", "sizeBytes": 3 << 20, "digest": DIGEST}
            return {"spec": {"artifacts": [one]}}
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, StepError):
            raise answer
        return answer

    def list_all(self, kind: str, namespace: str, selector: str = "") -> list[Manifest]:
        return [{"metadata": {"name": "tunesmith-x"}}]

    def proxy_get(self, path: str) -> str:
        assert "/pods/tunesmith-x:8080/" in path
        return "x 1\nprocess_resident_memory_bytes 8.388608e+07\n"


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "POLL_SECONDS", 0.0)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Iterator[Console]:
    console = Console(width=100, record=True, force_terminal=False)
    for module in (results, watch, display):
        monkeypatch.setattr(module, "console", console)
    yield console


def follow(tmp_path: Path, *answers: Manifest | StepError | None) -> Timeline:
    kubectl = cast("Kubectl", Told(answers, Log(tmp_path / "log")))
    return watch.watch(kubectl, "chat", "demo", time.monotonic())


# Following


def test_a_job_is_followed_through_gaps_to_its_end(
    tmp_path: Path, said: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = (None, body(PREPARING), StepError("away"), body(TRAINING), body(TRAINING))
    timeline = follow(tmp_path, *answers, body(COMPLETE))
    assert timeline.succeeded
    assert timeline.first_step is not None
    assert timeline.ended is not None
    assert timeline.job == body(COMPLETE)
    lines = [line.partition("] ")[2] for line in capsys.readouterr().out.splitlines()]
    training = "phase training, step 7 of 40, loss 1.25, tokens/s 170, ETA 1m5s"
    assert lines == ["Pending", "Prepare", f"Train, {training}", f"Complete, {training}"]


def test_a_job_whose_pod_no_node_takes_says_why(
    tmp_path: Path, said: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    why = condition("Trained", "False", "1 Insufficient cpu").model_copy(
        update={"reason": "Unschedulable"}
    )
    waiting = FineTuneJobStatus(stage=DisplayStage.PENDING, conditions=(condition("Accepted"), why))
    follow(tmp_path, body(waiting), body(COMPLETE))
    assert "Pending, waits 1 Insufficient cpu\n" in capsys.readouterr().out


def test_a_job_that_fails_ends_too(tmp_path: Path, said: Console) -> None:
    timeline = follow(tmp_path, body(FAILED))
    assert not timeline.succeeded
    assert timeline.ended is not None
    assert timeline.first_step is None


def test_an_api_server_that_stays_away_is_not_waited_for(
    tmp_path: Path, said: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "UNHAPPY_SECONDS", 0.05)
    with pytest.raises(StepError, match="away"):
        follow(tmp_path, StepError("away"))


def test_a_job_that_does_not_end_says_where_to_look(
    tmp_path: Path, said: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "TIMEOUT_SECONDS", 0)
    with pytest.raises(StepError, match="did not end") as caught:
        follow(tmp_path, body(TRAINING))
    assert caught.value.hint == "kubectl describe finetunejob chat -n demo"


def test_on_a_terminal_the_picture_has_the_newest_message_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    console = Console(width=100, record=True, force_terminal=True)
    monkeypatch.setattr(watch, "console", console)
    follow(tmp_path, body(FAILED))
    assert "Because: line 2 is [broken]" in console.export_text()


# What came of it


def shown(tmp_path: Path, said: Console, status: FineTuneJobStatus, report: object) -> str:
    class Stored:
        def read(self, key: str, log: Log) -> bytes | None:
            assert key == "out/report.json"
            return json.dumps(report).encode() if report else None

    told = cast("Kubectl", Told([None], Log(tmp_path / "log")))
    is_complete = status is COMPLETE
    timeline = Timeline(is_complete, 3.2 if is_complete else None, 71.0, body(status))
    results.show_results(told, cast("Storage", Stored()), timeline, "chat", "demo")
    return said.export_text()


def test_the_results_of_a_good_run(tmp_path: Path, said: Console) -> None:
    report = {
        "samples": [{"prompt": "What is [x]?", "base": "no\nidea", "tuned": "[bold]An x"}],
        "training": {"tokensPerSecond": "170.5"},
        "timing": {"training": "33.04"},
    }
    text = shown(tmp_path, said, COMPLETE, report)
    for words in (
        "Held-out metrics: Passed",
        "heldout/loss",
        "ModelVersion chat-v1",
        "Merged: s3://x/y (3.0 MiB)",
        "ModelDeployment chat rolls it out",
        "What is [x]?",
        "base:  no idea",
        "tuned: [bold]An x",
        "170.5",
        "33.0 s",
        "80 MiB",
    ):
        assert words in text
    assert "No version was made" not in text


def test_the_results_of_a_bad_run_say_where_to_look(tmp_path: Path, said: Console) -> None:
    text = shown(tmp_path, said, FAILED, None)
    assert "line 2 is [broken]" in text
    assert "No version was made" in text
    assert "kubectl describe finetunejob chat -n demo" in text
    assert "ModelDeployment" not in text


# Caches


def test_only_folders_that_are_ours_are_removed_and_read_only_ones_too(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    for name in (*OURS, "somebody-elses"):
        (cache / name / "deep").mkdir(parents=True)
        (cache / name / "deep" / "file").write_text("x")
    (cache / "go" / "deep").chmod(0o555)
    (cache / "pip.conf").write_text("x")
    remove_caches(cache, Log(tmp_path / "log"))
    assert [path.name for path in cache.iterdir()] == ["somebody-elses"]


def test_a_cache_with_nothing_else_in_it_goes_too(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    (cache / "bin").mkdir(parents=True)
    remove_caches(cache, Log(tmp_path / "log"))
    assert not cache.exists()
    remove_caches(cache, Log(tmp_path / "log"))
