"""Jobs that go through a real Kueue: they wait for quota, get it, and lose it to others.

Kueue is built from its Go module and installed with its own chart, which takes minutes; so this has
a target of its own, ``make test-kueue``.
"""

from collections.abc import Iterator

import pytest

from deploy.native.binaries import ensure_binaries, fetch_module
from deploy.native.buildah import Buildah
from deploy.release import NAMESPACE as OPERATOR_NAMESPACE
from deploy.release import RELEASE
from deploy.settings import REPOSITORY
from tests.e2e.lab import Lab, Manifest, until
from tunesmith_api.report import TrainingReport

VERSION = "v0.15.2"
WHERE = "kueue-system"
NAMESPACE = "e2e-kueue"
QUEUE = {"kueue.x-k8s.io/queue-name": "team"}
# As large as the quota: one at a time.
ALL = {"resources": {"requests": {"cpu": "100m"}}}
STEPS = {"maxSteps": 240, "learningRate": "1e-3", "perDeviceBatchSize": 32}
CHECKPOINT = {"everySteps": 1000, "gracePeriodSeconds": 30}

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def kueue(lab: Lab) -> Iterator[None]:
    """Install Kueue, and let the operator know of it."""
    builder = lab.cluster.builder
    assert isinstance(builder, Buildah), "its image is made of a program that is built here"
    # By the name that its chart starts.
    program = ensure_binaries(["kueue"], lab.log)["kueue"]
    image = builder.ensure_single_binary("manager", VERSION, program, lab.log)
    repository, _, tag = image.rpartition(":")
    manager = "controllerManager.manager"
    chart = fetch_module(f"sigs.k8s.io/kueue@{VERSION}", lab.log) / "charts" / "kueue"
    values = {
        f"{manager}.image.repository": repository,
        f"{manager}.image.tag": tag,
        f"{manager}.podSecurityContext.runAsUser": "65532",
        f"{manager}.resources.requests.cpu": "50m",
        f"{manager}.resources.requests.memory": "64Mi",
    }
    options = [part for key, value in values.items() for part in ("--set", f"{key}={value}")]
    lab.kubectl.run("delete", "namespace", NAMESPACE, "--ignore-not-found", "--wait")
    release = ("kueue", str(chart), "-n", WHERE, "--create-namespace", "--wait")
    lab.kubectl.helm("upgrade", "--install", *release, "--timeout=5m", *options)
    # Its list of pending workloads is an aggregated API that the API server of the native cluster
    # gets no answer from (why is not known); while such a one is named no namespace ever goes.
    asked = ("delete", "apiservice", "-l", "app.kubernetes.io/name=kueue", "--ignore-not-found")
    lab.kubectl.run(*asked)
    tell_operator(lab, "true")
    yield
    tell_operator(lab, "false")
    lab.kubectl.helm("uninstall", "kueue", "-n", WHERE, "--wait")


def tell_operator(lab: Lab, enabled: str) -> None:
    chart = str(REPOSITORY / "charts" / "tunesmith")
    there = ("-n", OPERATOR_NAMESPACE, "--reuse-values", "--wait", "--timeout=5m")
    lab.kubectl.helm("upgrade", RELEASE, chart, *there, "--set", f"kueue.enabled={enabled}")


@pytest.fixture(scope="module")
def queue(lab: Lab, kueue: None) -> Iterator[str]:
    lab.make_namespace(NAMESPACE)
    lab.kubectl.apply((REPOSITORY / "tests/e2e/kueue/queues.yaml").read_text(), NAMESPACE=NAMESPACE)
    yield NAMESPACE
    # Kueue takes its finalizers off them: they must go before it does.
    lab.kubectl.run("delete", "namespace", NAMESPACE, "--wait", "--timeout=200s")
    for kind in ("clusterqueue", "resourceflavor"):
        lab.kubectl.run("delete", kind, "tunesmith-e2e", "--wait", "--timeout=100s")
    lab.kubectl.run("delete", "priorityclass", "tunesmith-e2e-urgent")


def submit(lab: Lab, name: str, **spec: Manifest) -> None:
    lab.submit(NAMESPACE, name, labels=QUEUE, compute=ALL, **spec)


def quota(lab: Lab, name: str) -> str:
    found = lab.condition(NAMESPACE, name, "QuotaReserved")
    return found.reason if found else ""


def losses(report: TrainingReport) -> dict[int, str]:
    return {point.step: point.loss for point in report.curve}


def test_a_job_waits_for_quota_and_prepares_meanwhile(lab: Lab, queue: str) -> None:
    submit(lab, "first", hyperparameters=STEPS, checkpoint=CHECKPOINT)
    lab.meet_at_step(queue, "first", 1)
    submit(lab, "second")
    until(lambda: quota(lab, "second") == "WaitingForQuota" or None, 300, "second to wait")
    status = lab.status(queue, "second")
    assert status.stage == "Pending"
    assert [c.status for c in status.conditions if c.type == "DataReady"] == ["True"]
    assert lab.pods(queue, "second", "train") == []
    assert quota(lab, "first") == "Admitted"
    for name in ("first", "second"):
        lab.wait_for(queue, name, "Complete")
    assert quota(lab, "second") == "Admitted"


def test_what_is_preempted_goes_on_exactly_once_there_is_quota(lab: Lab, queue: str) -> None:
    undisturbed = lab.report(queue, "first")
    submit(lab, "modest", hyperparameters=STEPS, checkpoint=CHECKPOINT)
    step = lab.meet_at_step(queue, "modest", 10)
    submit(lab, "urgent", runPolicy={"priorityClassName": "tunesmith-e2e-urgent"})
    until(lambda: quota(lab, "modest") == "WaitingForQuota" or None, 300, "modest to give way")
    lab.wait_for(queue, "urgent", "Complete")
    lab.wait_for(queue, "modest", "Complete")
    status, report = lab.status(queue, "modest"), lab.report(queue, "modest")
    assert report.resumed_from_step is not None
    assert report.resumed_from_step >= step, "SIGTERM must save what everySteps had not"
    assert status.counters.failures == 0, [a.reason for a in status.attempts]
    assert losses(report) == losses(undisturbed)


def test_a_job_of_several_nodes_is_admitted_whole(lab: Lab, queue: str) -> None:
    half = {"nodes": 2, "resources": {"requests": {"cpu": "50m"}}}
    lab.submit(NAMESPACE, "pair", labels=QUEUE, compute=half)
    lab.wait_for(queue, "pair", "Complete")
    assert lab.report(queue, "pair").training.ranks == 2


def test_a_job_that_waits_can_be_deleted_and_leaves_nothing(lab: Lab, queue: str) -> None:
    submit(lab, "first-again", hyperparameters=STEPS, checkpoint=CHECKPOINT)
    lab.meet_at_step(queue, "first-again", 1)
    submit(lab, "unlucky")
    until(lambda: quota(lab, "unlucky") == "WaitingForQuota" or None, 300, "unlucky to wait")
    for name in ("unlucky", "first-again"):
        lab.kubectl.run("delete", "ftj", name, "-n", queue)
        until(lambda name=name: not traces(lab, name) or None, 300, "the children to go")


def traces(lab: Lab, name: str) -> list[str]:
    """What is left of a job; Kueue's Workloads of ended Jobs stay as long as these."""
    there = (w["metadata"]["name"] for w in lab.kubectl.list_all("workloads", NAMESPACE))
    return [*lab.children(NAMESPACE, name), *(w for w in there if w.startswith(f"job-{name}-"))]
