"""The notification of a rollback: told once, whatever becomes of it."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from tests.metrics.conftest import DIGEST, NOW, Serve
from tunesmith_api.deploymentstatus import RollbackReason, RollbackStatus
from tunesmith_operator.metrics.notify import notify

ROLLBACK = RollbackStatus(
    from_revision=7,
    to_revision=6,
    digest=DIGEST,
    reason=RollbackReason.ANALYSIS_FAILED,
    metric="latency-p95",
    message="latency-p95 is 2, above 1",
    time=NOW,
    detected_after_seconds=92,
    restored_after_milliseconds=800,
    requests_served_by_rejected=41,
)


@pytest.mark.parametrize(
    ("status", "event"),
    [
        (204, "told of the rollback"),
        (500, "the notification was refused"),
        (302, "the notification was refused"),
    ],
)
async def test_the_rollback_is_told_once(serve: Serve, status: int, event: str) -> None:
    told: list[Any] = []

    async def listen(request: web.Request) -> web.Response:
        told.append((request.method, request.path, await request.json()))
        return web.Response(status=status, headers={"Location": "/elsewhere"})

    with capture_logs() as logs:
        await notify(await serve(listen) + "/hook", ROLLBACK, "prod", "chat")
    (call,) = told
    assert call[:2] == ("POST", "/hook")
    assert call[2] == {
        "namespace": "prod",
        "name": "chat",
        "fromRevision": 7,
        "toRevision": 6,
        "digest": DIGEST,
        "reason": "AnalysisFailed",
        "metric": "latency-p95",
        "message": "latency-p95 is 2, above 1",
        "time": "2026-01-02T03:04:05Z",
        "detectedAfterSeconds": 92,
        "restoredAfterMilliseconds": 800,
        "requestsServedByRejected": 41,
        "stableCrashLoops": False,
    }
    (line,) = logs
    assert (line["event"], line["namespace"], line["name"]) == (event, "prod", "chat")


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/", "http://169.254.169.254/", "http://["])
async def test_nobody_there_is_no_trouble(url: str) -> None:
    with capture_logs() as logs:
        await notify(url, ROLLBACK, "prod", "chat")
    assert [line["event"] for line in logs] == ["nobody was told of the rollback"]
