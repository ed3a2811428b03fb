"""Whole runs on a real cluster: the example, expiry, deletion in every stage."""

import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from deploy.storage import DEMO_NAMESPACE
from tests.e2e.lab import Lab, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]

MINUTE = timedelta(minutes=1)
SLOW = {"maxSteps": 150, "learningRate": "1e-3", "perDeviceBatchSize": 32}


@dataclass(frozen=True)
class Example:
    """The example job, once it is complete."""

    namespace: str
    name: str


@pytest.fixture(scope="module")
def example(lab: Lab, submitted_example: tuple[str, str]) -> Example:
    """Wait for the end of the example."""
    namespace, name = submitted_example
    lab.wait_for(namespace, name, "Complete", seconds=900)
    return Example(namespace, name)


def test_an_expired_job_is_deleted_and_leaves_only_its_version(lab: Lab, namespace: str) -> None:
    lab.submit(namespace, "brief", runPolicy={"ttlSecondsAfterFinished": 5})
    until(
        lambda: lab.kubectl.get("ftj", "brief", namespace) is None or None, 400, "brief to expire"
    )
    until(lambda: not lab.children(namespace, "brief") or None, 300, "its children to go")
    assert lab.kubectl.get("modelversion", "brief-v1", namespace) is not None


@pytest.mark.parametrize("stage", ["Prepare", "Train"])
def test_deletion_in_a_stage_leaves_nothing(lab: Lab, namespace: str, stage: str) -> None:
    lab.submit(namespace, "doomed", hyperparameters=SLOW, compute={"nodes": 2})
    lab.wait_for_stage(namespace, "doomed", stage)
    lab.kubectl.run("delete", "ftj", "doomed", "-n", namespace)
    until(lambda: not lab.children(namespace, "doomed") or None, 300, "the children to go")


@pytest.mark.kills_operator
def test_deletion_needs_no_operator(lab: Lab, namespace: str) -> None:
    lab.submit(namespace, "alone", hyperparameters=SLOW)
    lab.wait_for_stage(namespace, "alone", "Train")
    with lab.operator_away():
        lab.kubectl.run("delete", "ftj", "alone", "-n", namespace, "--timeout=300s")
        until(lambda: not lab.children(namespace, "alone") or None, 300, "the children to go")


def test_a_namespace_goes_with_all_that_runs_in_it(lab: Lab) -> None:
    namespace = f"e2e-going-{int(time.time())}"
    lab.make_namespace(namespace)
    lab.submit(namespace, "doomed", hyperparameters=SLOW)
    lab.wait_for_stage(namespace, "doomed", "Train")
    lab.kubectl.run("delete", "namespace", namespace, "--timeout=300s")


def test_a_missing_image_is_named(lab: Lab, missing_image: tuple[str, str]) -> None:
    failed = lab.wait_for(*missing_image, "Failed", seconds=400)
    assert failed.reason == "BackoffLimitExceeded"
    assert "no-such-image" in failed.message


# It trains while the other tests of all files run, and is waited for last.
def test_the_example_job_teaches_a_real_model(lab: Lab, example: Example) -> None:
    where = (example.namespace, example.name)
    status = lab.status(*where)
    assert status.evaluation is not None
    assert status.evaluation.verdict == "Passed"
    (loss,) = [m for m in status.evaluation.measurements if m.metric == "heldout/loss"]
    assert Decimal(loss.value) < Decimal(loss.base_value) - Decimal("0.3")
    assert status.model_version_ref is not None
    version = lab.kubectl.get("modelversion", status.model_version_ref.name, DEMO_NAMESPACE)
    assert version is not None
    assert version["spec"]["lineage"]["datasetDigest"] == status.resolved.dataset_digest
    report = lab.report(*where)
    assert len(report.samples) == 3
    assert all(s.base != s.tuned for s in report.samples)
    assert {a.name for a in report.artifacts} == {"Adapter", "Merged", "GGUF"}
    assert lab.condition(*where, "Offered") is not None, "it names a deployment"


def test_a_finished_job_is_quiet(lab: Lab, example: Example) -> None:
    """Nobody writes to it for a minute, with all that the other tests do meanwhile."""
    get = ("get", "ftj", example.name, "-n", example.namespace, "-o", "json")
    complete = lab.condition(example.namespace, example.name, "Complete")
    assert complete is not None
    ended = complete.last_transition_time
    time.sleep(max(0.0, (ended + MINUTE - datetime.now(UTC)).total_seconds()))
    body = json.loads(lab.kubectl.run(*get, "--show-managed-fields"))
    writes = [datetime.fromisoformat(w["time"]) for w in body["metadata"]["managedFields"]]
    # What follows the end at once may be written.
    assert max(writes) - ended < timedelta(seconds=10)
    assert body["status"]["observedGeneration"] == body["metadata"]["generation"]
