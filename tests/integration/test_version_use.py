"""A ModelVersion says who uses it, as long as they do.

Against the real API server; pods are played.
"""

import pytest

from deploy.native.apiserver import ControlPlane
from tests.integration.operators import client_of, make_namespace, operator, until
from tests.integration.rollouts import (
    KIND,
    change,
    condition_of,
    deployment,
    until_stable,
)
from tests.integration.serving import serving_cluster
from tunesmith_operator.kube.client import KubeClient
from tunesmith_operator.kube.kinds import KINDS, Object

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


def version(namespace: str, number: int) -> Object:
    digest = f"sha256:{number:064x}"
    artifact = {"format": "GGUF", "uri": f"s3://bucket/{number}/", "digest": digest, "sizeBytes": 1}
    return {
        "apiVersion": KINDS["ModelVersion"].api_version,
        "kind": "ModelVersion",
        "metadata": {"namespace": namespace, "name": f"demo-v{number}"},
        "spec": {"model": "demo", "version": str(number), "artifacts": [artifact]},
    }


async def until_used(
    kube: KubeClient, namespace: str, name: str, *roles: str, by: str = "demo"
) -> Object:
    """Wait until the version says that the deployment uses it in these ways, or nobody does."""
    expected = [{"name": by, "roles": list(roles)}] if roles else []
    word = "True" if roles else "False"

    async def says_so() -> Object | None:
        body = await kube.get("ModelVersion", namespace, name)
        status = (body or {}).get("status") or {}
        is_said = condition_of(status, "InUse")[0] == word
        return body if is_said and status.get("usedBy", []) == expected else None

    found: Object = await until(says_so, what=f"{name} to be used as {roles}")
    return found


async def test_a_version_says_who_uses_it(control_plane: ControlPlane) -> None:
    namespace = make_namespace(control_plane)
    async with client_of(control_plane) as kube, serving_cluster(kube, namespace):
        for number in (1, 2):
            await kube.create(version(namespace, number))
        async with operator(control_plane, namespace):
            await until_used(kube, namespace, "demo-v1")
            await kube.create(deployment(namespace, source={"modelVersion": "demo-v1"}))
            await until_stable(kube, namespace, 1)
            await until_used(kube, namespace, "demo-v1", "Source", "Stable")
            await change(kube, namespace, source={"modelVersion": "demo-v2"})
            await until_stable(kube, namespace, 2)
            await until_used(kube, namespace, "demo-v1")
            used = await until_used(kube, namespace, "demo-v2", "Source", "Stable")
            assert condition_of(used["status"], "Verified")[0] == "Unknown"
            body = await kube.get(KIND, namespace, "demo")
            assert body is not None
            await kube.delete(
                KIND, namespace, "demo", uid=body["metadata"]["uid"], propagation="Background"
            )
            await until_used(kube, namespace, "demo-v2")


async def test_a_version_in_use_may_go_and_what_serves_goes_on(control_plane: ControlPlane) -> None:
    namespace = make_namespace(control_plane)
    async with client_of(control_plane) as kube, serving_cluster(kube, namespace) as cluster:
        made = await kube.create(version(namespace, 1))
        await kube.create(deployment(namespace, source={"modelVersion": "demo-v1"}))
        async with operator(control_plane, namespace):
            await until_stable(kube, namespace, 1)
            await kube.delete(
                "ModelVersion",
                namespace,
                "demo-v1",
                uid=made["metadata"]["uid"],
                propagation="Background",
            )

            async def stalls() -> bool:
                body = await kube.get(KIND, namespace, "demo")
                said = condition_of((body or {}).get("status") or {}, "Stalled")
                return said[:2] == ("True", "VersionNotFound")

            await until(stalls, what="the deployment to say what is missing")
            body = await kube.get(KIND, namespace, "demo")
    assert body is not None
    assert condition_of(body["status"], "Ready")[0] == "True"
    assert cluster.network.lost == 0
