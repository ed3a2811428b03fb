"""A real kube-apiserver and etcd with our CRDs, one for all integration tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.native.apiserver import ControlPlane

CRDS = Path(__file__).parents[2] / "crds"


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with ControlPlane(tmp_path_factory.mktemp("control-plane")) as plane:
        plane.install_crds(CRDS)
        yield plane
