"""What a trainer says is data of somebody else's image: it may be wrong, never in the way.

Either it cannot be read, and counts as nothing said, or what follows of it can be stored.
"""

import json
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from typing import Any

import jsonschema
import pytest
from pydantic import ValidationError

from tests.unit.jobs import CONFIG, make_job
from tunesmith_api.attempts import ActiveAttempt, StageName
from tunesmith_api.conditions import ConditionType
from tunesmith_api.crd import definitions
from tunesmith_api.jobstatus import FineTuneJobStatus
from tunesmith_api.result import TERMINATION_BYTES, TrainerProgress
from tunesmith_operator.planning.actions import Decision, MakeVersion
from tunesmith_operator.planning.observed import Observation, SeenJob, SeenPod
from tunesmith_operator.planning.training import decide

NOW = datetime(2026, 1, 2, tzinfo=UTC)
TIME = "2026-01-01T00:00:00Z"
DIGEST = "sha256:" + "0" * 64
HUGE = 10**30
LONG = "x" * 3000
CHECKPOINT = {"step": 10, "uri": "s3://acme/c/", "time": TIME}
PROGRESS: dict[str, Any] = {
    "stage": "train",
    "attempt": 2,
    "phase": "Training",
    "phaseStartTime": TIME,
    "step": 10,
    "totalSteps": 100,
    "etaSeconds": 5,
    "metrics": [{"name": "loss", "value": "1.5"}],
    "checkpoint": CHECKPOINT,
    "resumedFromStep": 5,
}
ARTIFACT = {"name": "Merged", "uri": "s3://acme/m/", "digest": DIGEST, "sizeBytes": 1}
RESULT: dict[str, Any] = {
    "stage": "train",
    "attempt": 2,
    "outcome": "Succeeded",
    "reason": "Trained",
    "message": "Done.",
    "step": 100,
    "checkpoint": CHECKPOINT,
    "resumedFromStep": 5,
    "modelRevision": "main",
    "training": {"epochs": "1.5", "lastLoss": "1.25", "tokensPerSecond": "99.5"},
    "measurements": [{"metric": "heldout/loss", "value": "1.5", "baseValue": "2.5"}],
    "artifacts": [ARTIFACT],
    "architecture": {"family": "llama", "layers": 2},
    "reportUri": "s3://acme/r.json",
    "reportDigest": DIGEST,
}
PREPARED: dict[str, Any] = {
    "stage": "prepare",
    "attempt": 2,
    "outcome": "Succeeded",
    "reason": "Prepared",
    "message": "Done.",
    "datasetDigest": DIGEST,
    "modelRevision": "main",
    "data": {"rows": {"train": 5}, "tokens": {"train": 50}},
    "placement": {"sharding": "DDP", "memoryBytes": 1000, "reason": "It fits."},
}
FAILED = {**RESULT, "outcome": "UserError", "reason": "NonFiniteLoss"}


def job(stage: StageName) -> Any:
    active = ActiveAttempt(number=2, stage=stage, job_name="j", start_time=NOW)
    body = make_job(compute={"gpusPerNode": 0})
    status = FineTuneJobStatus(start_time=NOW, active=active)
    return body.model_copy(update={"status": status})


def attempt(stage: StageName, **facts: Any) -> SeenJob:
    pod = SeenPod(name="p", uid="p", job_uid="j", created=NOW, started=NOW, **facts)
    return SeenJob("j", "j", "o", stage, 2, NOW, started=NOW, pods=(pod,))


def changed(said: dict[str, Any], path: str, value: Any) -> str:
    """Give what was said with another value at a path, in which numbers are places in a list."""
    whole = deepcopy(said)
    at: Any = whole
    *way, last = [int(part) if part.isdecimal() else part for part in path.split(".")]
    for part in way:
        at = at[part]
    at[last] = value
    return json.dumps(whole)


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Give all numbers and strings with their paths."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for name, part in items:
            yield from leaves(part, f"{path}.{name}")
    else:
        yield path, value


def check(decision: Decision) -> None:
    """Hold the status, and the version if one is made, against the CRDs."""
    status = decision.status.model_dump(mode="json", by_alias=True, exclude_none=True)
    hold("finetunejobs", "status", status)
    for action in decision.actions:
        if isinstance(action, MakeVersion):
            spec = action.spec.model_dump(mode="json", by_alias=True, exclude_none=True)
            hold("modelversions", "spec", spec)


