"""What is told of a serving pod that does not become ready, and which of its ends are its own."""

from datetime import datetime
from typing import Any

import pytest

from tunesmith_operator.kube.parse_serving import parse_serving_pod

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
