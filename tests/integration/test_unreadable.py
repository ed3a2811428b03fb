"""Objects that the API server took under another CRD, and that this operator cannot read.

Their conditions say which field, and are cleared once it is mended; nothing else of the status is
touched, and what serves goes on.
"""

import contextlib
import json
from collections.abc import AsyncIterator

import pytest

from deploy.native.apiserver import ControlPlane
from deploy.shell import StepError
from tests.integration.operators import job, operator, patch_status, until
from tests.integration.rollouts import (
    KIND,
    change,
    condition_of,
    deployment,
    passes,
    patch,
    read,
    source,
    until_events,
    until_stable,
    until_status,
    weights,
)
from tests.integration.serving import ServingCluster
from tunesmith_operator.kube.client import KubeClient
from tunesmith_operator.kube.kinds import KINDS, Object

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

SCHEMA = "/spec/versions/0/schema/openAPIV3Schema/properties"
COLOUR = {"op": "add", "path": f"{SCHEMA}/spec/properties/colour", "value": {"type": "string"}}
MOOD = {"op": "add", "path": f"{SCHEMA}/status/properties/mood", "value": {"type": "string"}}
INVALID = "InvalidSpec"
MOST_REPLICAS = f"{SCHEMA}/spec/properties/replicas/maximum"


def alter(plane: ControlPlane, kind: str, *changes: Object) -> None:
    """Change a CRD."""
    name = f"crd/{KINDS[kind].plural}.tunesmith.dev"
    plane.kubectl("patch", name, "--type=json", "-p", json.dumps(changes))


def takes(plane: ControlPlane, body: Object, *fields: str) -> bool:
    """Whether the API server would take an object just so, with these fields of its spec."""
    body = body | {"metadata": body["metadata"] | {"name": "trial"}}
    arguments = ["create", "--dry-run=server", "--validate=false", "-o", "json", "-f", "-"]
    try:
        made = json.loads(plane.kubectl(*arguments, stdin=json.dumps(body)))
    except StepError:
        return False
    return all(made["spec"].get(f) == body["spec"][f] for f in fields)


@contextlib.asynccontextmanager
async def coloured(plane: ControlPlane, body: Object) -> AsyncIterator[None]:
    """Have a newer CRD for a while, whose objects have a colour."""
    alter(plane, body["kind"], COLOUR)
    try:
        trial = body | {"spec": body["spec"] | {"colour": "red"}}

        async def is_served() -> bool:
            return takes(plane, trial, "colour")

        await until(is_served, what="the newer CRD")
        yield
    finally:
        alter(plane, body["kind"], COLOUR | {"op": "remove"})


async def until_said(
    kube: KubeClient, body: Object, kind: str, state: tuple[str, str]
) -> tuple[Object, str]:
    """Wait for status and reason of a condition; give the object and the message."""
    meta = body["metadata"]

    async def look() -> Object | None:
        found = await kube.get(body["kind"], meta["namespace"], meta["name"])
        is_it = found and condition_of(found.get("status") or {}, kind)[:2] == state
        return found if is_it else None

    found: Object = await until(look, what=f"{kind} to be {state}")
    return found, condition_of(found["status"], kind)[2]


async def test_a_job_of_a_newer_crd_waits_until_it_can_be_read(
    control_plane: ControlPlane, namespace: str, kube: KubeClient
) -> None:
    body = job(namespace)
    async with coloured(control_plane, body), operator(control_plane, namespace):
        await kube.create(job(namespace, colour="red"))
        said, message = await until_said(kube, body, "Accepted", ("False", "InvalidSpec"))
        (event,) = await until_events(kube, namespace, "Unreadable")
        assert await kube.list("Job", namespace) == []
        assert said["status"]["observedGeneration"] == 1
        assert "spec.colour: Extra inputs are not permitted (it is 'red')." in message
        assert "upgrade CRDs and operator to the same version" in message
        assert event["message"] in message
        assert event["involvedObject"]["name"] == "demo"
        await patch(kube, "FineTuneJob", namespace, "demo", {"spec": {"colour": None}})
        await until_said(kube, body, "Accepted", ("True", "ValidSpec"))


