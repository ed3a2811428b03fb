"""The loop closes: a job's version gets the tag of the channel that a ModelDeployment follows.

Against the real API server, with the real operator. Pods are played, so the deployment gets as far
as naming the version as its next revision.
"""

import json
from typing import Any

import pytest

from deploy.native.apiserver import ControlPlane
from tests.integration.operators import (
    Killer,
    client_of,
    condition,
    fake_cluster,
    job,
    make_namespace,
    operator,
    run_until_killed,
    until,
    until_ended,
)
from tunesmith_operator.kube.errors import Unavailable
from tunesmith_operator.kube.kinds import KINDS, Object
from tunesmith_operator.kube.transport import Request, Response, Send

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

DEPLOY_TO = {"deployTo": {"name": "chat"}}
FOLLOWING = {"model": "demo", "channel": "stable"}


def deployment(namespace: str, source: dict[str, str]) -> Object:
    return {
        "apiVersion": KINDS["ModelDeployment"].api_version,
        "kind": "ModelDeployment",
        "metadata": {"namespace": namespace, "name": "chat"},
        # The played trainer makes no GGUF.
        "spec": {"source": source, "engine": {"type": "Custom", "image": "engine:1"}},
    }


def offered(body: Object) -> tuple[str, str, str]:
    (found,) = [c for c in body["status"]["conditions"] if c["type"] == "Offered"]
    return found["status"], found["reason"], found["message"]


async def test_the_deployment_takes_what_it_is_offered(control_plane: ControlPlane) -> None:
    namespace = make_namespace(control_plane)
    async with client_of(control_plane) as kube, fake_cluster(kube, namespace):
        made = await kube.create(deployment(namespace, FOLLOWING))
        await kube.create(job(namespace, **DEPLOY_TO))
        async with operator(control_plane, namespace):
            status, reason, message = offered(await until_ended(kube, namespace))

            async def canary() -> Any:
                body = await kube.get("ModelDeployment", namespace, "chat")
                return ((body or {}).get("status") or {}).get("canary")

            revision = await until(canary, what="a revision of the version")
        version = await kube.get("ModelVersion", namespace, "demo-v1")
        body = await kube.get("ModelDeployment", namespace, "chat")
    assert (status, reason) == ("True", "ChannelTagged")
    assert "stable" in message
    assert "chat" in message
    assert version is not None
    assert version["spec"]["tags"] == ["stable"]
    assert version["spec"]["offeredTo"] == {"deployment": "chat", "channel": "stable"}
    assert revision["version"] == "demo-v1"
    assert body is not None
    assert body["metadata"]["generation"] == made["metadata"]["generation"], (
        "its spec is the user's"
    )


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        pytest.param(None, "DeploymentNotFound", id="no deployment"),
        pytest.param({"modelVersion": "demo-v0"}, "NoChannelFollowed", id="a fixed version"),
        pytest.param(
            {"model": "sales", "channel": "stable"}, "OtherModelFollowed", id="another model"
        ),
    ],
)
async def test_training_is_not_lost_where_nobody_takes_the_version(
    control_plane: ControlPlane, source: dict[str, str] | None, reason: str
) -> None:
    namespace = make_namespace(control_plane)
    async with client_of(control_plane) as kube, fake_cluster(kube, namespace):
        if source is not None:
            await kube.create(deployment(namespace, source))
        await kube.create(job(namespace, **DEPLOY_TO))
        async with operator(control_plane, namespace):
            body = await until_ended(kube, namespace)

            async def warned() -> list[Object]:
                events = await kube.list("Event", namespace)
                return [e for e in events if (e["type"], e["reason"]) == ("Warning", reason)]

            assert len(await until(warned, what="the Warning")) == 1
        version = await kube.get("ModelVersion", namespace, "demo-v1")
    assert condition(body, "Complete") == "True"
    assert offered(body)[:2] == ("False", reason)
    assert version is not None
    assert version["spec"]["tags"] == []
    assert "offeredTo" not in version["spec"]


class DiesAfterTheVersion(Killer):
    """Lets the ModelVersion be made, and nothing after it."""

    async def __call__(self, request: Request, send: Send) -> Response:
        if self.dead.is_set():
            raise Unavailable("the operator is dead")
        if (request.verb, request.kind) != ("create", "ModelVersion"):
            return await send(request)
        self.dead.set()
        await send(request)
        raise Unavailable("the operator is dead")


async def test_an_operator_that_died_after_the_version_says_what_was_offered(
    control_plane: ControlPlane,
) -> None:
    namespace = make_namespace(control_plane)
    async with client_of(control_plane) as kube, fake_cluster(kube, namespace):
        await kube.create(deployment(namespace, FOLLOWING))
        await kube.create(job(namespace, **DEPLOY_TO))
        killer = DiesAfterTheVersion(at=0, is_after=True)
        await run_until_killed(control_plane, kube, namespace, killer)
        left = await kube.get("FineTuneJob", namespace, "demo")
        assert condition(left, "Offered") == "", "the status was never written"
        path = ["patch", "mdep", "chat", "-n", namespace, "--type=merge", "-p"]
        control_plane.kubectl(*path, json.dumps({"spec": {"source": {"channel": "next"}}}))
        async with operator(control_plane, namespace):
            status, reason, message = offered(await until_ended(kube, namespace))
        versions = await kube.list("ModelVersion", namespace)
    assert (status, reason) == ("True", "ChannelTagged")
    assert "the tag stable" in message
    assert [v["spec"]["tags"] for v in versions] == [["stable"]]
