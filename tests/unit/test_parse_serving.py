"""What is told of a serving pod that does not become ready, and which of its ends are its own."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from tunesmith_operator.kube.parse_serving import parse_serving_pod
from tunesmith_operator.planning.serving import ServingPod
from tunesmith_operator.planning.starting import overdue_pods

WORDS = "CredentialsMissing: Secret later cannot be used"
FAILED = {"terminated": {"exitCode": 5, "message": f"a line\n{WORDS}\n"}}
DONE = {"terminated": {"exitCode": 0, "message": "all is there"}}
BACK_OFF = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 20s restarting"}}
PULLING = {"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}


def waiting(*containers: dict[str, Any]) -> str:
    named = [{"name": f"c{number}", **container} for number, container in enumerate(containers)]
    body = {
        "metadata": {"name": "p", "uid": "u"},
        "status": {"initContainerStatuses": named[:1], "containerStatuses": named[1:]},
    }
    return parse_serving_pod(body).waiting


@pytest.mark.parametrize(
    ("containers", "expected"),
    [
        pytest.param(
            [{"state": BACK_OFF, "lastState": FAILED}],
            f"container c0 failed: {WORDS}",
            id="its last words while it waits to be started again",
        ),
        pytest.param([{"state": FAILED}], f"container c0 failed: {WORDS}", id="it failed just now"),
        pytest.param(
            [{"state": BACK_OFF}], "CrashLoopBackOff: back-off 20s restarting", id="no words"
        ),
        pytest.param(
            [{"state": DONE}, {"state": PULLING, "lastState": FAILED}],
            "ImagePullBackOff: not found",
            id="what is waited for now, not what happened before",
        ),
        pytest.param([{"state": {"running": {}}, "lastState": FAILED}], "", id="it runs again"),
        pytest.param([{"state": DONE}, {"state": {"running": {}}}], "", id="nothing is wrong"),
    ],
)
def test_a_pod_that_does_not_start_says_why(
    containers: list[dict[str, Any]], expected: str
) -> None:
    assert waiting(*containers) == expected


CREATING = {"waiting": {"reason": "ContainerCreating"}}
INITIALIZING = {"waiting": {"reason": "PodInitializing"}}
PLACED: dict[str, Any] = {
    "metadata": {"name": "p", "uid": "u", "creationTimestamp": "2026-01-01T10:00:00Z"},
    "spec": {"nodeName": "node-1"},
    "status": {"phase": "Pending"},
}


@pytest.mark.parametrize(
    ("change", "is_starting"),
    [
        pytest.param({}, True, id="its node has said nothing"),
        pytest.param({"containerStatuses": [{"state": CREATING}]}, True, id="being made"),
        pytest.param(
            {
                "initContainerStatuses": [{"state": INITIALIZING}],
                "containerStatuses": [{"state": INITIALIZING}],
            },
            True,
            id="nothing has begun",
        ),
        pytest.param(
            {
                "initContainerStatuses": [{"state": {"running": {}}}],
                "containerStatuses": [{"state": INITIALIZING}],
            },
            False,
            id="the model is being fetched",
        ),
        pytest.param({"containerStatuses": [{"state": PULLING}]}, False, id="the status says why"),
        pytest.param({"phase": "Running"}, False, id="it runs"),
    ],
)
def test_a_pod_is_starting_until_its_node_has_begun_a_container(
    change: dict[str, Any], is_starting: bool
) -> None:
    made = datetime.fromisoformat(PLACED["metadata"]["creationTimestamp"])
    seen = parse_serving_pod(PLACED | {"status": PLACED["status"] | change})
    assert seen.starting == (made if is_starting else None)
    nowhere = parse_serving_pod(PLACED | {"spec": {}, "status": PLACED["status"] | change})
    assert nowhere.starting is None


def ended(finished: str, **more: Any) -> dict[str, Any]:
    return {"terminated": {"exitCode": 255, "reason": "Unknown", "finishedAt": finished, **more}}


UP: dict[str, Any] = {"running": {"startedAt": "2026-01-01T10:05:00Z"}}
BOOT, SOON, LATER = "2026-01-01T10:00:00Z", "2026-01-01T10:00:31Z", "2026-01-01T12:00:00Z"
REBOOTED = {"state": UP, "lastState": ended(BOOT), "restartCount": 1}
NEVER = {"state": UP, "restartCount": 0}


@pytest.mark.parametrize(
    ("engine", "sidecar", "restarts", "last"),
    [
        pytest.param(NEVER, NEVER, 0, None, id="nothing ended"),
        pytest.param(REBOOTED, NEVER, 1, BOOT, id="the engine ended alone"),
        pytest.param(NEVER, REBOOTED, 1, BOOT, id="the sidecar ended alone"),
        pytest.param(REBOOTED, REBOOTED, 0, None, id="the node was booted"),
        pytest.param(
            REBOOTED,
            {"state": UP, "lastState": ended(SOON, exitCode=0), "restartCount": 1},
            0,
            None,
            id="the node was shut down, and the sidecar finished its requests",
        ),
        pytest.param(
            REBOOTED,
            {"state": ended(BOOT), "restartCount": 0},
            0,
            None,
            id="the node was booted, and only the engine is back yet",
        ),
        pytest.param(
            {"state": ended(BOOT), "restartCount": 0},
            {"state": ended(BOOT), "restartCount": 0},
            0,
            None,
            id="the node was booted, and nothing is back yet",
        ),
        pytest.param(
            {"state": UP, "lastState": ended(LATER), "restartCount": 3},
            REBOOTED,
            2,
            LATER,
            id="the node was booted, then the engine ended twice",
        ),
        pytest.param(
            {"state": UP, "lastState": ended(BOOT), "restartCount": 3},
            REBOOTED,
            2,
            None,
            id="the engine ended twice before the node was booted, nobody knows when",
        ),
        pytest.param(
            {"state": BACK_OFF, "lastState": ended(LATER), "restartCount": 2},
            {"state": BACK_OFF, "lastState": ended(BOOT), "restartCount": 0},
            1,
            LATER,
            id="both wait to be started again",
        ),
    ],
)
def test_what_all_containers_of_a_pod_go_through_together_is_not_the_models_doing(
    engine: dict[str, Any], sidecar: dict[str, Any], restarts: int, last: str | None
) -> None:
    statuses = [{"name": "engine", **engine}, {"name": "sidecar", **sidecar}]
    meta = {"name": "p", "uid": "u"}
    pod = parse_serving_pod({"metadata": meta, "status": {"containerStatuses": statuses}})
    assert pod.restarts == restarts
    assert pod.last_restart == (datetime.fromisoformat(last) if last else None)


def test_a_pod_of_one_container_has_no_others_to_end_with() -> None:
    meta = {"name": "p", "uid": "u"}
    pod = parse_serving_pod({"metadata": meta, "status": {"containerStatuses": [REBOOTED]}})
    assert (pod.restarts, pod.last_restart) == (1, datetime.fromisoformat(BOOT))


def test_events_are_asked_for_of_one_pod_of_each_revision_and_host_that_is_overdue() -> None:
    made = datetime.fromisoformat(PLACED["metadata"]["creationTimestamp"])
    young = made + timedelta(seconds=20)
    pods = [
        ServingPod("router", "r", 0, starting=made),
        ServingPod("going", "g", 1, starting=made, is_terminating=True),
        ServingPod("young", "y", 1, starting=young),
        ServingPod("first", "f", 1, starting=made),
        ServingPod("second", "s", 1, starting=made),
        ServingPod("shared", "h", 0, host="host", starting=made),
        ServingPod("runs", "u", 2),
    ]
    asked = overdue_pods(pods, made + timedelta(seconds=31))
    assert [pod.name for pod in asked] == ["first", "shared"]