async def test_a_version_of_a_newer_crd_says_so_and_keeps_its_users(
    control_plane: ControlPlane, namespace: str, kube: KubeClient
) -> None:
    artifact = {"format": "Merged", **source("a"), "sizeBytes": 10}
    body = {
        "apiVersion": KINDS["ModelVersion"].api_version,
        "kind": "ModelVersion",
        "metadata": {"namespace": namespace, "name": "m-v1"},
        "spec": {"model": "m", "version": "1", "artifacts": [artifact]},
    }
    async with coloured(control_plane, body):
        await kube.create(body | {"spec": body["spec"] | {"colour": "red"}})
        used: Object = {"type": "InUse", "status": "True", "reason": "Used", "message": "by demo"}
        used |= {"lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": 0}
        await patch_status(kube, "ModelVersion", namespace, "m-v1", {"conditions": [used]})
        async with operator(control_plane, namespace):
            unknown = ("Unknown", "InvalidSpec")
            said, message = await until_said(kube, body, "Verified", unknown)
    assert "spec.colour" in message
    assert [c for c in said["status"]["conditions"] if c["type"] == "InUse"] == [used]


async def store_under_a_laxer_crd(
    plane: ControlPlane, kube: KubeClient, namespace: str, replicas: int
) -> None:
    """Leave a deployment behind that today's CRD would refuse, with a status of somebody else."""
    name = f"crd/{KINDS[KIND].plural}.tunesmith.dev"
    crd = json.loads(plane.kubectl("get", name, "-o", "json"))
    properties = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    today = properties["spec"]["properties"]["replicas"]["maximum"]
    trial = deployment(namespace, replicas=replicas)

    async def is_taken() -> bool:
        return takes(plane, trial)

    async def is_refused() -> bool:
        return not takes(plane, trial)

    assert today < replicas
    alter(plane, KIND, {"op": "replace", "path": MOST_REPLICAS, "value": replicas})
    try:
        await until(is_taken, what="the laxer CRD")
        await change(kube, namespace, replicas=replicas)
        await patch_status(kube, KIND, namespace, "demo", {"mood": "calm"})
    finally:
        alter(plane, KIND, {"op": "replace", "path": MOST_REPLICAS, "value": today})
    await until(is_refused, what="the CRD of today")


async def test_a_deployment_of_an_older_crd_serves_on_and_says_what_to_change(
    control_plane: ControlPlane, namespace: str, kube: KubeClient, cluster: ServingCluster
) -> None:
    await kube.create(deployment(namespace))
    async with operator(control_plane, namespace):
        before = (await until_stable(kube, namespace, 1))["status"]
    alter(control_plane, KIND, MOOD)
    try:
        await store_under_a_laxer_crd(control_plane, kube, namespace, 5000)
        told = weights(cluster.network)
        async with operator(control_plane, namespace) as running:
            said, why = await until_said(kube, deployment(namespace), "Stalled", ("True", INVALID))
            await passes(running, 3)
            later = await read(kube, namespace)
            await change(kube, namespace, replicas=1)
            after = await until_status(
                kube, namespace, lambda s: condition_of(s, "Stalled")[0] == "False", "a mended spec"
            )
    finally:
        alter(control_plane, KIND, MOOD | {"op": "remove"})
    assert "spec.replicas: Input should be less than or equal to 1000 (it is 5000)." in why
    assert "What serves is left as it is." in why
    status = said["status"]
    for kind, state in (("Ready", "Unknown"), ("Available", "Unknown"), ("Progressing", "False")):
        assert condition_of(status, kind) == (state, INVALID, why)
    assert condition_of(status, "RolledBack") == condition_of(before, "RolledBack")
    changed = {"conditions", "observedGeneration", "phase"}
    kept = {name: value for name, value in status.items() if name not in changed}
    assert kept == {n: v for n, v in before.items() if n not in changed} | {"mood": "calm"}
    assert later["metadata"]["resourceVersion"] == said["metadata"]["resourceVersion"]
    assert weights(cluster.network) == told
    assert cluster.network.lost == 0
    for kind, state in (("Ready", "True"), ("Available", "True"), ("Progressing", "False")):
        assert condition_of(after["status"], kind)[0] == state
        assert condition_of(after["status"], kind)[1] != INVALID
    assert (after["status"]["phase"], after["status"]["mood"]) == ("Stable", "calm")
