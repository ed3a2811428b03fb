"""A real kube-apiserver and etcd with our CRDs, one for all integration tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.native.apiserver import ControlPlane

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with ControlPlane(tmp_path_factory.mktemp("control-plane")) as plane:
        plane.kubectl("apply", "--server-side", "-f", str(ROOT / "crds"))
        plane.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
        yield plane
