"""What a ModelDeployment's children meet in a cluster: others' objects, quotas, broken webhooks."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from deploy.native.apiserver import ControlPlane, free_ports
from deploy.shell import StepError
from tests.integration.kubelet import event_on
from tests.integration.operators import (
    operator,
    until,
)
from tests.integration.rollouts import (
    ROLLOUT,
    change,
    condition_of,
    deployment,
    passes,
    read,
    source,
    until_events,
    until_rolled_back,
    until_stable,
    until_status,
)
from tests.integration.serving import Behaviour, ServingCluster
from tunesmith_api.modeldeployment import ModelDeployment
from tunesmith_api.revision import RevisionTemplate
from tunesmith_operator.kube.client import KubeClient
from tunesmith_operator.kube.kinds import KINDS, Object
from tunesmith_operator.planning import starting, waking
from tunesmith_operator.planning.revisions import revision_digest, revision_name
from tunesmith_operator.planning.sources import resolve
from tunesmith_operator.reconcile import refusals

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


async def test_somebody_elses_object_with_a_revisions_name_is_left_alone(
    control_plane: ControlPlane,
    namespace: str,
    kube: KubeClient,
    cluster: ServingCluster,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(refusals, "_RETRY", timedelta(seconds=1))
    await kube.create(deployment(namespace))
    async with operator(control_plane, namespace):
        await until_stable(kube, namespace, 1)
        name = name_of(deployment(namespace, source=source("b")))
        foreign = await kube.create(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"namespace": namespace, "name": name},
                "data": {"theirs": "yes"},
            }
        )
        await change(kube, namespace, source=source("b"))
        (event,) = await until_events(kube, namespace, "ChildRefused")
        stalled = await until_status(
            kube,
            namespace,
            lambda s: condition_of(s, "Stalled")[1] == "ChildRefused",
            "the condition",
        )
        assert "Delete or rename that object" in condition_of(stalled["status"], "Stalled")[2]
        assert f"ConfigMap {namespace}/{name}" in event["message"]
        left = await kube.get("ConfigMap", namespace, name)
        assert left == foreign
        uid = foreign["metadata"]["uid"]
        await kube.delete("ConfigMap", namespace, name, uid=uid, propagation="Background")
        await until_stable(kube, namespace, 2)


async def test_a_canary_that_its_node_does_not_start_says_why_in_the_kubelets_words(
    control_plane: ControlPlane,
    namespace: str,
    kube: KubeClient,
    cluster: ServingCluster,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only an Event of the pod says it; the status of the pod is what it is when all is well."""
    monkeypatch.setattr(starting, "NODE_PATIENCE", timedelta(seconds=2))
    monkeypatch.setattr(waking, "_EVENT_LOOK", timedelta(seconds=1))
    cluster.behaviour[namespace, 2].is_stuck = True
    rollout = ROLLOUT | {"readyTimeoutSeconds": 10}
    await kube.create(deployment(namespace, rollout=rollout))
    async with operator(control_plane, namespace):
        await until_stable(kube, namespace, 1)
        await change(kube, namespace, source=source("b"))

        async def stuck() -> Object | None:
            pods = await kube.list("Pod", namespace)
            return next((pod for pod in pods if "nodeName" in pod["spec"]), None)

        pod = await until(stuck, what="the canary's pod")
        words = 'MountVolume.SetUp failed for volume "models": driver not found'
        await kube.create(event_on(pod, "Warning", "FailedMount", words))
        await until_status(
            kube,
            namespace,
            lambda s: words in condition_of(s, "Progressing")[2],
            "the kubelet's words",
        )
        ended = await until_rolled_back(kube, namespace)
    assert ended["status"]["lastRollback"]["reason"] == "ReadyTimeout"
    assert words in ended["status"]["lastRollback"]["message"]


