"""Things that break on the way: operator, pods, S3. The end must be the undisturbed one's."""

import json
import time
from collections.abc import Callable

import pytest

from deploy.storage import BUCKET
from tests.e2e.fickle_s3 import fickle_s3
from tests.e2e.lab import Lab, until
from tunesmith_api.report import TrainingReport

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]

STEPS = {"maxSteps": 140, "learningRate": "1e-3", "perDeviceBatchSize": 32}
CHECKPOINT = {"everySteps": 10, "gracePeriodSeconds": 30}


@pytest.fixture(scope="module")
def undisturbed(lab: Lab) -> TrainingReport:
    """Give the report of a run that nothing happened to."""
    namespace = f"e2e-reference-{int(time.time())}"
    lab.make_namespace(namespace)
    lab.submit(namespace, "reference", hyperparameters=STEPS, checkpoint=CHECKPOINT)
    lab.wait_for(namespace, "reference", "Complete")
    report = lab.report(namespace, "reference")
    lab.kubectl.run("delete", "namespace", namespace, "--wait=false")
    return report


def losses(report: TrainingReport) -> dict[int, str]:
    return {point.step: point.loss for point in report.curve}


def weights(report: TrainingReport) -> list[str]:
    return [m.value for m in report.measurements]


def test_a_deleted_train_pod_goes_on_exactly_from_its_checkpoint(
    lab: Lab, namespace: str, undisturbed: TrainingReport
) -> None:
    lab.submit(namespace, "hit", hyperparameters=STEPS, checkpoint=CHECKPOINT)
    lab.meet_at_step(namespace, "hit", 25)
    (pod,) = lab.pods(namespace, "hit", "train")
    lab.kubectl.run("delete", "pod", pod["metadata"]["name"], "-n", namespace, "--wait=false")
    lab.wait_for(namespace, "hit", "Complete")
    status, report = lab.status(namespace, "hit"), lab.report(namespace, "hit")
    assert report.resumed_from_step is not None
    assert report.resumed_from_step >= 25, "SIGTERM saves the very step it came at"
    assert [a.reason for a in status.attempts] == ["Succeeded", "Evicted", "Succeeded"]
    assert status.counters.failures == 0
    assert losses(report) == losses(undisturbed)
    assert weights(report) == weights(undisturbed)


def test_a_killed_train_pod_goes_on_from_the_last_complete_checkpoint(
    lab: Lab, namespace: str, undisturbed: TrainingReport
) -> None:
    lab.submit(namespace, "shot", hyperparameters=STEPS, checkpoint=CHECKPOINT)
    saved = lab.meet_with_checkpoint(namespace, "shot")
    (pod,) = lab.pods(namespace, "shot", "train")
    name = pod["metadata"]["name"]
    lab.kubectl.run("delete", "pod", name, "-n", namespace, "--grace-period=0", "--force")
    lab.wait_for(namespace, "shot", "Complete")
    report = lab.report(namespace, "shot")
    assert report.resumed_from_step is not None
    assert report.resumed_from_step >= saved
    assert losses(report) == losses(undisturbed)
    assert weights(report) == weights(undisturbed)


def test_a_pod_out_of_memory_goes_on_with_half_the_batch(lab: Lab, namespace: str) -> None:
    """384 rows take 3.8 to 4.1 GiB that cannot be reclaimed, half of them 2.5 to 2.8 GiB."""
    with lab.storage.client(lab.log) as s3:
        s3.put_object(Bucket=BUCKET, Key="e2e/wide.jsonl", Body=wide_rows().encode())
    lab.submit(
        namespace,
        "greedy",
        dataset={"train": {"uri": f"s3://{BUCKET}/e2e/wide.jsonl"}},
        hyperparameters={"maxSteps": 1, "perDeviceBatchSize": 384, "maxSequenceLength": 512},
        compute={"resources": {"limits": {"memory": "3350Mi"}}},
    )
    lab.wait_for(namespace, "greedy", "Complete")
    status = lab.status(namespace, "greedy")
    assert [a.reason for a in status.attempts] == ["Succeeded", "OutOfMemory", "Succeeded"]
    assert status.counters.batch_halvings == 1
    assert status.counters.failures == 0
    lab.wait_for_event(namespace, "greedy", "BatchHalved")


