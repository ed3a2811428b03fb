"""The native cluster with the operator from this checkout, and a namespace for each test.

Brought up by the same code as ``make demo``; a second run finds it there. Nothing is mocked: real
API server, kubelet, pods, S3.
"""

import os
import subprocess
import sys
import uuid
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
import yaml

from deploy.cluster import choose_cluster
from deploy.kubectl import Kubectl
from deploy.settings import read_settings
from deploy.shell import Log
from deploy.storage import DEMO_NAMESPACE, Storage
from tests.e2e.lab import Lab

ROOT = Path(__file__).parents[2]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure far away from a keyboard must tell what the cluster looked like."""
    report = yield
    arguments = getattr(item, "funcargs", {})
    if report.failed and call.when == "call" and "lab" in arguments:
        where = arguments.get("namespace", DEMO_NAMESPACE)
        report.sections.append(("cluster", arguments["lab"].describe(where, call.duration)))
    return report


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    environment = {**os.environ, "CLUSTER": os.environ.get("CLUSTER", "native")}
    command = [sys.executable, "-m", "deploy", "up", "--operator"]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=3000)
    cluster, _ = choose_cluster(read_settings())
    log = Log(tmp_path_factory.mktemp("e2e") / "kubectl.log")
    return Lab(cluster, Kubectl(cluster, log), Storage(cluster), log)


@pytest.fixture
def namespace(lab: Lab) -> Iterator[str]:
    name = f"e2e-{uuid.uuid4().hex[:8]}"
    lab.make_namespace(name)
    yield name
    lab.kubectl.run("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="session", autouse=True)
def submitted_example(lab: Lab, request: pytest.FixtureRequest) -> tuple[str, str]:
    """Apply the example before all tests: it trains for minutes, in which they mostly wait.

    Not where no test asks for it: it takes one of two cores.
    """
    file = ROOT / "examples" / "finetunejob.yaml"
    name = yaml.safe_load(file.read_text())["metadata"]["name"]
    wanted = (getattr(item, "fixturenames", ()) for item in request.session.items)
    if not any("example" in names for names in wanted):
        return DEMO_NAMESPACE, name
    lab.kubectl.run("delete", "ftj", name, "-n", DEMO_NAMESPACE, "--ignore-not-found", "--wait")
    lab.kubectl.run("apply", "-f", str(file))
    return DEMO_NAMESPACE, name


@pytest.fixture(scope="session")
def missing_image(lab: Lab) -> tuple[str, str]:
    """Submit a job whose image does not exist, early: giving up on a pull takes two minutes."""
    where = "e2e-no-image", "image"
    lab.kubectl.run("delete", "namespace", where[0], "--ignore-not-found", "--wait")
    lab.make_namespace(where[0])
    image = {"image": "localhost:5000/no-such-image:1"}
    lab.submit(*where, compute=image, runPolicy={"backoffLimit": 0})
    return where
