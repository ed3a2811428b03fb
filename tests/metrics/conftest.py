"""Real sidecars to be measured, and servers that answer as a test wants."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp import web
from yarl import URL

from tests.sidecar.conftest import ANALYSIS, TOKEN, Serving, Start, listening, start  # noqa: F401
from tests.sidecar.standin import Standin
from tunesmith_api.analysis import Analysis
from tunesmith_operator.metrics.sampling import Measured, Sampler
from tunesmith_operator.metrics.scraping import MeasuredPod
from tunesmith_operator.planning.serving import MetricSample
from tunesmith_sidecar.metrics import Failure, Route

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
CANARY, STABLE = "chat-aaaaaaaaaa", "chat-bbbbbbbbbb"
DIGEST = "sha256:" + "a" * 64


@dataclass
class Scholar(Standin):
    """An engine that knows some answers; to all else it says nothing of use."""

    answers: dict[str, str] = field(default_factory=dict)
    status: int = 200
    busy_next: int = 0
    """Requests to refuse with 429 first."""

    async def _answer(self, request: web.Request, asked: dict[str, Any]) -> web.StreamResponse:
        if self.busy_next:
            self.busy_next -= 1
            return web.json_response({"error": {"message": "busy"}}, status=429)
        if self.status != 200:
            return web.json_response({"error": {"message": "no"}}, status=self.status)
        said = self.answers.get(asked["messages"][-1]["content"])
        if said is None:
            return await super()._answer(request, asked)
        choice = {"index": 0, "message": {"role": "assistant", "content": said}}
        return web.json_response({"id": "1", "model": "tiny", "choices": [choice]})


@pytest.fixture
def engine() -> Scholar:
    return Scholar()


@pytest.fixture
async def sampler() -> AsyncIterator[Sampler]:
    made = Sampler()
    yield made
    await made.close()


Serve = Callable[[Callable[[web.Request], Awaitable[web.StreamResponse]]], Awaitable[str]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Answer whatever path is asked for; gives the URL."""
    async with AsyncExitStack() as stack:

        async def begin(handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> str:
            app = web.Application(client_max_size=1 << 24)
            app.router.add_route("*", "/{path:.*}", handler)
            return await stack.enter_async_context(listening(app, shutdown_timeout=0.1))

        yield begin


def pod(url: str, uid: str = "pod-1") -> MeasuredPod:
    """Give the pod that a URL stands for."""
    address = URL(url)
    assert address.host
    assert address.port
    return MeasuredPod(uid, address.host, address.port)


def measured(*pods: MeasuredPod, name: str = CANARY, restarts: int = 0, **more: Any) -> Measured:
    return Measured("default", name, DIGEST, pods, restarts, **{"token": TOKEN, **more})


def analysis(*metrics: dict[str, Any], **more: Any) -> Analysis:
    """Give an analysis as a user would write it; without metrics that of the error rate."""
    given: dict[str, Any] = {"minRequests": 1, **more}
    if metrics:
        given["metrics"] = [{"name": f"m{n}", "max": "1"} | m for n, m in enumerate(metrics)]
    return Analysis.model_validate(given)


async def take(
    sampler: Sampler,
    wanted: Analysis,
    canary: Measured,
    stable: Measured | None = None,
    **prompts: Any,
) -> MetricSample:
    """Take a sample of which the first metric is of interest."""
    sampling = await sampler.take(wanted, canary, stable, prompts, NOW)
    assert (sampling.digest, sampling.taken) == (DIGEST, NOW)
    assert [s.name for s in sampling.samples] == [m.name for m in wanted.metrics]
    return sampling.samples[0]


def answer(
    serving: Serving,
    good: int = 0,
    bad: int = 0,
    seconds: float = 0.2,
    as_: Failure = Failure.ENGINE_ERROR,
) -> None:
    """Let the sidecar count requests."""
    for number in range(good + bad):
        if number < bad:
            serving.metrics.failed(as_)
        serving.metrics.answered(Route.CHAT, 500 if number < bad else 200, seconds)


Begin = Callable[..., Awaitable[Serving]]


@pytest.fixture
def begin(start: Start) -> Begin:  # noqa: F811
    """Start a sidecar of the canary, or of the revision that is named."""

    async def started(revision: str = CANARY, **settings: Any) -> Serving:
        return await start(revision=revision, **ANALYSIS, **settings)

    return started
