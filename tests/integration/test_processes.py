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
from tests.integration.operators import job, make_namespace

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

ROOT = Path(__file__).parents[2]
WRITE = re.compile(
    r'tunesmith_api_requests_total\{code="2\d\d",kind="(?!Lease)\w+",verb="(?:create|apply|delete)"\}'
    r" (\S+)"
)


@dataclass
class Process:
    """An operator process."""

    popen: subprocess.Popen[bytes]
    port: int
    log: Path

    def get(self, path: str) -> str:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"http://127.0.0.1:{self.port}{path}", timeout=2) as answer:
                return str(answer.read().decode())
        except OSError:
            return ""

    @property
    def leads(self) -> bool:
        return "tunesmith_is_leader 1.0" in self.get("/metrics") and self.get("/readyz") == "ok"

    @property
    def writes(self) -> float:
        return sum(float(value) for value in WRITE.findall(self.get("/metrics")))

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.popen.pid, number)


def wait_for(condition, seconds: float, what: str) -> float:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, f"{what} did not happen in {seconds} s"
        time.sleep(0.1)
    return time.monotonic() - began


@contextlib.contextmanager
def start(plane: ControlPlane, namespace: str, folder: Path, name: str) -> Iterator[Process]:
    (port,) = free_ports(1)
    config = folder / f"{name}.json"
    election = {
        "namespace": namespace,
        "leaseDurationSeconds": 8,
        "renewDeadlineSeconds": 6,
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
        wait_for(lambda: a.leads or b.leads, 60, "the election")
        leader, other = (a, b) if a.leads else (b, a)
        wait_for(lambda: other.get("/readyz") == "ok", 60, "the other one's start")
        apply(control_plane, namespace, "first")
        wait_for(lambda: has_child(control_plane, namespace, "first"), 20, "the first child")
        wait_for(lambda: leader.writes >= 2, 20, "the first status")
        assert other.writes == 0

        leader.signal(signal.SIGSTOP)
        apply(control_plane, namespace, "second")
        wait_for(lambda: has_child(control_plane, namespace, "second"), 20, "the take-over")
        leader.signal(signal.SIGCONT)
        wait_for(lambda: leader.get("/readyz") == "ok", 20, "the old leader's going on")
        before = leader.writes
        apply(control_plane, namespace, "third")
        wait_for(lambda: has_child(control_plane, namespace, "third"), 20, "the third child")
        time.sleep(1)
        assert leader.writes == before, "the old leader wrote"
        assert not leader.leads
        assert other.leads
        assert leader.get("/livez") == "ok"


def test_a_clean_end_is_quick_and_hands_over_at_once(
    control_plane: ControlPlane, tmp_path: Path
) -> None:
    namespace = make_namespace(control_plane)
    with start(control_plane, namespace, tmp_path, "a") as a:
        wait_for(lambda: a.leads, 60, "the election")
        with start(control_plane, namespace, tmp_path, "b") as b:
            wait_for(lambda: b.get("/readyz") == "ok", 60, "the other one's start")
            began = time.monotonic()
            a.signal(signal.SIGTERM)
            assert a.popen.wait(10) == 0
            assert time.monotonic() - began < 10
            wait_for(lambda: b.leads, 5, "the take-over of a released Lease")
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


def test_log_lines_name_their_object(control_plane: ControlPlane, tmp_path: Path) -> None:
    """A child's name is taken by somebody else: the pass warns, and says about what."""
    namespace = make_namespace(control_plane)
    taken = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"namespace": namespace, "name": "demo-prepare-1"},
        "spec": {
            "suspend": True,
            "template": {
                "spec": {
                    "restartPolicy": "Never",
                    "containers": [{"name": "c", "image": "i"}],
                }
            },
        },
    }
    control_plane.kubectl("create", "-f", "-", stdin=json.dumps(taken))
    with start(control_plane, namespace, tmp_path, "a") as a:
        wait_for(lambda: a.leads, 60, "the election")
        apply(control_plane, namespace, "demo")

        def is_told() -> bool:
            text = control_plane.kubectl("-n", namespace, "get", "ftj", "demo", "-o", "json")
            conditions = json.loads(text).get("status", {}).get("conditions", [])
            return any("belongs to somebody else" in c["message"] for c in conditions)

        wait_for(is_told, 15, "the condition")
        a.signal(signal.SIGTERM)
        a.popen.wait(10)
    for line in a.log.read_text().splitlines():
        entry = json.loads(line)
        if entry["logger"].endswith("queue"):
            assert (entry["kind"], entry["name"]) == ("FineTuneJob", "demo")
