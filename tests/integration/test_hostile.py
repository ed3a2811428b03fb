"""Hostile objects (F9): refused, or named in a condition, and the operator works on for others.

Against the real API server. What its schema refuses never reaches the operator; the rest here is
what a user with rights in one namespace can still write: forged children, huge metadata.
"""

import re
from typing import Any

import pytest

from deploy.native.apiserver import ControlPlane
from deploy.shell import StepError
from tests.integration.operators import (
    client_of,
    condition,
    fake_cluster,
    job,
    make_namespace,
    operator,
    until_ended,
)
from tests.integration.rollouts import (
    ROLLOUT,
    change,
    deployment,
    source,
    until_stable,
)
from tests.integration.serving import serving_cluster
from tunesmith_api.labels import LABEL_DEPLOYMENT_UID, LABEL_JOB_UID, LABEL_MANAGED_BY, MANAGED_BY
from tunesmith_operator import telemetry
from tunesmith_operator.kube.errors import Refused
from tunesmith_operator.kube.kinds import Object
from tunesmith_operator.kube.parse import INDEX_ANNOTATION

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

_FAILED = re.compile(
    r'^tunesmith_(?:reconciles_total\{kind="\w+",result="error"|handler_errors_total\{.*)\} (\S+)$',
    re.M,
)


def errors() -> float:
    """Give how many passes and events have failed in this process."""
    return sum(float(n) for n in _FAILED.findall(telemetry.render().decode()))


def namesake(kind: str, namespace: str, labels: dict[str, str], **more: Any) -> Object:
    """Give an object that claims to be ours."""
    meta = {"namespace": namespace, "name": "forged", "labels": labels}
    versions = {"Job": "batch/v1", "Deployment": "apps/v1"}
    return {"apiVersion": versions.get(kind, "v1"), "kind": kind, "metadata": meta, **more}


def pod_spec() -> Object:
    return {"containers": [{"name": "x", "image": "x:1"}], "restartPolicy": "Never"}


@pytest.mark.parametrize(
    ("section", "value"),
    [
        pytest.param("model", {"uri": "s3://bucket/../../etc/"}, id="a way out of the prefix"),
        pytest.param("model", {"uri": "file:///etc/passwd"}, id="a file of the pod"),
        pytest.param("output", {"uri": "s3://bucket/" + "x" * 5000 + "/"}, id="a huge address"),
        pytest.param("dataset", {"train": {"uri": ["s3://b/c"]}}, id="a list for a text"),
        pytest.param("compute", {"nodes": 10**9}, id="a billion nodes"),
    ],
)
async def test_a_hostile_spec_is_refused(
    control_plane: ControlPlane, section: str, value: Object
) -> None:
    namespace = make_namespace(control_plane)
    async with client_of(control_plane) as kube:
        with pytest.raises(Refused, match=f"spec.{section}"):
            await kube.create(job(namespace, **{section: value}))


async def test_forged_children_are_left_alone_and_hold_up_nobody(
    control_plane: ControlPlane,
) -> None:
    namespace = make_namespace(control_plane)
    before = errors()
    async with client_of(control_plane) as kube, fake_cluster(kube, namespace):
        made = await kube.create(job(namespace))
        labels = {
            LABEL_JOB_UID: made["metadata"]["uid"],
            LABEL_MANAGED_BY: MANAGED_BY,
            "tunesmith.dev/stage": "train",
            "tunesmith.dev/attempt": "99",
        }
        template = {"metadata": {"labels": labels}, "spec": pod_spec()}
        await kube.create(
            namesake("Job", namespace, labels, spec={"suspend": True, "template": template})
        )
        # No Job has made it, so it is no pod of an earlier attempt that has to be waited for.
        forged = namesake("Pod", namespace, labels, spec=pod_spec())
        forged["metadata"]["annotations"] = {INDEX_ANNOTATION: "9" * 5000}
        await kube.create(forged)
        async with operator(control_plane, namespace):
            body = await until_ended(kube, namespace)
            left = await kube.get("Job", namespace, "forged")
    assert condition(body, "Complete") == "True"
    assert [a["number"] for a in body["status"]["attempts"]] == [1, 2]
    assert left is not None, "it is not ours to delete"
    assert errors() == before


async def test_forged_revisions_and_metadata_as_large_as_can_be_stop_no_roll_out(
    control_plane: ControlPlane,
) -> None:
    namespace = make_namespace(control_plane)
    before = errors()
    async with client_of(control_plane) as kube, serving_cluster(kube, namespace) as cluster:
        wanted = deployment(namespace)
        wanted["metadata"]["annotations"] = {"example.org/huge": "x" * 250_000}
        made = await kube.create(wanted)
        labels = {
            LABEL_DEPLOYMENT_UID: made["metadata"]["uid"],
            "tunesmith.dev/revision": "seven",
        }
        await kube.create(namesake("ConfigMap", namespace, labels, data={"template": "{[" * 9000}))
        ports = [{"port": 80}]
        await kube.create(namesake("Service", namespace, labels, spec={"ports": ports}))
        async with operator(control_plane, namespace):
            await until_stable(kube, namespace, 1)
            await change(kube, namespace, source=source("b"))
            await until_stable(kube, namespace, 2)
        assert await kube.get("ConfigMap", namespace, "forged") is not None
    assert cluster.network.lost == 0
    assert errors() == before


async def test_a_metadata_service_is_no_provider(control_plane: ControlPlane) -> None:
    namespace = make_namespace(control_plane)
    url = "http://169.254.169.254/latest/meta-data/"
    provider = {"type": "Webhook", "webhook": {"url": url}}
    analysis = {**ROLLOUT["analysis"], "provider": provider}
    async with client_of(control_plane) as kube:
        with pytest.raises(Refused, match="must not point at a cloud's metadata service"):
            await kube.create(deployment(namespace, rollout={**ROLLOUT, "analysis": analysis}))


def test_more_than_a_document_may_hold_is_refused(control_plane: ControlPlane) -> None:
    namespace = make_namespace(control_plane)
    prompts = ",".join(f'"{"x" * 1000}"' for _ in range(3000))
    body = (
        '{"apiVersion":"tunesmith.dev/v1alpha1","kind":"FineTuneJob","metadata":{"name":"huge"},'
        '"spec":{"model":{"uri":"builtin://tiny"},"dataset":{"train":{"uri":"s3://bucket/d.jsonl"},'
        f'"synthetic":{{"generator":{{"uri":"builtin://tiny"}},"prompts":[{prompts}]}}}},'
        '"output":{"uri":"s3://bucket/m/"}}}'
    )
    path = control_plane.directory / "huge.json"
    path.write_text(body)
    with pytest.raises(StepError):
        control_plane.kubectl("create", "-n", namespace, "-f", str(path))
