"""Specs that the API server takes and this operator does not."""

from typing import Any

import pytest

from tests.unit.jobs import CONFIG, make_job
from tunesmith_operator.planning.acceptance import objection
from tunesmith_operator.planning.observed import Observation, SeenVersion

TAKEN = SeenVersion("support-v3", "support", "3", "another")
OURS = SeenVersion("support-v3", "support", "3", "12345678-aaaa")


@pytest.mark.parametrize(
    ("spec", "versions", "words"),
    [
        pytest.param({}, (), "", id="the minimal job is fine"),
        pytest.param(
            {"compute": {"gpuType": "B300"}}, (), "Known: A100, L4", id="an unknown GPU type"
        ),
        pytest.param(
            {"compute": {"serviceAccountName": "admin"}},
            (),
            "Allowed: trainer",
            id="an account that the chart does not allow",
        ),
        pytest.param(
            {"output": {"uri": "s3://acme/m", "modelVersion": {"version": "3"}}},
            (TAKEN,),
            "support-v3 exists already",
            id="a version that somebody else made",
        ),
        pytest.param(
            {"output": {"uri": "s3://acme/m", "modelVersion": {"version": "3"}}},
            (OURS,),
            "",
            id="a version that this job made",
        ),
    ],
)
def test_objection(spec: dict[str, Any], versions: tuple[SeenVersion, ...], words: str) -> None:
    found = objection(Observation(job=make_job(**spec), versions=versions), CONFIG)
    assert (found is None) == (words == "")
    assert found is None or words in found.message
