"""A real kube-apiserver and etcd with our CRDs, one for all integration tests of a process.

``cluster`` is what most tests of roll-outs begin with: an empty namespace, in which a Deployment
controller and a kubelet are played. The tests start and end the operators.
"""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from deploy.native.apiserver import ControlPlane
from tests.integration.operators import client_of, make_namespace
from tests.integration.serving import ServingCluster, serving_cluster
from tunesmith_operator.kube.client import KubeClient

CRDS = Path(__file__).parents[2] / "crds"


# Not for the whole session: tests that come after these have the memory and the CPU for themselves.
@pytest.fixture(scope="package")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with ControlPlane(tmp_path_factory.mktemp("control-plane")) as plane:
        plane.install_crds(CRDS)
        yield plane


@pytest.fixture
def namespace(control_plane: ControlPlane) -> str:
    return make_namespace(control_plane)


@pytest.fixture
async def kube(control_plane: ControlPlane) -> AsyncIterator[KubeClient]:
    async with client_of(control_plane) as client:
        yield client


@pytest.fixture
async def cluster(kube: KubeClient, namespace: str) -> AsyncIterator[ServingCluster]:
    async with serving_cluster(kube, namespace) as playing:
        yield playing
