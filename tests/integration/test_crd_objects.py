"""Objects under the CRDs: defaults, what may change, versions, columns, waiting."""

import json
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest

from deploy.native.apiserver import ControlPlane
from deploy.shell import StepError
from tests.integration.calls import try_to_create
from tests.integration.manifests import ABOVE, JOB, VERSION, changed

pytestmark = pytest.mark.integration


def test_defaults_are_filled_in_all_the_way_down(control_plane: ControlPlane) -> None:
    out = control_plane.kubectl(
        "create", "--dry-run=server", "-o", "json", "-f", "-", stdin=json.dumps(JOB)
    )
    spec = json.loads(out)["spec"]
    assert spec["method"]["lora"]["rank"] == 16
    assert spec["dataset"]["checks"]["tooLong"] == "Fail"
    assert spec["runPolicy"]["stageTimeoutSeconds"]["prepare"] == 3600
    assert spec["evaluation"]["gates"][0]["relation"] == "LowerBy"
    assert spec["hyperparameters"]["learningRate"] == "2e-4"


@pytest.fixture(scope="module")
def kept(control_plane: ControlPlane) -> Iterator[ControlPlane]:
    """Keep a job and a version, to try changes on."""
    for manifest in (JOB, VERSION):
        control_plane.kubectl("apply", "-f", "-", stdin=json.dumps(manifest))
    yield control_plane
    # Other tests try whether they may create the same ones.
    for manifest in (JOB, VERSION):
        control_plane.kubectl("delete", "-f", "-", stdin=json.dumps(manifest))


MUTABLE = [
    ("suspend", True),
    ("runPolicy", {"ttlSecondsAfterFinished": 60}),
    ("runPolicy", {"backoffLimit": 5, "priorityClassName": "high"}),
]
INPUTS = [
    ("model", {"uri": "hf://org/other"}),
    ("model", {"revision": "v2"}),
    ("objective", "Pretrain"),
    ("method", {"lora": {"rank": 8}}),
    ("dataset", {"train": {"uri": "s3://acme/other.jsonl"}}),
    ("hyperparameters", {"seed": 18}),
    ("compute", {"nodes": 2}),
    ("checkpoint", {"everySteps": 5}),
    ("evaluation", {"allowUngated": True}),
    ("output", {"uri": "s3://acme/elsewhere/"}),
    ("output", {"modelVersion": {"tags": ["stable"]}}),
    ("deployTo", {"name": "another"}),
]


def patch(plane: ControlPlane, what: str, change: dict[str, Any]) -> str:
    body = json.dumps({"spec": change})
    return plane.kubectl("patch", *what.split(), "--type=merge", "-p", body, "--dry-run=server")


@pytest.mark.parametrize(("section", "change"), MUTABLE)
def test_what_may_change_on_the_way(kept: ControlPlane, section: str, change: Any) -> None:
    assert "patched" in patch(kept, "ftj rules", {section: change})


@pytest.mark.parametrize(("section", "change"), INPUTS)
def test_inputs_of_a_run_never_change(kept: ControlPlane, section: str, change: Any) -> None:
    with pytest.raises(StepError, match=f"spec.{section} is immutable"):
        patch(kept, "ftj rules", {section: change})


OPTIONAL = {
    "s3": ({"region": "eu-west-1"}, {"region": "eu-west-2"}),
    "dpo": ({"beta": "0.3"}, {"beta": "0.4"}),
    "deployTo": ({"name": "support"}, {"name": "another"}),
}


@pytest.mark.parametrize("section", OPTIONAL)
def test_what_may_be_left_out_is_neither_added_nor_changed_nor_taken_back(
    kept: ControlPlane, section: str
) -> None:
    first, other = OPTIONAL[section]
    bare = changed(JOB, "spec.objective", "DPO")
    for name, more in (("without", None), ("with", first)):
        job = changed(bare, "metadata.name", f"{name}-{section.lower()}")
        if more:
            job = changed(job, f"spec.{section}", more)
        kept.kubectl("apply", "-f", "-", stdin=json.dumps(job))
    for name, change in (("without", first), ("with", other), ("with", None)):
        with pytest.raises(StepError, match=rf"spec\.{section} is immutable"):
            patch(kept, f"ftj {name}-{section.lower()}", {section: change})
    assert "patched" in patch(kept, f"ftj with-{section.lower()}", {"suspend": True})


def test_a_version_never_changes(kept: ControlPlane) -> None:
    with pytest.raises(StepError, match="immutable"):
        patch(kept, "mv support-v1", {"description": "better"})


BAD_VERSIONS = [
    pytest.param("spec.artifacts", [], "artifacts", id="without artifacts"),
    pytest.param("spec.model", "Support", "spec.model", id="with capitals"),
    pytest.param("spec.version", "v 1", "spec.version", id="with a blank"),
    pytest.param("spec.version", "1..2", "spec.version", id="with two dots"),
    pytest.param("spec.version", "1" * 33, "spec.version", id="of 33 characters"),
    pytest.param(
        "spec.artifacts",
        [{**VERSION["spec"]["artifacts"][0], "uri": ABOVE}],
        "must not contain '..'",
        id="above its prefix",
    ),
    pytest.param(
        "spec.artifacts",
        [{**VERSION["spec"]["artifacts"][0], "digest": "md5:1"}],
        "digest",
        id="with another digest",
    ),
]