async def test_what_a_quota_refuses_is_a_condition_and_stable_goes_on(
    control_plane: ControlPlane,
    namespace: str,
    kube: KubeClient,
    cluster: ServingCluster,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(refusals, "_RETRY", timedelta(seconds=1))
    await kube.create(deployment(namespace))
    async with operator(control_plane, namespace):
        before = await until_stable(kube, namespace, 1)
        quota = ["quota", "few", "-n", namespace]
        control_plane.kubectl("create", *quota, "--hard=count/deployments.apps=2")
        # Nobody plays its controller.
        used = {key: {"count/deployments.apps": "2"} for key in ("hard", "used")}
        said = ["--subresource=status", "--type=merge", "-p", json.dumps({"status": used})]
        control_plane.kubectl("patch", *quota, *said)
        trial = ["create", "deployment", "trial", "-n", namespace, "--image=i", "--dry-run=server"]

        async def is_in_force() -> bool:
            try:
                control_plane.kubectl(*trial)
            except StepError as error:
                return "exceeded quota" in str(error)
            return False

        await until(is_in_force, what="the quota")
        await change(kube, namespace, source=source("b"))
        refused = await until_status(
            kube,
            namespace,
            lambda s: condition_of(s, "Stalled")[:2] == ("True", "ChildRefused"),
            "the refusal",
        )
    # Nobody knows at first what was refused before; it is not taken back for that.
    async with operator(control_plane, namespace) as running:
        await passes(running, 2)
        again = await read(kube, namespace)
        control_plane.kubectl("delete", *quota)
        after = await until_stable(kube, namespace, 2)
    message = condition_of(refused["status"], "Stalled")[2]
    assert "few" in message
    assert "Change the quota" in message
    assert condition_of(refused["status"], "Ready")[0] == "True"
    assert refused["status"]["stable"]["digest"] == before["status"]["stable"]["digest"]
    stalled = [c for c in again["status"]["conditions"] if c["type"] == "Stalled"]
    assert stalled == [c for c in refused["status"]["conditions"] if c["type"] == "Stalled"]
    assert condition_of(after["status"], "Stalled")[0] == "False"
    assert cluster.network.lost == 0


@asynccontextmanager
async def broken_webhook(
    plane: ControlPlane, kube: KubeClient, namespace: str
) -> AsyncIterator[None]:
    """Have the API server ask a webhook, which nobody answers, about autoscalers."""
    (port,) = free_ports(1)
    rule = {"apiGroups": ["autoscaling"], "apiVersions": ["*"], "operations": ["*"]}
    webhook = {
        "name": "guard.example.com",
        "clientConfig": {"url": f"https://127.0.0.1:{port}/"},
        "rules": [rule | {"resources": ["horizontalpodautoscalers"]}],
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
        "sideEffects": "None",
        "timeoutSeconds": 1,
        "admissionReviewVersions": ["v1"],
    }
    configuration = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": namespace},
        "webhooks": [webhook],
    }
    plane.kubectl("create", "-f", "-", stdin=json.dumps(configuration))
    trial = json.dumps(autoscaler(namespace))

    async def is_in_force() -> bool:
        try:
            plane.kubectl("create", "-f", "-", "--dry-run=server", stdin=trial)
        except StepError as error:
            return "failed calling webhook" in str(error)
        return False

    try:
        await until(is_in_force, what="the webhook")
        yield
    finally:
        plane.kubectl("delete", "validatingwebhookconfiguration", namespace)


async def test_a_webhook_that_fails_is_told_of_and_holds_up_neither_analysis_nor_rollback(
    control_plane: ControlPlane,
    namespace: str,
    kube: KubeClient,
    cluster: ServingCluster,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(refusals, "_RETRY", timedelta(seconds=1))
    cluster.behaviour[namespace, 2] = Behaviour(error_share=0.8)
    await kube.create(deployment(namespace))
    async with operator(control_plane, namespace):
        await until_stable(kube, namespace, 1)
        async with broken_webhook(control_plane, kube, namespace):
            scaling = {"maxReplicas": 3, "targetCpuPercent": 70}
            await change(kube, namespace, source=source("b"), autoscaling=scaling)
            (event,) = await until_events(kube, namespace, "ChildRefused")
            assert "failed calling webhook" in event["message"]
            assert "where it does not answer, mend or remove it" in event["message"]
            back = await until_rolled_back(kube, namespace)
        assert back["status"]["lastRollback"]["reason"] == "AnalysisFailed"

        async def is_made() -> Object | None:
            return await kube.get("HorizontalPodAutoscaler", namespace, "demo")

        await until(is_made, 60, "the autoscaler, once the webhook is gone")
    assert cluster.network.lost == 0


async def test_somebody_elses_autoscaler_stands_in_nobodys_way(
    control_plane: ControlPlane, namespace: str, kube: KubeClient, cluster: ServingCluster
) -> None:
    foreign = await kube.create(autoscaler(namespace))
    scaling = {"maxReplicas": 3, "targetCpuPercent": 70}
    await kube.create(deployment(namespace, autoscaling=scaling))
    async with operator(control_plane, namespace):
        await until_stable(kube, namespace, 1)
        await until_events(kube, namespace, "ChildRefused")
        await change(kube, namespace, source=source("b"))
        await until_stable(kube, namespace, 2)
    assert await kube.get("HorizontalPodAutoscaler", namespace, "demo") == foreign


def name_of(body: Object) -> str:
    """Give the name of the revision that a deployment asks for."""
    wanted = ModelDeployment.model_validate(body)
    template = resolve(wanted.spec, ())
    assert isinstance(template, RevisionTemplate)
    return revision_name(wanted, revision_digest(template))


def autoscaler(namespace: str) -> Object:
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "theirs"}
    return {
        "apiVersion": KINDS["HorizontalPodAutoscaler"].api_version,
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"namespace": namespace, "name": "demo"},
        "spec": {"scaleTargetRef": target, "maxReplicas": 2},
    }
