"""Kubernetes JSON to frozen extracts."""

from datetime import UTC, datetime

import pytest

from tests.unit.bodies import job, pod
from tunesmith_operator.kube.parse import newest_message, newest_warning, parse_job, parse_pod


def ended(**more) -> dict:
    return {"containerStatuses": [{"state": {"terminated": more}}]}


def test_a_job() -> None:
    conditions = [
        {
            "type": "Failed",
            "status": "True",
            "reason": "DeadlineExceeded",
            "lastTransitionTime": "2026-01-02T04:00:00Z",
        },
        {"type": "Complete", "status": "False"},
    ]
    seen = parse_job(job(status={"conditions": conditions}, spec={"suspend": True}))
    assert seen is not None
    assert (seen.stage, seen.attempt, seen.owner_uid) == ("train", 1, "u-a")
    assert (seen.is_failed, seen.is_complete, seen.is_suspended) == (True, False, True)
    assert seen.failure_reason == "DeadlineExceeded"
    assert seen.finished == datetime(2026, 1, 2, 4, tzinfo=UTC)
    assert (seen.started, seen.parallelism) == (None, 1)


def test_a_job_whose_pods_are_being_made() -> None:
    began = {"startTime": "2026-01-02T03:05:00Z"}
    seen = parse_job(job(status=began, spec={"parallelism": 3}))
    assert seen is not None
    assert seen.started == datetime(2026, 1, 2, 3, 5, tzinfo=UTC)
    assert seen.parallelism == 3


@pytest.mark.parametrize(
    ("events", "message"),
    [
        pytest.param([], "", id="none"),
        pytest.param(
            [
                {"metadata": {}, "lastTimestamp": "2026-01-02T03:05:00Z", "message": "older"},
                {
                    "metadata": {},
                    "lastTimestamp": None,
                    "eventTime": "2026-01-02T03:05:00.500000Z",
                    "message": "newer",
                },
                {"metadata": {"creationTimestamp": "2026-01-02T03:04:00Z"}, "message": "oldest"},
            ],
            "newer",
            id="of both kinds",
        ),
    ],
)
def test_the_newest_of_some_events(events, message) -> None:
    assert newest_message(events) == message


@pytest.mark.parametrize(("kind", "warning"), [("Warning", "newer"), ("Normal", "")])
def test_a_warning_is_over_once_something_else_has_happened(kind: str, warning: str) -> None:
    older = {"metadata": {}, "lastTimestamp": "2026-01-02T03:05:00Z", "message": "older"}
    newer = {"metadata": {}, "lastTimestamp": "2026-01-02T03:06:00Z", "message": "newer"}
    assert newest_warning([newer | {"type": kind}, older | {"type": "Warning"}]) == warning
    assert newest_warning([]) == ""


@pytest.mark.parametrize(
    "labels",
    [
        pytest.param({}, id="no labels"),
        pytest.param({"tunesmith.dev/stage": "dance", "tunesmith.dev/attempt": "1"}, id="stage"),
        pytest.param({"tunesmith.dev/stage": "train", "tunesmith.dev/attempt": "x"}, id="attempt"),
        pytest.param(
            {"tunesmith.dev/stage": "train", "tunesmith.dev/attempt": "9" * 63}, id="huge"
        ),
    ],
)
def test_a_job_that_is_no_attempt(labels) -> None:
    assert parse_job(job(meta={"labels": labels})) is None


@pytest.mark.parametrize(
    ("status", "facts"),
    [
        pytest.param({}, {"phase": "Pending", "exit_code": None}, id="just made"),
        pytest.param(
            {
                "conditions": [
                    {
                        "type": "PodScheduled",
                        "status": "False",
                        "reason": "Unschedulable",
                        "message": "0/1 nodes",
                    }
                ]
            },
            {"unschedulable": "0/1 nodes"},
            id="no node",
        ),
        pytest.param(
            {
                "conditions": [
                    {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}
                ]
            },
            {"unschedulable": ""},
            id="held back by a gate is not without a node",
        ),
        pytest.param(
            {
                "containerStatuses": [
                    {"state": {"waiting": {"reason": "ErrImagePull", "message": "not found"}}}
                ]
            },
            {"waiting_reason": "ErrImagePull", "waiting_message": "not found"},
            id="no image",
        ),
        pytest.param(
            ended(exitCode=137, reason="OOMKilled", message="{}", startedAt="2026-01-02T03:05:00Z"),
            {"exit_code": 137, "exit_reason": "OOMKilled", "termination_message": "{}"},
            id="out of memory",
        ),
        pytest.param(
            {
                "initContainerStatuses": [{"state": {"terminated": {"exitCode": 3}}}],
                "containerStatuses": [{"state": {"waiting": {"reason": "PodInitializing"}}}],
            },
            {"exit_code": 3, "waiting_reason": ""},
            id="the init container failed",
        ),
        pytest.param(
            {
                "initContainerStatuses": [{"state": {"terminated": {"exitCode": 0}}}],
                "containerStatuses": [
                    {"state": {"running": {"startedAt": "2026-01-02T03:05:00Z"}}, "imageID": "i"}
                ],
            },
            {"exit_code": None, "image_id": "i"},
            id="running after its init container",
        ),
        pytest.param(
            {
                "phase": "Failed",
                "reason": "Evicted",
                "conditions": [
                    {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByAPI"}
                ],
            },
            {"phase": "Failed", "status_reason": "Evicted", "disruption": "EvictionByAPI"},
            id="evicted",
        ),
        pytest.param(
            {"conditions": [{"type": "DisruptionTarget", "status": "False", "reason": "x"}]},
            {"disruption": ""},
            id="a disruption that was called off",
        ),
    ],
)
def test_a_pod(status, facts) -> None:
    seen = parse_pod(pod(status=status))
    assert {name: getattr(seen, name) for name in facts} == facts


@pytest.mark.parametrize(
    ("text", "index"),
    [("3", 3), ("", 0), ("x", 0), pytest.param("9" * 5000, 0, id="more than Python parses")],
)
def test_the_index_of_a_pod(text: str, index: int) -> None:
    notes = {"batch.kubernetes.io/job-completion-index": text}
    assert parse_pod(pod(meta={"annotations": notes})).index == index


def test_of_several_containers_the_failed_one_is_told_of() -> None:
    statuses = [
        {"state": {"terminated": {"exitCode": 0}}},
        {"state": {"terminated": {"exitCode": 65}}},
    ]
    assert parse_pod(pod(status={"containerStatuses": statuses})).exit_code == 65


def test_null_lists_as_go_writes_them() -> None:
    seen = parse_pod(pod(status={"conditions": None, "containerStatuses": None}))
    assert seen.exit_code is None
