"""What is concluded from pods that several adapters share: whose restarts and errors they are."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from tunesmith_api.adapters import AdapterPhase, AdaptersReport, HeldAdapter
from tunesmith_api.deploymentstatus import RollbackReason
from tunesmith_api.meta import ObjectMeta
from tunesmith_api.modeldeployment import ModelDeployment
from tunesmith_api.revision import RevisionTemplate
from tunesmith_operator.planning.gathering import (
    SeenObjects,
    SeenRecord,
    SeenWorkload,
    gather_revisions,
)
from tunesmith_operator.planning.hosting import host_of
from tunesmith_operator.planning.rejection import reason_to_reject
from tunesmith_operator.planning.serving import (
    RevisionCounts,
    SeenRevision,
    SeenRouter,
    ServingObservation,
    ServingPod,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DIGEST = "sha256:" + "a" * 64
OWNER = ObjectMeta(name="chat", uid="u")
TEMPLATE = RevisionTemplate.model_validate(
    {
        "model": {"uri": "s3://bucket/m/", "digest": DIGEST},
        "baseModelUri": "hf://org/base",
        "delivery": "Adapter",
        "engine": {"type": "VLLM"},
    }
)
HOST = host_of("chat", TEMPLATE)


def seen(*holding: str) -> dict[str, SeenRevision]:
    """Give revisions r1 and r2 of a host whose pod has restarted often and holds some of them."""
    held = tuple(
        HeldAdapter(revision=name, digest=DIGEST, phase=AdapterPhase.LOADED) for name in holding
    )
    objects = SeenObjects(
        records=[SeenRecord(f"r{n}", f"r{n}", "u", DIGEST, n, TEMPLATE) for n in (1, 2)],
        workloads=[SeenWorkload(HOST, "h", "u", 1, is_host=True)],
        pods=[ServingPod("p", "p", 0, host=HOST, address="10.0.0.1", restarts=9)],
        reports={"p": AdaptersReport(held=held)} if holding else {},
    )
    return {revision.name: revision for revision in gather_revisions(OWNER, objects)}


@pytest.mark.parametrize(
    ("holding", "restarts"),
    [
        pytest.param((), {"r1": 0, "r2": 0}, id="nobody's while the pod does not say what it has"),
        pytest.param(("r1",), {"r1": 9, "r2": 0}, id="of the only one that it has"),
        pytest.param(("r1", "r2"), {"r1": 0, "r2": 0}, id="nobody's where it has two"),
    ],
)
def test_restarts_of_a_shared_pod_are(holding: tuple[str, ...], restarts: dict[str, int]) -> None:
    assert {name: r.restarts for name, r in seen(*holding).items()} == restarts


@pytest.mark.parametrize(
    ("loops", "ready", "is_rejected"),
    [
        pytest.param(True, 0, False, id="while stable has ended the engine of all pods"),
        pytest.param(True, 1, True, id="of pods that are there"),
        pytest.param(False, 0, True, id="where stable was well"),
    ],
)
def test_errors_in_a_row_reject_the_canary(*, loops: bool, ready: int, is_rejected: bool) -> None:
    role = {"revision": 2, "name": "r2", "digest": DIGEST}
    rollout = {"digest": DIGEST, "plan": DIGEST, "startTime": NOW, "exposedTime": NOW}
    deployment = ModelDeployment.model_validate(
        {
            "metadata": {"name": "chat"},
            "spec": {"source": {"modelVersion": "m"}},
            "status": {"canary": role, "rollout": {**rollout, "stableCrashLoops": loops}},
        }
    )
    canary = replace(seen("r1", "r2")["r2"], ready_replicas=ready)
    router = SeenRouter(None, counts=(RevisionCounts("r2", 500, consecutive_errors=500),))
    observed = ServingObservation(deployment, revisions=(canary,), router=router)
    assert deployment.status.rollout is not None
    why = reason_to_reject(observed, deployment.status.rollout, canary, NOW)
    assert (why is not None) is is_rejected
    assert why is None or why.reason is RollbackReason.CONSECUTIVE_ERRORS
