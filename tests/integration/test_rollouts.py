"""Roll-outs against a real API server, real measuring, and routers that answer over HTTP."""

import asyncio
from typing import Any

import pytest

from deploy.native.apiserver import ControlPlane
from tests.integration.operators import client_of, make_namespace, operator
from tests.integration.rollouts import (
    change,
    condition_of,
    deployment,
    source,
    until_rolled_back,
    until_stable,
    weights,
)
from tests.integration.serving import Behaviour, serving_cluster

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


async def test_a_canary_goes_through_its_steps_and_takes_over(control_plane: ControlPlane) -> None:
    namespace = make_namespace(control_plane)
    async with client_of(control_plane) as kube, serving_cluster(kube, namespace) as cluster:
        await kube.create(deployment(namespace))
        async with operator(control_plane, namespace):
            first = await until_stable(kube, namespace, 1)
            await change(kube, namespace, source=source("b"))
            second = await until_stable(kube, namespace, 2)
    old, new = (body["status"]["stable"]["name"] for body in (first, second))
    for pod in {put.pod for put in cluster.network.puts}:
        assert weights(cluster.network, pod) == [
            (old, "", 0),
            (old, new, 20),
            (old, new, 50),
            (new, "", 0),
        ]
    assert cluster.network.lost == 0
