"""Roll-outs against a real API server, real measuring, and routers that answer over HTTP."""

import time
from dataclasses import replace
from datetime import datetime

import orjson
import pytest

from deploy.native.apiserver import ControlPlane
from tests.integration.operators import Recorder, operator
from tests.integration.rollouts import (
    ANALYSIS,
    BY_HAND,
    ROLLOUT,
    Tells,
    approve,
    change,
    condition_of,
    deployment,
    passes,
    read,
    source,
    until_canary_has,
    until_events,
    until_pods,
    until_quiet,
    until_rolled_back,
    until_stable,
    until_status,
    until_told,
    weights,
)
from tests.integration.serving import Behaviour, ServingCluster
from tunesmith_operator.kube.client import KubeClient
from tunesmith_operator.kube.kinds import KINDS, Object
from tunesmith_operator.kube.transport import Request, Response, Send

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


async def test_a_canary_goes_through_its_steps_and_takes_over(
    control_plane: ControlPlane, namespace: str, kube: KubeClient, cluster: ServingCluster
) -> None:
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


class Acts(Recorder):
    """Notes each write, and which of them rejects a canary first."""

    async def __call__(self, request: Request, send: Send) -> Response:
        rollout = ((request.body or {}).get("status") or {}).get("rollout") or {}
        if "abort" not in rollout or "rejection" in self.writes:
            return await super().__call__(request, send)
        self.writes.append("rejection")
        return await send(request)


async def test_a_bad_canary_goes_at_once_and_is_not_tried_again(
    control_plane: ControlPlane, namespace: str, kube: KubeClient, cluster: ServingCluster
) -> None:
    cluster.behaviour[namespace, 2] = Behaviour(error_share=0.8)
    await kube.create(deployment(namespace))
    acts, recorder = Acts(), Recorder()
    async with operator(control_plane, namespace, [acts, recorder]) as running:
        Tells(running, acts)
        first = await until_stable(kube, namespace, 1)
        await change(kube, namespace, source=source("b"))
        await until_rolled_back(kube, namespace)
        seen = time.time()
        await until_pods(kube, namespace, 1)
        await until_quiet(running, recorder, cluster=cluster)
    back = await read(kube, namespace)
    stable, last = first["status"]["stable"]["name"], back["status"]["lastRollback"]
    assert last["reason"] == "AnalysisFailed"
    assert (last["metric"], last["fromRevision"], last["toRevision"]) == ("error-rate", 2, 1)
    assert last["requestsServedByRejected"] > 0
    decided = datetime.fromisoformat(last["time"]).timestamp()
    told = [p for p in cluster.network.puts if p.time > decided]
    first_told = [min(p.time for p in told if p.pod == pod) for pod in {p.pod for p in told}]
    assert len(first_told) == 2, "each router"
    assert {p.state.split.weight for p in told} == {0}
    # Half a second is a matter of a real cluster (e2e); here nothing may come between the two.
    assert acts.writes[acts.writes.index("rejection") + 1] == "tell Router"
    restored = last["restoredAfterMilliseconds"] / 1000
    # The time of the decision is rounded down to a second.
    assert max(first_told) - decided - 1 <= restored <= seen - decided
    assert weights(cluster.network)[-1] == (stable, "", 0)
    recorder.writes.clear()
    async with operator(control_plane, namespace, [recorder]) as running:
        await until_told(cluster.network, len(cluster.network.puts) + 2)
        await passes(running, 3)
    # A new operator cannot know what its routers' endpoints are; all else is in the status.
    after = await read(kube, namespace)
    assert after["status"] == back["status"]
    assert weights(cluster.network)[-1] == (stable, "", 0)
    assert [w for w in recorder.writes if not w.startswith("apply")] == []


async def test_three_failed_samples_take_less_than_two_intervals(
    control_plane: ControlPlane, namespace: str, kube: KubeClient, cluster: ServingCluster
) -> None:
    """By samples alone. How many seconds that is with an interval of 5 is measured by e2e."""
    patient = {"intervalSeconds": 20, "confirmSeconds": 1, "window": 5, "failureLimit": 3}
    rollout = ROLLOUT | {
        "steps": [{"weight": 25, "holdSeconds": 120}],
        "analysis": ANALYSIS | patient | {"minRequests": 10},
        "failFast": {"consecutiveErrors": 0, "restarts": 0},
    }
    cluster.behaviour[namespace, 2] = Behaviour(error_share=1)
    await kube.create(deployment(namespace, rollout=rollout))
    async with operator(control_plane, namespace):
        await until_stable(kube, namespace, 1)
        await change(kube, namespace, source=source("b"))
        back = await until_rolled_back(kube, namespace)
    last = back["status"]["lastRollback"]
    assert (last["reason"], last["metric"]) == ("AnalysisFailed", "error-rate")
    assert "3 of the last 3 samples failed" in last["message"]
    assert last["detectedAfterSeconds"] < 2 * patient["intervalSeconds"]
    assert last["requestsServedByRejected"] >= 30, "ten for each sample"


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        pytest.param(Behaviour(refusal="ModelRefused: other files"), "ModelRefused", id="refused"),
        pytest.param(Behaviour(is_ready=False, restarts=2), "CrashLooping", id="crash-looping"),
        pytest.param(Behaviour(error_share=1), "ConsecutiveErrors", id="only errors"),
    ],
)
async def test_what_ends_a_canary_without_a_sample(
    control_plane: ControlPlane,
    namespace: str,
    kube: KubeClient,
    cluster: ServingCluster,
    behaviour: Behaviour,
    reason: str,
) -> None:
    # None is ever due.
    analysis = ANALYSIS | {"intervalSeconds": 600, "dataTimeoutSeconds": 900}
    rollout = ROLLOUT | {"analysis": analysis}
    cluster.behaviour[namespace, 2] = behaviour
    await kube.create(deployment(namespace, rollout=rollout))
    async with operator(control_plane, namespace):
        await until_stable(kube, namespace, 1)
        await change(kube, namespace, source=source("b"))
        back = await until_rolled_back(kube, namespace)
    assert back["status"]["lastRollback"]["reason"] == reason
    splits = weights(cluster.network)
    assert splits[-1] == (back["status"]["stable"]["name"], "", 0)
    assert (len(splits) > 1) == bool(behaviour.error_share), "no request to what is not ready"


