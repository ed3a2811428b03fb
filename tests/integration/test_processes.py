"""Two operators as processes of their own: a paused leader, a clean end, a killed one."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from deploy.native.apiserver import ControlPlane, free_ports
from deploy.shell import StepError
from tests.integration.operators import job, make_namespace

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

LONG_SECONDS = 240
"""Nobody waits until a Lease of this length runs out."""
ROOT = Path(__file__).parents[2]
WRITE = re.compile(
    r'tunesmith_api_requests_total\{code="2\d\d",kind="(?!Lease)\w+",verb="(?:create|apply|delete)"\}'
    r" (\S+)"
)

WATCH_AGE = re.compile(r'tunesmith_watch_age_seconds\{resource="(\w+)"\} (\S+)')


@dataclass
class Process:
    """An operator process."""

    popen: subprocess.Popen[bytes]
    port: int
    log: Path

    def get(self, path: str) -> str:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"http://127.0.0.1:{self.port}{path}", timeout=20) as answer:
                return str(answer.read().decode())
        except OSError:
            return ""

    @property
    def leads(self) -> bool:
        return "tunesmith_is_leader 1.0" in self.get("/metrics") and self.get("/readyz") == "ok"

    @property
    def writes(self) -> float:
        page = self.get("/metrics")
        assert page, "it does not answer"
        return sum(float(value) for value in WRITE.findall(page))

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.popen.pid, number)


def wait_for(condition, what: str, seconds: float = 120) -> None:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, f"{what} did not happen in {seconds} s"
        time.sleep(0.1)


@contextlib.contextmanager
def start(
    plane: ControlPlane, namespace: str, folder: Path, name: str, lease_seconds: int = 15
) -> Iterator[Process]:
    (port,) = free_ports(1)
    config = folder / f"{name}.json"
    election = {
        "namespace": namespace,
        "leaseDurationSeconds": lease_seconds,
        "renewDeadlineSeconds": lease_seconds - 2,
        "retryPeriodSeconds": 0.5,
    }
    settings = {
        "trainerImage": "trainer:1",
        "namespaces": [namespace],
        "probePort": port,
        "leaderElection": election,
    }
    config.write_text(json.dumps(settings))
    log = folder / f"{name}.log"
    arguments = ["--config", str(config), "--kubeconfig", str(plane.kubeconfig)]
    with log.open("wb") as output:
        popen = subprocess.Popen(
            [sys.executable, "-m", "tunesmith_operator", *arguments],
            env=os.environ | {"PYTHONPATH": str(ROOT / "operator")},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield Process(popen, port, log)
    finally:
        if popen.poll() is None:
            popen.send_signal(signal.SIGCONT)
            popen.kill()
        popen.wait()


def apply(plane: ControlPlane, namespace: str, name: str) -> None:
    plane.kubectl("create", "-f", "-", stdin=json.dumps(job(namespace, name)))


def has_child(plane: ControlPlane, namespace: str, name: str) -> bool:
    return f"{name}-prepare-1" in plane.kubectl("-n", namespace, "get", "jobs", "-o", "name")


def test_a_paused_leader_is_followed_and_writes_nothing_when_it_goes_on(
    control_plane: ControlPlane, tmp_path: Path
) -> None:
    namespace = make_namespace(control_plane)
    with (
        start(control_plane, namespace, tmp_path, "a") as a,
        start(control_plane, namespace, tmp_path, "b") as b,
    ):
        wait_for(lambda: a.leads or b.leads, "the election")
        leader, other = (a, b) if a.leads else (b, a)
        wait_for(lambda: other.get("/readyz") == "ok", "the other one's start")
        apply(control_plane, namespace, "first")
        wait_for(lambda: has_child(control_plane, namespace, "first"), "the first child")
        wait_for(lambda: leader.writes >= 2, "the first status")
        assert other.writes == 0

        leader.signal(signal.SIGSTOP)
        apply(control_plane, namespace, "second")
        wait_for(lambda: has_child(control_plane, namespace, "second"), "the take-over")
        leader.signal(signal.SIGCONT)
        wait_for(lambda: leader.get("/readyz") == "ok", "the old leader's going on")
        before = leader.writes
        apply(control_plane, namespace, "third")
        wait_for(lambda: has_child(control_plane, namespace, "third"), "the third child")
        time.sleep(1)
        assert leader.writes == before, "the old leader wrote"
        assert not leader.leads
        assert other.leads
        assert leader.get("/livez") == "ok"

        stages = 'tunesmith_finetunejobs{stage="Prepare"} 3.0'
        wait_for(lambda: stages in other.get("/metrics"), "the number of jobs by stage")
        ages = dict(WATCH_AGE.findall(other.get("/metrics")))
        assert ages.keys() >= {"finetunejobs", "modeldeployments", "jobs", "pods"}
        assert min(map(float, ages.values())) >= 0
        assert max(map(float, ages.values())) < 75, "each was opened again within a minute"


def test_a_clean_end_is_quick_and_hands_over_at_once(
    control_plane: ControlPlane, tmp_path: Path
) -> None:
    namespace = make_namespace(control_plane)
    with start(control_plane, namespace, tmp_path, "a", LONG_SECONDS) as a:
        wait_for(lambda: a.leads, "the election")
        with start(control_plane, namespace, tmp_path, "b", LONG_SECONDS) as b:
            wait_for(lambda: b.get("/readyz") == "ok", "the other one's start")
            a.signal(signal.SIGTERM)
            # Kubernetes gives a pod so long.
            assert a.popen.wait(30) == 0
            wait_for(lambda: b.leads, "the take-over of a released Lease", LONG_SECONDS / 2)
    for line in a.log.read_text().splitlines():
        assert json.loads(line)["level"] in ("info", "warning"), line


def test_a_wrong_configuration_is_named_and_ends_the_process(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("trainerImages: x\n")
    done = subprocess.run(
        [sys.executable, "-m", "tunesmith_operator", "--config", str(config)],
        env=os.environ | {"PYTHONPATH": str(ROOT / "operator")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "trainerImages: Extra inputs are not permitted" in done.stderr


@contextlib.contextmanager
def webhook_that_is_away(plane: ControlPlane, namespace: str) -> Iterator[None]:
    """Nobody answers the webhook that must admit a status: writing one is the server's error."""
    only = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
    kinds = {"apiGroups": ["tunesmith.dev"], "resources": ["finetunejobs/status"]}
    rule = {**kinds, "apiVersions": ["v1alpha1"], "operations": ["UPDATE"]}
    webhook = {
        "name": "away.example.org",
        "clientConfig": {"url": "https://127.0.0.1:1/"},
        "rules": [rule],
        "namespaceSelector": only,
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        "timeoutSeconds": 1,
    }
    configuration = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": namespace},
        "webhooks": [webhook],
    }
    plane.kubectl("create", "-f", "-", stdin=json.dumps(configuration))
    try:
        yield
    finally:
        plane.kubectl("delete", "validatingwebhookconfiguration", namespace)


