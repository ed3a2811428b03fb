"""Pods that are silent, slow, or say what makes no sense are not trusted, and hold nothing up."""

from __future__ import annotations

import asyncio
import time

import pytest
from aiohttp import web

from tests.metrics.conftest import (
    CANARY,
    NOW,
    STABLE,
    Begin,
    Serve,
    analysis,
    answer,
    measured,
    pod,
    take,
)
from tests.metrics.test_counting import COMPARED, ERRORS
from tunesmith_operator.metrics import exposed, scraping
from tunesmith_operator.metrics.sampling import Sampler
from tunesmith_operator.planning.serving import MetricSample
from tunesmith_sidecar.metrics import Metrics


async def test_some_pods_are_silent_or_all(begin: Begin, sampler: Sampler) -> None:
    serving = await begin()
    answer(serving, good=10)
    silent = pod("http://127.0.0.1:9", "silent")
    assert (await take(sampler, analysis(), measured(silent, pod(serving.url)))).requests == 10
    sample = await take(sampler, analysis(), measured(silent))
    assert sample.error.startswith("no pod of the canary answered: cannot connect")
    assert (await take(sampler, analysis(), measured())).error.endswith("there is none")


async def test_stables_silence_says_nothing_of_the_canary(begin: Begin, sampler: Sampler) -> None:
    serving = await begin()
    answer(serving, good=1, bad=1)
    stable = measured(pod("http://127.0.0.1:9", "silent"), name=STABLE)
    sample = await take(
        sampler, analysis({**ERRORS, **COMPARED}), measured(pod(serving.url)), stable
    )
    assert sample == MetricSample("m0", "0.5", "", 2, 0)


async def test_an_address_with_a_new_owner_is_not_the_canary(
    begin: Begin, sampler: Sampler
) -> None:
    other = await begin(STABLE)
    answer(other, good=100)
    sample = await take(sampler, analysis(), measured(pod(other.url)))
    assert sample.error.endswith("it has no metrics of this revision")


def _page(line: str) -> str:
    metrics = Metrics(CANARY)
    return metrics.render().decode() + line


async def nonsense(_: web.Request) -> web.Response:
    return web.Response(text="tunesmith_serving_requests_total{ <html>")


async def missing(_: web.Request) -> web.Response:
    return web.Response(status=404)


async def moved(_: web.Request) -> web.Response:
    raise web.HTTPFound("/elsewhere")


async def huge(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    for _ in range(64):
        await response.write(b"# " * (1 << 16))
    return response


async def slow(_: web.Request) -> web.Response:
    await asyncio.sleep(60)
    return web.Response()


async def not_a_number(_: web.Request) -> web.Response:
    return web.Response(
        text=_page(f'{exposed.ERRORS}{{revision="{CANARY}",reason="timeout"}} NaN\n')
    )


async def endless_series(_: web.Request) -> web.Response:
    line = f'{exposed.FIRST_TOKEN}_bucket{{revision="{CANARY}",le="%d"}} 1'
    return web.Response(text=_page("\n".join(line % n for n in range(5000)) + "\n"))


@pytest.mark.parametrize(
    ("handler", "error"),
    [
        pytest.param(nonsense, "cannot be read", id="nonsense"),
        pytest.param(missing, "HTTP 404", id="no such page"),
        pytest.param(moved, "HTTP 302", id="a redirect is not followed"),
        pytest.param(huge, "larger than", id="an endless page"),
        pytest.param(slow, "no answer within", id="no answer"),
        pytest.param(not_a_number, "make no sense", id="NaN"),
        pytest.param(endless_series, "make no sense", id="series without end"),
    ],
)
async def test_a_pod_is_not_trusted(
    serve: Serve, sampler: Sampler, monkeypatch: pytest.MonkeyPatch, handler: object, error: str
) -> None:
    if handler is slow:
        monkeypatch.setattr(scraping, "_SECONDS", 0.3)
    url = await serve(handler)  # type: ignore[arg-type]
    sample = await take(sampler, analysis(), measured(pod(url)))
    assert error in sample.error
    assert not sample.value


async def test_many_metrics_ask_each_pod_once_and_many_slow_pods_cost_one_timeout(
    serve: Serve, sampler: Sampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scraping, "_SECONDS", 0.5)
    asked: list[str] = []

    async def hang(request: web.Request) -> web.Response:
        asked.append(request.path)
        return await slow(request)

    url = await serve(hang)
    pods = [pod(url, str(number)) for number in range(40)]
    kinds = ("ErrorRate", "LatencyP50", "LatencyP95", "LatencyP99")
    wanted = analysis(*({"builtin": kinds[n % 4]} for n in range(16)))
    started = time.monotonic()
    sampling = await sampler.take(
        wanted, measured(*pods[:20]), measured(*pods[20:], name=STABLE), {}, NOW
    )
    # One after the other that would be 20 s.
    assert time.monotonic() - started < 10
    assert len(asked) == 40
    assert all("no answer within" in sample.error for sample in sampling.samples)
    assert len(sampling.samples) == 16
