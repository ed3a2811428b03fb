"""Children that the cluster does not take: what passes is tried again, what cannot pass ends."""

import json
import time
from collections.abc import Iterator
from datetime import timedelta

import pytest

from deploy.native.apiserver import ControlPlane
from deploy.shell import StepError
from tests.integration.conftest import CRDS
from tests.integration.kubelet import event_on
from tests.integration.operators import (
    Recorder,
    client_of,
    condition,
    fake_cluster,
    job,
    make_namespace,
    operator,
    until,
    until_ended,
)
from tests.integration.rollouts import until_events
from tunesmith_operator.kube.client import KubeClient
from tunesmith_operator.kube.kinds import Object
from tunesmith_operator.planning import monitoring, starting
from tunesmith_operator.reconcile import finetunejob

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


def said(body: Object | None, kind: str) -> tuple[str, str, str]:
    conditions = ((body or {}).get("status") or {}).get("conditions") or ()
    texts = [(c["status"], c["reason"], c["message"]) for c in conditions if c["type"] == kind]
    return texts[0] if texts else ("", "", "")


async def until_said(kube: KubeClient, namespace: str, kind: str, reason: str, words: str) -> str:
    async def look() -> str:
        _, why, message = said(await kube.get("FineTuneJob", namespace, "demo"), kind)
        return message if why == reason and words in message else ""

    found: str = await until(look, what=f"{kind} with {reason}")
    return found


async def test_a_job_that_the_api_server_calls_invalid_ends_with_its_words(
    control_plane: ControlPlane, namespace: str, kube: KubeClient
) -> None:
    resources = {"limits": {"no name/fpga": "1"}}
    async with fake_cluster(kube, namespace), operator(control_plane, namespace):
        await kube.create(job(namespace, compute={"gpusPerNode": 0, "resources": resources}))
        ended = await until_ended(kube, namespace)
    status, reason, message = said(ended, "Failed")
    assert (status, reason) == ("True", "InvalidSpec")
    assert 'Invalid value: "no name/fpga"' in message
    assert "Change in a new job what it names" in message
    assert said(ended, "Trained")[:2] == ("False", "InvalidSpec")
    assert said(ended, "DataReady")[0] == "True", "what was done before is not forgotten"
    assert [j["metadata"]["name"] for j in await kube.list("Job", namespace)] == ["demo-prepare-1"]
    (event,) = await until_events(kube, namespace, "Failed")
    assert event["message"] == message


def deny_jobs(plane: ControlPlane, namespace: str) -> list[str]:
    """Make a policy that lets no Job into a namespace; give what to delete again."""
    api = {"apiVersion": "admissionregistration.k8s.io/v1", "metadata": {"name": namespace}}
    rule = {"apiGroups": ["batch"], "apiVersions": ["v1"], "resources": ["jobs"]}
    policy = {
        "kind": "ValidatingAdmissionPolicy",
        "spec": {
            "matchConstraints": {"resourceRules": [{**rule, "operations": ["CREATE"]}]},
            "validations": [{"expression": "false", "message": "no training on Sundays"}],
        },
    }
    only = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
    binding = {
        "kind": "ValidatingAdmissionPolicyBinding",
        "spec": {
            "policyName": namespace,
            "validationActions": ["Deny"],
            "matchResources": {"namespaceSelector": only},
        },
    }
    for body in (policy, binding):
        plane.kubectl("create", "-f", "-", stdin=json.dumps(api | body))
    return [
        f"validatingadmissionpolicy/{namespace}",
        f"validatingadmissionpolicybinding/{namespace}",
    ]


async def test_what_a_policy_refuses_is_tried_again_with_advice(
    control_plane: ControlPlane,
    namespace: str,
    kube: KubeClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(finetunejob, "_BLOCKED_RETRY", timedelta(seconds=1))
    policy = deny_jobs(control_plane, namespace)
    trial = ["create", "job", "trial", "-n", namespace, "--image=i", "--dry-run=server"]

    async def is_in_force() -> bool:
        try:
            control_plane.kubectl(*trial)
        except StepError as error:
            return "no training on Sundays" in str(error)
        return False

    try:
        await until(is_in_force, what="the policy")
        async with fake_cluster(kube, namespace), operator(control_plane, namespace):
            await kube.create(job(namespace))
            message = await until_said(kube, namespace, "Accepted", "ChildRefused", "Sundays")
            assert "Change the quota, the admission policy or the operator's rights" in message
            control_plane.kubectl("delete", *policy)
            ended = await until_ended(kube, namespace)
    finally:
        control_plane.kubectl("delete", "--ignore-not-found", *policy)
    assert condition(ended, "Complete") == "True"
    assert said(ended, "Accepted")[:2] == ("True", "ValidSpec")


async def test_a_name_that_is_taken_is_told_with_advice(
    control_plane: ControlPlane, namespace: str, kube: KubeClient
) -> None:
    control_plane.kubectl("create", "job", "demo-prepare-1", "-n", namespace, "--image=i")
    async with operator(control_plane, namespace):
        await kube.create(job(namespace))
        words = "belongs to somebody else"
        message = await until_said(kube, namespace, "Accepted", "ChildRefused", words)
    assert "Delete or rename that object, or give the FineTuneJob another name" in message


def guard(namespace: str) -> Object:
    """A webhook for Jobs that nobody serves."""
    only = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
    rule = {"apiGroups": ["batch"], "apiVersions": ["v1"], "resources": ["jobs"]}
    hook = {
        "name": "guard.example.org",
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "clientConfig": {"url": "https://127.0.0.1:1/"},
        "namespaceSelector": only,
        "rules": [{**rule, "operations": ["CREATE"]}],
    }
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": namespace},
        "webhooks": [hook],
    }