OFFER = {"deployment": "support", "channel": "stable"}


def test_a_version_that_is_offered_has_the_tag(control_plane: ControlPlane) -> None:
    offered = changed(changed(VERSION, "metadata.name", "offered"), "spec.offeredTo", OFFER)
    try_to_create(control_plane, changed(offered, "spec.tags", ["a", "stable"]))
    for tags in ([], ["a"]):
        with pytest.raises(StepError, match="must be among tags"):
            try_to_create(control_plane, changed(offered, "spec.tags", tags))


@pytest.mark.parametrize(("path", "value", "words"), BAD_VERSIONS)
def test_a_bad_version_is_refused(
    control_plane: ControlPlane, path: str, value: object, words: str
) -> None:
    with pytest.raises(StepError) as refused:
        try_to_create(control_plane, changed(VERSION, path, value))
    assert words in str(refused.value)


def test_explain_tells_of_every_field(control_plane: ControlPlane) -> None:
    told = control_plane.kubectl("explain", "finetunejob.spec", "--recursive=false")
    assert "<no description>" not in told
    rate = control_plane.kubectl("explain", "ftj.spec.hyperparameters.learningRate")
    assert "reached after warm-up" in rate


def said(kind: str, status: str, reason: str, message: str = "") -> dict[str, Any]:
    """Give a condition."""
    time = "2026-01-01T00:00:00Z"
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": time,
        "observedGeneration": 1,
    }


def tell(plane: ControlPlane, what: str, status: dict[str, Any]) -> None:
    """Write a status."""
    body = json.dumps({"status": status})
    plane.kubectl("patch", *what.split(), "--subresource=status", "--type=merge", "-p", body)


def columns(plane: ControlPlane, *what: str) -> list[tuple[str, str]]:
    """Give the headings and cells of the only row, but for its age."""
    head, row = plane.kubectl("get", *what, "-o", "wide").splitlines()
    # A cell begins where its heading does.
    starts = [match.start() for match in re.finditer(r"\S+", head)]
    cells = [(head[a:b].strip(), row[a:b].strip()) for a, b in pairwise([*starts, None])]
    return [(name, cell) for name, cell in cells if name != "AGE"]


def test_columns_answer_the_question(kept: ControlPlane) -> None:
    status = {
        "stage": "Train",
        "progress": {"percent": 45, "step": 9, "totalSteps": 20, "etaSeconds": 250, "eta": "4m10s"},
        "metrics": [{"name": "learning_rate", "value": "0.1"}, {"name": "loss", "value": "0.83"}],
        "evaluation": {"verdict": "Passed"},
        "modelVersionRef": {"name": "support-v7"},
        "conditions": [
            said("Complete", "False", "Failed", "another message"),
            said("Failed", "True", "GatesFailed", "the loss is too high"),
        ],
    }
    kept.kubectl("apply", "-f", "-", stdin=json.dumps(changed(JOB, "metadata.name", "shown")))
    tell(kept, "ftj shown", status)
    assert columns(kept, "ftj", "shown") == [
        ("NAME", "shown"),
        ("STAGE", "Train"),
        ("PROGRESS", "45"),
        ("ETA", "4m10s"),
        ("LOSS", "0.83"),
        ("VERDICT", "Passed"),
        ("VERSION", "support-v7"),
        ("MESSAGE", "the loss is too high"),
    ]
    assert "rules" in kept.kubectl("get", "tunesmith")


def test_columns_of_a_version_say_how_good_it_is_and_whether_it_is_used(
    kept: ControlPlane,
) -> None:
    measured = [
        {"name": "ask/loss", "value": "9", "baseValue": "8"},
        {"name": "heldout/loss", "value": "0.83", "baseValue": "1.7"},
    ]
    version = changed(changed(VERSION, "metadata.name", "shown-v2"), "spec.metrics", measured)
    version = changed(version, "spec.lineage", {"job": "default/rules"})
    kept.kubectl("apply", "-f", "-", stdin=json.dumps(changed(version, "spec.version", "2")))
    conditions = [said("InUse", "False", "NotUsed"), said("Verified", "True", "MadeByJob")]
    tell(kept, "mv shown-v2", {"conditions": conditions})
    assert columns(kept, "mv", "shown-v2") == [
        ("NAME", "shown-v2"),
        ("MODEL", "support"),
        ("VERSION", "2"),
        ("LOSS", "0.83"),
        ("BASE-LOSS", "1.7"),
        ("IN-USE", "False"),
        ("JOB", "default/rules"),
    ]


def test_wait_works_on_the_conditions(kept: ControlPlane) -> None:
    tell(kept, "ftj rules", {"conditions": [said("Complete", "True", "VersionCreated")]})
    told = kept.kubectl("wait", "--for=condition=Complete", "ftj/rules", "--timeout=10s")
    assert "condition met" in told
