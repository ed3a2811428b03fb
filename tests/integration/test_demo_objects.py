"""What the demo and the benchmarks apply, against the real API server; and the demo's own watching
of a roll-out, with statuses that this test writes in the operator's place."""

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks import bench_rollback
from deploy import serving
from deploy.kubectl import Kubectl, manifest
from deploy.load import Load, question
from deploy.native.apiserver import ControlPlane
from deploy.native.binaries import ensure_binaries
from deploy.rollout import follow
from deploy.rollout_status import DeploymentStatus
from deploy.serving import Served
from deploy.shell import Log, StepError
from deploy.spoiled import spoiled_version
from deploy.standin.fleet import Fleet
from deploy.storage import DEMO_NAMESPACE

pytestmark = pytest.mark.integration

DIGEST = "sha256:" + "a" * 64
TUNED: dict[str, Any] = {"metadata": {"name": "about-tunesmith-v1"}, "spec": {"version": "1"}}
TIME = "2026-11-21T12:00:00Z"


class Cluster:
    """As much of a cluster as kubectl needs."""

    def __init__(self, plane: ControlPlane) -> None:
        self.kubeconfig = plane.kubeconfig

    def program(self, name: str) -> str:
        return str(ensure_binaries([name])[name])


@pytest.fixture(scope="module")
def kubectl(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Kubectl:
    cluster: Any = Cluster(control_plane)
    made = Kubectl(cluster, Log(tmp_path_factory.mktemp("demo") / "log"))
    made.apply(manifest("namespaces.yaml"))
    return made


class Watched(Served):
    """Lets the test know when the demo has looked, so that it misses nothing."""

    def __init__(self, kubectl: Kubectl) -> None:
        super().__init__(kubectl)
        self._looks = 0
        self._looked = threading.Condition()

    def status(self) -> DeploymentStatus:
        seen = super().status()
        with self._looked:
            self._looks += 1
            self._looked.notify_all()
        return seen

    def wait_for_a_look(self) -> None:
        """Wait until a look is over that has begun after now."""
        with self._looked:
            # The next to end may have begun before.
            enough = self._looks + 2
            assert self._looked.wait_for(lambda: self._looks >= enough, 120)


@pytest.fixture
def served(kubectl: Kubectl) -> Iterator[Watched]:
    one = Watched(kubectl)
    one.follow_channel()
    yield one
    kubectl.run("delete", "mdep", serving.NAME, "-n", DEMO_NAMESPACE)


def write(kubectl: Kubectl, **status: Any) -> None:
    where = ("mdep", serving.NAME, "-n", DEMO_NAMESPACE, "--subresource=status")
    kubectl.run("patch", *where, "--type=merge", "-p", json.dumps({"status": status}))


def revision(number: int, weight: int) -> dict[str, Any]:
    version = {1: "about-tunesmith-v1", 2: "about-tunesmith-v1-spoiled"}[number]
    names = {"revision": number, "name": f"r-{number}", "version": version, "digest": DIGEST}
    return {**names, "weight": weight, "readyReplicas": 1}


def condition(kind: str, status: str, message: str = "x") -> dict[str, str]:
    said = {"type": kind, "status": status, "reason": "Because", "message": message}
    return {**said, "lastTransitionTime": TIME}


def test_a_spoiled_version_is_a_legal_one(kubectl: Kubectl) -> None:
    body = spoiled_version("about-tunesmith-v1-spoiled", TUNED, "s3://tunesmith/x/", DIGEST, 7)
    kubectl.run("create", "-f", "-", stdin=json.dumps(body))


def test_what_the_benchmark_applies_is_legal(kubectl: Kubectl) -> None:
    source = {"uri": "s3://tunesmith/x/", "digest": DIGEST}
    fleet = Fleet(kubectl, "default", "registry/standin:1", source)
    for name, fail_fast in (("off", bench_rollback.OFF), ("on", bench_rollback.DEFAULTS)):
        rollout = {**bench_rollback.ROLLOUT, "failFast": fail_fast}
        fleet.apply(name, {"ERROR_PERCENT": "100"}, replicas=4, rollout=rollout)
        spec = fleet.body(name)["spec"]
        assert spec["rollout"]["failFast"] == fail_fast
        assert spec["rollout"]["analysis"]["failureLimit"] == 3
        assert spec["engine"]["env"] == [{"name": "ERROR_PERCENT", "value": "100"}]


def test_a_version_is_offered_to_the_same_deployment(kubectl: Kubectl, served: Served) -> None:
    before = kubectl.get("mdep", serving.NAME, DEMO_NAMESPACE)
    served.offer("about-tunesmith-v1-spoiled")
    after = kubectl.get("mdep", serving.NAME, DEMO_NAMESPACE)
    assert before is not None
    assert after is not None
    assert after["spec"]["source"] == {"modelVersion": "about-tunesmith-v1-spoiled"}
    assert after["spec"]["engine"] == before["spec"]["engine"]
    assert after["metadata"]["uid"] == before["metadata"]["uid"]


def test_a_deployment_that_comes_up_is_waited_for(
    kubectl: Kubectl, served: Watched, capsys: pytest.CaptureFixture[str]
) -> None:
    def operate() -> None:
        served.wait_for_a_look()
        write(
            kubectl,
            phase="Stable",
            stable=revision(1, 100),
            conditions=[condition("Ready", "True")],
        )

    operator = threading.Thread(target=operate)
    operator.start()
    served.wait_until_serving()
    operator.join()
    said = capsys.readouterr().out
    assert "Pending" in said
    assert "Stable, stable 100 %" in said


def test_a_deployment_that_never_will_says_why(
    kubectl: Kubectl, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "STALLED_SECONDS", 0)
    write(kubectl, conditions=[condition("Stalled", "True", "There is no ModelVersion")])
    with pytest.raises(StepError, match="There is no ModelVersion") as caught:
        served.wait_until_serving()
    assert "kubectl describe mdep" in caught.value.hint


def test_a_rollout_is_followed_to_its_end(
    kubectl: Kubectl, served: Watched, capsys: pytest.CaptureFixture[str]
) -> None:
    metric = {"name": "quality", "value": "0.0", "verdict": "Fail", "failures": 1}
    rollout = {"digest": DIGEST, "plan": DIGEST, "startTime": TIME, "metrics": [metric]}
    rollback = {"fromRevision": 2, "toRevision": 1, "digest": DIGEST, "time": TIME}
    rollback |= {"reason": "AnalysisFailed", "restoredAfterMilliseconds": 40}

    def operate() -> None:
        served.wait_for_a_look()
        stable, canary = revision(1, 75), revision(2, 25)
        write(kubectl, phase="Analysing", stable=stable, canary=canary, rollout=rollout)
        served.wait_for_a_look()
        gone = {"canary": None, "rollout": None, "stable": revision(1, 100)}
        write(kubectl, phase="RolledBack", lastRollback=rollback, **gone)

    operator = threading.Thread(target=operate)
    # Nobody listens there: a failed request is an answer like any other.
    with Load("http://127.0.0.1:9", 5, lambda _: question("Hi?")) as load:
        operator.start()
        status, offered = follow(served, "about-tunesmith-v1-spoiled", load)
    operator.join()
    assert offered.revision == 2
    assert status.last_rollback is not None
    assert status.last_rollback.restored_after_milliseconds == 40
    said = capsys.readouterr().out
    assert "Analysing, stable 75 %, canary 25 %, quality 0.0 Fail" in said
    assert "RolledBack, stable 100 %, quality 0.0 Fail" in said
