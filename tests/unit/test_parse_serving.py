"""What is told of a serving pod that does not become ready."""

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
