"""Specs that the API server takes and this operator does not."""

from typing import Any

import pytest

from tests.unit.jobs import CONFIG, make_job
from tunesmith_operator.planning.acceptance import objection
from tunesmith_operator.planning.observed import Observation, SeenVersion

PRODUCT = "nvidia.com/gpu.product"
GATES = [{"metric": "s0/exact", "relation": "AtLeast", "value": "0.5"}]
TAKEN = SeenVersion("support-v3", "support", "3", "another")
OURS = SeenVersion("support-v3", "support", "3", "12345678-aaaa")


def asking(letter: str) -> list[dict[str, Any]]:
    """Give as many questions as a job can have, of 1,000 letters."""
    items = [{"prompt": letter * 1000}] * 16
    return [{"name": f"s{number}", "prompts": {"items": items}} for number in range(8)]


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
            "Allowed: trainer. Choose one of them, or add it",
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
        pytest.param(
            {"compute": {"resources": {"limits": {"nvidia.com/gpu": "1"}}}},
            (),
            "compute.gpusPerNode in its place",
            id="GPUs that no rank would be started for",
        ),
        *(
            pytest.param(
                {"compute": {"gpuType": kind, "nodeSelector": {PRODUCT: value, "disk": "ssd"}}},
                (),
                words,
                id=f"a label of {value} for {kind}",
            )
            for kind, value, words in (
                ("A100", "NVIDIA-L4", "which no GPU of type A100 has"),
                ("L4", "A100-80", "which no GPU of type L4 has"),
                ("A100", "A100-80", ""),
                ("L4", "NVIDIA-L4", ""),
            )
        ),
        pytest.param(
            {"evaluation": {"suites": asking("x"), "gates": GATES}},
            (),
            "",
            id="many questions that pods can be given",
        ),
        pytest.param(
            {"evaluation": {"suites": asking("ü"), "gates": GATES}},
            (),
            "in a file",
            id="as many of letters that take two bytes",
        ),
    ],
)
def test_objection(spec: dict[str, Any], versions: tuple[SeenVersion, ...], words: str) -> None:
    found = objection(Observation(job=make_job(**spec), versions=versions), CONFIG)
    assert (found is None) == (words == "")
    assert found is None or words in found.message