async def test_a_canary_that_loses_its_pods_begins_again(
    control_plane: ControlPlane, namespace: str, kube: KubeClient, cluster: ServingCluster
) -> None:
    # Pods that are gone answer nothing; how much that is until the routers are told is no matter.
    rollout = BY_HAND | {"failFast": {"consecutiveErrors": 0}}
    await kube.create(deployment(namespace, rollout=rollout))
    async with operator(control_plane, namespace):
        await until_stable(kube, namespace, 1)
        await change(kube, namespace, source=source("b"))
        await until_canary_has(kube, namespace, 50)
        cluster.behaviour[namespace, 2].is_ready = False
        await cluster.lose_pods(namespace, 2)
        begun = await until_status(
            kube, namespace, lambda s: s["rollout"].get("interruptions"), "the new beginning"
        )
        cluster.behaviour[namespace, 2].is_ready = True
        await approve(kube, namespace)
        done = await until_stable(kube, namespace, 2)
    assert begun["status"]["rollout"]["step"] == 0
    assert [w for _, _, w in weights(cluster.network, cluster.routers()[0].name)] == [
        0,
        20,
        50,
        0,
        20,
        50,
        0,
    ]
    assert "lastRollback" not in done["status"]


async def test_a_version_in_the_channel_is_rolled_out_by_itself(
    control_plane: ControlPlane, namespace: str, kube: KubeClient, cluster: ServingCluster
) -> None:
    follows = {"model": "support", "channel": "prod"}
    await kube.create(deployment(namespace, source=follows))
    async with operator(control_plane, namespace):
        await until_status(
            kube,
            namespace,
            lambda s: condition_of(s, "Stalled")[1] == "VersionNotFound",
            "the objection",
        )
        await kube.create(version(namespace, "support-v1", "a", "prod"))
        await until_stable(kube, namespace, 1)
        await kube.create(version(namespace, "support-v2", "b"))
        await kube.create(version(namespace, "support-v3", "c", "prod"))
        done = await until_stable(kube, namespace, 2)
    assert done["status"]["stable"]["version"] == "support-v3"


async def test_a_version_that_cannot_be_read_hides_no_other(
    control_plane: ControlPlane, namespace: str, kube: KubeClient, cluster: ServingCluster
) -> None:
    """As after an upgrade of the CRDs alone: the API server gives what this operator refuses."""

    async def spoil(request: Request, send: Send) -> Response:
        answer = await send(request)
        if request.kind != "ModelVersion" or request.is_write or answer.status != 200:
            return answer
        body = orjson.loads(answer.body)
        for found in body.get("items", [body]):
            if found["metadata"]["name"] == "support-v1":
                found["spec"]["ofTomorrow"] = True
        return replace(answer, body=orjson.dumps(body))

    await kube.create(version(namespace, "support-v1", "a", "prod"))
    await kube.create(deployment(namespace, source={"model": "support", "channel": "prod"}))
    async with operator(control_plane, namespace, [spoil]):
        missed = await until_status(
            kube,
            namespace,
            lambda s: condition_of(s, "Stalled")[1] == "VersionNotFound",
            "the objection",
        )
        await kube.create(version(namespace, "support-v2", "b", "prod"))
        done = await until_stable(kube, namespace, 1)
        events = await until_events(kube, namespace, "Unreadable")
    assert "support-v1: spec.ofTomorrow" in condition_of(missed["status"], "Stalled")[2]
    assert done["status"]["stable"]["version"] == "support-v2"
    assert {e["involvedObject"]["name"] for e in events} == {"support-v1"}


def version(namespace: str, name: str, letter: str, *tags: str) -> Object:
    return {
        "apiVersion": KINDS["ModelVersion"].api_version,
        "kind": "ModelVersion",
        "metadata": {"namespace": namespace, "name": name},
        "spec": {
            "model": "support",
            "version": name.removeprefix("support-"),
            "tags": list(tags),
            "artifacts": [{"format": "GGUF", "sizeBytes": 1, **source(letter)}],
        },
    }
