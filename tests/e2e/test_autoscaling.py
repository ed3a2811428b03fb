"""A HorizontalPodAutoscaler that is driven by what pods really use, while clients ask.

Needs a metrics server, which is built the first time, and the five minutes that an autoscaler waits
before it takes pods away; so it has a target of its own, ``make test-autoscaling``.
"""

import re
import urllib.request
from collections.abc import Iterator

import pytest

from deploy.load import failures
from deploy.native.metrics import RESOURCES, metrics_server
from deploy.native.node import NODE_IP
from deploy.settings import read_settings
from deploy.shell import StepError
from deploy.standin.fleet import ensure_engine
from tests.e2e.lab import Lab, until
from tests.e2e.rollouts import Deployments
from tunesmith_operator.resources.serving.sidecar import CONTAINER

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]

NAMESPACE = "e2e-autoscaling"
NAME = "chat"
# Per cent of the 50 thousandths of a core that the stand-in requests.
AUTOSCALING = {"minReplicas": 1, "maxReplicas": 3, "targetCpuPercent": 40}
BUSY, IDLE = 80, 3
_ANSWERED = re.compile(r'^tunesmith_serving_requests_total\{.*code="200".*\} (\S+)$', re.M)


@pytest.fixture(scope="module")
def metrics(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Run a metrics server until the node's figures are there."""
    if lab.cluster.name != "native":
        pytest.skip("the metrics server runs beside the native cluster")
    folder = tmp_path_factory.mktemp("metrics")
    kubeconfig = read_settings().kubeconfig
    with metrics_server(folder, kubeconfig, NODE_IP, lab.kubectl.run):

        def are_there() -> bool | None:
            try:
                return "usage" in lab.kubectl.run("get", "--raw", f"{RESOURCES}/nodes") or None
            except StepError:
                return None

        until(are_there, 120, "the node's figures")
        yield


@pytest.fixture(scope="module")
def fleet(lab: Lab, metrics: None) -> Iterator[Deployments]:
    lab.kubectl.run("delete", "namespace", NAMESPACE, "--ignore-not-found", "--wait")
    lab.make_namespace(NAMESPACE)
    source = lab.train_tiny(NAMESPACE, "Merged")
    yield Deployments(lab.kubectl, NAMESPACE, ensure_engine(lab.cluster, lab.log), source)
    lab.kubectl.run("delete", "namespace", NAMESPACE, "--wait=false")


def answered(lab: Lab, fleet: Deployments) -> list[float]:
    """Give how many requests each of the deployment's pods has answered well."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    found = []
    for pod in lab.kubectl.list_all("pods", NAMESPACE, fleet.status(NAME).selector):
        (sidecar,) = [c for c in pod["spec"]["containers"] if c["name"] == CONTAINER]
        where = f"{pod['status'].get('podIP')}:{sidecar['ports'][0]['containerPort']}"
        try:
            with opener.open(f"http://{where}/metrics", timeout=2) as page:
                found.append(sum(float(n) for n in _ANSWERED.findall(page.read().decode())))
        except OSError:
            continue  # it starts or ends just now
    return found


def test_pods_come_with_the_load_and_go_after_it_and_nobody_is_failed(
    lab: Lab, fleet: Deployments
) -> None:
    fleet.apply(NAME, {"ANSWER": "good"}, autoscaling=AUTOSCALING)
    fleet.wait_until_stable(NAME, 1)

    def replicas() -> int:
        stable = fleet.status(NAME).stable
        return stable.ready_replicas if stable else 0

    with fleet.load(NAME, BUSY) as load:
        until(lambda: replicas() >= 2 or None, 300, "further pods", 1)
        until(
            lambda: sum(n > 0 for n in answered(lab, fleet)) >= 2 or None,
            60,
            "the router to send requests to the new pods",
            1,
        )
    assert failures(load.answers) == []
    # An autoscaler believes that it is over only after five minutes.
    with fleet.load(NAME, IDLE) as load:
        until(lambda: fleet.body(NAME)["spec"]["replicas"] == 1 or None, 600, "one replica", 1)
        until(lambda: replicas() == 1 or None, 120, "the further pods to go", 1)
    assert failures(load.answers) == []
    assert len(load.answers) > 100
    status = fleet.status(NAME)
    assert status.rollout is None, "more pods are no roll-out"
    assert status.last_revision == 1