async def test_a_webhook_that_is_away_is_told_and_waited_for(
    control_plane: ControlPlane, namespace: str, kube: KubeClient
) -> None:
    control_plane.kubectl("create", "-f", "-", stdin=json.dumps(guard(namespace)))
    trial = ["create", "job", "trial", "-n", namespace, "--image=i", "--dry-run=server"]

    async def is_in_force() -> bool:
        try:
            control_plane.kubectl(*trial)
        except StepError as error:
            return "guard.example.org" in str(error)
        return False

    gone = ["delete", "--ignore-not-found", f"validatingwebhookconfiguration/{namespace}"]
    try:
        await until(is_in_force, what="the webhook")
        async with fake_cluster(kube, namespace), operator(control_plane, namespace):
            await kube.create(job(namespace))
            words = 'failed calling webhook "guard.example.org"'
            message = await until_said(kube, namespace, "Accepted", "ChildRefused", words)
            assert "where it does not answer, mend or remove it" in message
            control_plane.kubectl(*gone)
            ended = await until_ended(kube, namespace)
    finally:
        control_plane.kubectl(*gone)
    assert condition(ended, "Complete") == "True"


async def until_still(recorder: Recorder, seconds: float) -> None:
    """Wait until nothing was written for so long: what it wrote itself wakes an operator too."""
    written, since = len(recorder.writes), time.monotonic()

    async def is_still() -> bool:
        nonlocal written, since
        if len(recorder.writes) != written:
            written, since = len(recorder.writes), time.monotonic()
        return time.monotonic() - since >= seconds

    await until(is_still, what=f"no write for {seconds} s")


async def test_a_version_whose_name_another_model_has_is_told_and_not_hammered(
    control_plane: ControlPlane, namespace: str, kube: KubeClient
) -> None:
    artifact = {"format": "Merged", "uri": "s3://bucket/m/", "digest": f"sha256:{'0' * 64}"}
    await kube.create(
        {
            "apiVersion": "tunesmith.dev/v1alpha1",
            "kind": "ModelVersion",
            "metadata": {"namespace": namespace, "name": "demo-v1"},
            "spec": {"model": "other", "version": "9", "artifacts": [artifact | {"sizeBytes": 1}]},
        }
    )
    recorder = Recorder()
    async with fake_cluster(kube, namespace), operator(control_plane, namespace, [recorder]):
        await kube.create(job(namespace))
        words = "exists and is version 9 of model other"
        await until_said(kube, namespace, "Accepted", "ChildRefused", words)
        assert "create ModelVersion" in recorder.writes
        await until_still(recorder, 3)
        control_plane.kubectl("delete", "modelversion", "demo-v1", "-n", namespace)
        ended = await until_ended(kube, namespace)
    assert condition(ended, "Complete") == "True"
    assert await kube.get("ModelVersion", namespace, "demo-v1") is not None


@pytest.fixture(scope="module")
def controlled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane with the real Job controller, which makes pods or says why not."""
    with ControlPlane(tmp_path_factory.mktemp("controlled"), controllers=True) as plane:
        plane.install_crds(CRDS)
        yield plane


async def test_a_pod_that_is_refused_is_told_in_the_api_servers_words(
    controlled: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only an Event of the Job says it."""
    monkeypatch.setattr(monitoring, "_POD_PATIENCE", timedelta(seconds=2))
    namespace = make_namespace(controlled)
    async with client_of(controlled) as kube, operator(controlled, namespace):
        await kube.create(job(namespace, runPolicy={"priorityClassName": "urgent"}))
        words = "no PriorityClass with name urgent was found"
        message = await until_said(kube, namespace, "DataReady", "ContainerNotStarting", words)
        body = await kube.get("FineTuneJob", namespace, "demo")
        await until_events(kube, namespace, "ContainerNotStarting")
    assert "1 of 1 pod(s) of Job demo-prepare-1 cannot be made" in message
    assert body is not None
    assert body["status"]["stage"] == "Pending"


async def until_pod(kube: KubeClient, namespace: str) -> Object:
    async def look() -> Object | None:
        return next(iter(await kube.list("Pod", namespace)), None)

    found: Object = await until(look, what="a pod")
    return found


def give_to_a_node(plane: ControlPlane, pod: Object) -> None:
    """Bind a pod to a node whose kubelet gets no further, as one without the volume's driver."""
    where = f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"
    node = {"apiVersion": "v1", "kind": "Node", "name": "node-1"}
    binding = {"apiVersion": "v1", "kind": "Binding", "target": node}
    text = json.dumps(binding | {"metadata": {"name": pod["metadata"]["name"]}})
    plane.kubectl("create", "--raw", f"{where}/binding", "-f", "-", stdin=text)


async def test_a_pod_that_its_node_does_not_start_is_told_in_the_kubelets_words(
    controlled: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only an Event of the pod says it; where the newest is no warning, it is on its way."""
    monkeypatch.setattr(starting, "NODE_PATIENCE", timedelta(seconds=2))
    namespace = make_namespace(controlled)
    async with client_of(controlled) as kube, operator(controlled, namespace):
        await kube.create(job(namespace))
        pod = await until_pod(kube, namespace)
        give_to_a_node(controlled, pod)
        words = 'MountVolume.SetUp failed for volume "work": driver not found'
        warning = event_on(pod, "Warning", "FailedMount", words)
        await kube.create(warning)
        told = f"Pod {pod['metadata']['name']} does not start: {words}"
        await until_said(kube, namespace, "DataReady", "ContainerNotStarting", told)
        await kube.create(event_on(pod, "Normal", "Pulling", "Pulling image", later=5))
        await until_said(kube, namespace, "DataReady", "Starting", "Attempt 1 is starting")
