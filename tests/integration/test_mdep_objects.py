"""ModelDeployments under the CRD: defaults, columns, scaling, waiting."""

import json
from collections.abc import Iterator

import pytest

from deploy.native.apiserver import ControlPlane
from deploy.shell import StepError
from tests.integration.test_crd_objects import columns, said, tell
from tests.integration.test_mdep_rules import DIGEST, MDEP

pytestmark = pytest.mark.integration


def test_defaults_are_filled_in_all_the_way_down(control_plane: ControlPlane) -> None:
    out = control_plane.kubectl(
        "create", "--dry-run=server", "-o", "json", "-f", "-", stdin=json.dumps(MDEP)
    )
    spec = json.loads(out)["spec"]
    assert spec["engine"]["maxConcurrentRequests"] == 100
    assert "type" not in spec["engine"], "GPUs added later choose another engine"
    assert spec["routing"]["router"] == "HAProxy"
    assert [s["weight"] for s in spec["rollout"]["steps"]] == [10, 50]
    assert spec["rollout"]["analysis"]["metrics"][0]["builtin"] == "ErrorRate"
    assert spec["rollout"]["analysis"]["provider"]["type"] == "Builtin"
    assert spec["rollout"]["rollback"]["keepStableWarmSeconds"] == 3600


@pytest.fixture(scope="module")
def kept(control_plane: ControlPlane) -> Iterator[ControlPlane]:
    """Keep a deployment with a status, to look at."""
    control_plane.kubectl("apply", "-f", "-", stdin=json.dumps(MDEP))
    revision = {"name": "support-1", "version": "support-v1", "digest": DIGEST}
    now = "2026-01-01T00:00:00.250Z"
    plan = {"digest": DIGEST, "plan": DIGEST, "startTime": now}
    status = {
        "phase": "Analysing",
        "replicas": 3,
        "selector": "tunesmith.dev/deployment=support",
        "stable": {**revision, "revision": 6, "weight": 90},
        "canary": {**revision, "revision": 7, "weight": 10},
        "rollout": {**plan, "metrics": [{"name": "errors", "verdict": "ProviderError"}]},
        "conditions": [
            said("Progressing", "True", "InsufficientTraffic", "too few requests"),
            said("Ready", "True", "Serving", "another message"),
        ],
    }
    tell(control_plane, "mdep support", status)
    yield control_plane
    # Other tests try whether they may create the same one.
    control_plane.kubectl("delete", "-f", "-", stdin=json.dumps(MDEP))


def test_columns_answer_the_question(kept: ControlPlane) -> None:
    assert columns(kept, "mdep", "support") == [
        ("NAME", "support"),
        ("STABLE", "6"),
        ("VERSION", "support-v1"),
        ("CANARY", "7"),
        ("WEIGHT", "10"),
        ("PHASE", "Analysing"),
        ("READY", "True"),
        ("MESSAGE", "too few requests"),
    ]
    assert "support" in kept.kubectl("get", "tunesmith")


def test_scaling_goes_through_the_subresource(kept: ControlPlane) -> None:
    seen = json.loads(
        kept.kubectl(
            "get",
            "--raw",
            "/apis/tunesmith.dev/v1alpha1/namespaces/default/modeldeployments/support/scale",
        )
    )
    assert seen["spec"]["replicas"] == 1
    assert seen["status"] == {"replicas": 3, "selector": "tunesmith.dev/deployment=support"}
    # Only tried: a new generation would make the status of the other tests out of date.
    assert "scaled" in kept.kubectl("scale", "mdep/support", "--replicas=4", "--dry-run=server")
    with pytest.raises(StepError, match="greater than or equal to 1"):
        kept.kubectl("scale", "mdep/support", "--replicas=0")


def test_wait_works_on_the_conditions(kept: ControlPlane) -> None:
    assert "condition met" in kept.kubectl("wait", "--for=condition=Ready", "mdep/support")


def test_the_milliseconds_of_a_rollback_are_kept(kept: ControlPlane) -> None:
    path = "jsonpath={.status.rollout.startTime}"
    assert kept.kubectl("get", "mdep", "support", "-o", path) == "2026-01-01T00:00:00.250Z"


def test_explain_tells_of_every_field(control_plane: ControlPlane) -> None:
    for section in ("spec", "spec.rollout", "spec.rollout.analysis", "status"):
        assert "<no description>" not in control_plane.kubectl("explain", f"mdep.{section}")
    told = control_plane.kubectl("explain", "mdep.spec.rollout.analysis.failureLimit")
    assert "failed samples of one metric" in " ".join(told.split())