@cache
def validator(plural: str, part: str) -> jsonschema.Draft4Validator:
    schema = definitions()[plural]["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return jsonschema.Draft4Validator(schema["properties"][part])


def hold(plural: str, part: str, document: dict[str, Any]) -> None:
    validator(plural, part).validate(document)
    for path, value in leaves(document):
        if isinstance(value, int):
            assert abs(value) < 2**63, f"{path} is no int64"
        if path.endswith(("Time", ".time")):
            assert datetime.fromisoformat(value).tzinfo is not None, f"{path} has no zone"


def follow_progress(text: str) -> TrainerProgress | None:
    """Do a pass while a trainer answers with ``text``; give what was read."""
    try:
        said = TrainerProgress.model_validate_json(text)
    except ValidationError:
        said = None
    running = attempt(StageName.TRAIN, phase="Running")
    seen = Observation(job=job(StageName.TRAIN), attempts=(running,), progress=said)
    check(decide(seen, CONFIG, NOW))
    return said


def follow_result(stage: StageName, text: str) -> Decision:
    """Do a pass after a pod has ended with ``text``."""
    ended = attempt(stage, phase="Succeeded", exit_code=0, termination_message=text)
    ended = replace(ended, is_complete=True, finished=NOW)
    decision = decide(Observation(job=job(stage), attempts=(ended,)), CONFIG, NOW)
    check(decision)
    return decision


def said_of(decision: Decision, kind: ConditionType) -> str:
    return next((c.status for c in decision.status.conditions if c.type == kind), "")


def test_what_is_meant_well_is_taken() -> None:
    assert follow_progress(json.dumps(PROGRESS)) is not None
    prepared = follow_result(StageName.PREPARE, json.dumps(PREPARED))
    assert said_of(prepared, ConditionType.DATA_READY) == "True"
    trained = follow_result(StageName.TRAIN, json.dumps(RESULT))
    assert said_of(trained, ConditionType.TRAINED) == "True"
    assert any(isinstance(action, MakeVersion) for action in trained.actions)
    failed = follow_result(StageName.TRAIN, json.dumps(FAILED))
    assert said_of(failed, ConditionType.TRAINED) == "False"


# Wrong in every way that JSON knows, at every place that a trainer fills in.
WRONG = [
    -1,
    HUGE,
    1e300,
    float("nan"),
    float("inf"),
    "",
    LONG,
    "a b\u0000\n",
    "1e999999999",
    "1e39",
    "1e300",
    "+1",
    "1_0",
    "NaN",
    "2026-01-01T00:00:00",
    None,
    [],
    {},
    True,
]


@pytest.mark.parametrize(
    "path", [path[1:] for path, _ in leaves(PROGRESS)] + ["epoch", "secondsSinceProgress", "notes"]
)
def test_progress_is_stored_or_not_read(path: str) -> None:
    for value in WRONG:
        follow_progress(changed(PROGRESS, path, value))


@pytest.mark.parametrize(
    ("stage", "said", "path"),
    [
        pytest.param(stage, said, path[1:], id=f"{what}{path}")
        for what, stage, said in (
            ("prepared", StageName.PREPARE, PREPARED),
            ("trained", StageName.TRAIN, RESULT),
            ("failed", StageName.TRAIN, FAILED),
        )
        for path, _ in leaves(said)
    ],
)
def test_a_result_is_stored_or_not_read(stage: StageName, said: dict[str, Any], path: str) -> None:
    for value in WRONG:
        text = changed(said, path, value)
        assert len(text.encode()) <= TERMINATION_BYTES or value == LONG
        follow_result(stage, text)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        pytest.param("artifacts", [ARTIFACT] * 9, id="nine artifacts"),
        pytest.param("artifacts", [ARTIFACT] * 2, id="two of a name"),
        pytest.param("artifacts.0.uri", "s3://acme/../m/", id="an artifact above its prefix"),
        pytest.param("artifacts.0.uri", "file:///m/", id="an artifact in the pod"),
        pytest.param(
            "measurements", [{"metric": f"s/{n}", "value": "1"} for n in range(40)], id="many"
        ),
        pytest.param(
            "measurements", [{"metric": "s/m", "value": "1"}] * 2, id="a metric measured twice"
        ),
    ],
)
def test_a_result_with_strange_lists_is_stored_or_not_read(path: str, value: Any) -> None:
    follow_result(StageName.TRAIN, changed(RESULT, path, value))
