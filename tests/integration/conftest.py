"""A real kube-apiserver and etcd with our CRDs, one for all integration tests."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.native.apiserver import ControlPlane
from deploy.shell import StepError

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with ControlPlane(tmp_path_factory.mktemp("control-plane")) as plane:
        plane.kubectl("apply", "--server-side", "-R", "-f", str(ROOT / "crds"))
        wait_for_crds(plane)
        yield plane


def wait_for_crds(plane: ControlPlane) -> None:
    """Wait until our kinds are served. kubectl gives up on a CRD that has no conditions yet."""
    deadline = time.monotonic() + 30
    while True:
        try:
            plane.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
            return
        except StepError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