def wide_rows() -> str:
    rows = ({"prompt": f"question {i}", "response": "a word " * 60} for i in range(430))
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_suspending_frees_the_pods_and_resuming_goes_on_exactly(
    lab: Lab, namespace: str, undisturbed: TrainingReport
) -> None:
    never = {**CHECKPOINT, "everySteps": 1000}
    lab.submit(namespace, "paused", hyperparameters=STEPS, checkpoint=never)
    step = lab.meet_at_step(namespace, "paused", 10)
    lab.suspend(namespace, "paused", True)
    lab.wait_for(namespace, "paused", "Suspended", seconds=300)
    assert not [p for p in lab.pods(namespace, "paused") if p["status"]["phase"] == "Running"]
    lab.suspend(namespace, "paused", False)
    lab.wait_for(namespace, "paused", "Complete")
    report = lab.report(namespace, "paused")
    assert report.resumed_from_step is not None
    assert report.resumed_from_step >= step, "SIGTERM must save what everySteps had not"
    assert lab.status(namespace, "paused").counters.failures == 0
    assert losses(report) == losses(undisturbed)
    assert weights(report) == weights(undisturbed)


@pytest.mark.kills_operator
def test_an_operator_that_is_killed_in_every_stage_changes_nothing(
    lab: Lab, namespace: str, undisturbed: TrainingReport
) -> None:
    lab.submit(namespace, "orphan", hyperparameters=STEPS, checkpoint=CHECKPOINT)
    for stage in ("Prepare", "Train"):
        lab.wait_for_stage(namespace, "orphan", stage)
        lab.kill_operator()
    lab.wait_for_step(namespace, "orphan", 60)
    lab.kill_operator()
    # Judging is short: the operator dies before it, in it, or just after.
    until(lambda: lab.status(namespace, "orphan").stage != "Train" or None, 400, "training to end")
    lab.kill_operator()
    lab.wait_for(namespace, "orphan", "Complete")
    status, report = lab.status(namespace, "orphan"), lab.report(namespace, "orphan")
    assert [a.reason for a in status.attempts] == ["Succeeded", "Succeeded"]
    assert report.attempt == 2, "no attempt may be started twice"
    assert losses(report) == losses(undisturbed)
    assert weights(report) == weights(undisturbed)
    versions = lab.kubectl.list_all("modelversions", namespace)
    assert [v["metadata"]["name"] for v in versions] == ["orphan-v1"]


def test_s3_that_refuses_and_is_away_for_a_while_changes_nothing(
    lab: Lab, namespace: str, undisturbed: TrainingReport
) -> None:
    """Away before the first byte; in the middle of training it refuses (403) and is away again."""
    with fickle_s3(lab.kubectl, namespace) as s3:
        s3.away()
        spec = {"s3": {"endpoint": s3.endpoint}, "hyperparameters": STEPS, "checkpoint": CHECKPOINT}
        lab.submit(namespace, "patient", **spec)
        lab.wait_for_stage(namespace, "patient", "Prepare")
        until(lambda: running(lab, namespace, "patient"), 300, "the pod to run")
        until_asked(s3.away)
        s3.works()
        lab.meet_at_step(namespace, "patient", 25)
        s3.refuses()
        until_asked(s3.refuses)
        s3.away()
        until_asked(s3.away)
        s3.works()
        lab.wait_for(namespace, "patient", "Complete")
    status, report = lab.status(namespace, "patient"), lab.report(namespace, "patient")
    assert [a.reason for a in status.attempts] == ["Succeeded", "Succeeded"]
    assert losses(report) == losses(undisturbed)


def until_asked(stay: Callable[[], int]) -> None:
    """Let S3 stay as it is for eight seconds, and until somebody has been turned away."""
    time.sleep(8)
    until(lambda: stay() > 0 or None, 120, "somebody to be turned away", 2)


def running(lab: Lab, namespace: str, name: str) -> bool | None:
    return any(p["status"]["phase"] == "Running" for p in lab.pods(namespace, name)) or None
