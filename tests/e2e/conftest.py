"""The native cluster with the operator from this checkout, and a namespace for each test.

Brought up by the same code as ``make demo``; a second run finds it there. Nothing is mocked: real
API server, kubelet, pods, S3.
"""

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.cluster import choose_cluster
from deploy.kubectl import Kubectl
from deploy.settings import read_settings
from deploy.shell import Log
from deploy.storage import Storage
from tests.e2e.lab import Lab

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    environment = {**os.environ, "CLUSTER": os.environ.get("CLUSTER", "native")}
    command = [sys.executable, "-m", "deploy", "up", "--operator"]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=3000)
    cluster, _ = choose_cluster(read_settings())
    log = Log(tmp_path_factory.mktemp("e2e") / "kubectl.log")
    return Lab(Kubectl(cluster, log), Storage(cluster), log)


@pytest.fixture
def namespace(lab: Lab) -> Iterator[str]:
    name = f"e2e-{uuid.uuid4().hex[:8]}"
    lab.make_namespace(name)
    yield name
    lab.kubectl.run("delete", "namespace", name, "--wait=false")