def lines_of_the_queue(log: Path) -> list[dict[str, str]]:
    whole = log.read_text().rpartition("\n")[0]
    entries = [json.loads(line) for line in whole.splitlines()]
    return [entry for entry in entries if entry["logger"].endswith("queue")]


def test_log_lines_name_their_object(control_plane: ControlPlane, tmp_path: Path) -> None:
    """Nobody answers a webhook: the pass is given up, and the line says which object's it was."""
    namespace = make_namespace(control_plane)
    apply(control_plane, namespace, "demo")
    trial = ["patch", "finetunejob", "demo", "-n", namespace, "--subresource=status"]
    change = ["--type=merge", "-p", '{"status": {"stage": "Pending"}}', "--dry-run=server"]

    def is_away() -> bool:
        try:
            control_plane.kubectl(*trial, *change)
        except StepError as error:
            return "failed calling webhook" in str(error)
        return False

    with webhook_that_is_away(control_plane, namespace):
        wait_for(is_away, "the webhook")
        with start(control_plane, namespace, tmp_path, "a") as a:
            wait_for(lambda: bool(lines_of_the_queue(a.log)), "a line of the queue")
            a.signal(signal.SIGTERM)
            a.popen.wait(60)
    lines = lines_of_the_queue(a.log)
    assert {(e["level"], e["kind"], e["name"]) for e in lines} == {
        ("warning", "FineTuneJob", "demo")
    }
    assert "failed calling webhook" in lines[0]["error"]
