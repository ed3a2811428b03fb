"""The queries of built-in metrics, before a real Prometheus that scrapes real sidecars."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from deploy.native.apiserver import free_ports
from tests.metrics.conftest import CANARY, NOW, STABLE, Begin, analysis, answer, measured, pod
from tests.sidecar.conftest import Serving
from tunesmith_api.analysis import BuiltinMetric
from tunesmith_api.gates import parse_number
from tunesmith_operator.metrics.prometheus import QUERIES
from tunesmith_operator.metrics.sampling import Sampler
from tunesmith_sidecar.metrics import Failure
from tunesmith_sidecar.usage import Usage

PROGRAM = shutil.which("prometheus")
needs_prometheus = pytest.mark.skipif(PROGRAM is None, reason="no program prometheus on the PATH")
INTERVAL = 60


class Server:
    """A Prometheus that scrapes what a test tells it to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: asyncio.subprocess.Process | None = None
        (port,) = free_ports(1)
        self.address = f"127.0.0.1:{port}"

    async def start(self, *targets: Serving) -> str:
        assert PROGRAM
        found = [serving.url.removeprefix("http://") for serving in targets]
        job = {"job_name": "pods", "static_configs": [{"targets": found}]}
        # JSON is YAML.
        config = {"global": {"scrape_interval": "500ms"}, "scrape_configs": [job]}
        (self.folder / "prometheus.yml").write_text(json.dumps(config))
        self.process = await asyncio.create_subprocess_exec(
            PROGRAM,
            f"--config.file={self.folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={self.folder / 'data'}",
            f"--web.listen-address={self.address}",
            "--log.level=error",
        )
        await self.wait_for(f"count(up == 1) == {len(targets)}")
        return f"http://{self.address}"

    async def wait_for(self, query: str) -> None:
        """Wait until a query has a result."""
        url = f"http://{self.address}/api/v1/query"
        async with aiohttp.ClientSession() as session, asyncio.timeout(200):
            while True:
                try:
                    async with session.get(url, params={"query": query}) as reply:
                        if (await reply.json())["data"]["result"]:
                            return
                except (aiohttp.ClientError, KeyError):
                    pass
                await asyncio.sleep(0.1)

    async def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            await self.process.wait()


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    made = Server(tmp_path)
    yield made
    await made.stop()


def test_every_metric_that_pods_count_has_a_query() -> None:
    assert set(BuiltinMetric) - set(QUERIES) == {BuiltinMetric.RESTARTS}


@needs_prometheus
async def test_prometheus_and_the_pods_say_the_same(
    begin: Begin, sampler: Sampler, server: Server
) -> None:
    new, old = await begin(), await begin(STABLE)
    canary, stable = measured(pod(new.url), restarts=3), measured(pod(old.url), name=STABLE)
    compared = {"comparedWith": "Stable", "maxRegressionPercent": 20}
    metrics = [{"builtin": kind.value, "max": "0.5", **compared} for kind in BuiltinMetric]
    # Before the first request counters stand at zero: increase() needs to see them rise.
    url = await server.start(new, old)
    for serving in (new, old):
        await server.wait_for(f'tunesmith_serving_in_flight{{instance="{serving.url[7:]}"}}')
    await sampler.remember(canary, stable)
    chance = random.Random(7)
    for serving, slowness in ((new, 2.0), (old, 1.0)):
        for number in range(400):
            seconds = chance.lognormvariate(-1.5, 0.5) * slowness
            cause = Failure.ENGINE_UNAVAILABLE if number < 8 else Failure.ENGINE_ERROR
            answer(
                serving, good=int(number >= 20), bad=int(number < 20), seconds=seconds, as_=cause
            )
            serving.metrics.first_token_seconds.observe(seconds / 10)
            serving.metrics.used(Usage(5, 50), seconds)
    count = f'tunesmith_serving_tokens_per_second_count{{revision="{CANARY}"}} == 400'
    await server.wait_for(count)
    await asyncio.sleep(1.2)
    provider = {"type": "Prometheus", "prometheus": {"url": url}}
    asked = analysis(*metrics, provider=provider, intervalSeconds=INTERVAL)
    counted = analysis(*metrics, intervalSeconds=INTERVAL)
    excused, *_ = (await sampler.take(asked, canary, stable, {}, NOW, excuses_ends=True)).samples
    assert _number(excused.value) == pytest.approx(12 / 392, rel=1e-4)
    assert excused.requests == pytest.approx(392, rel=0.6)
    theirs = await sampler.take(asked, canary, stable, {}, NOW)
    ours = await sampler.take(counted, canary, stable, {}, NOW)
    for kind, one, other in zip(BuiltinMetric, theirs.samples, ours.samples, strict=True):
        assert not one.error, one
        # increase() goes on to the ends of its range, so it may count some more; shares stay.
        assert _number(one.value) == pytest.approx(_number(other.value), rel=1e-4), kind
        assert _number(one.stable_value) == pytest.approx(_number(other.stable_value), rel=1e-4)
        if kind is not BuiltinMetric.RESTARTS:
            assert other.requests == 400
            assert one.requests == pytest.approx(400, rel=0.6)
            assert one.stable_requests


@needs_prometheus
async def test_prometheus_own_words_reach_the_user(
    begin: Begin, sampler: Sampler, server: Server
) -> None:
    serving = await begin()
    provider = {"type": "Prometheus", "prometheus": {"url": await server.start(serving)}}
    queries = ["rate(", "up", "up * NaN", "nothing_of_that_name", '"text"', "up[5s]", "count(up)"]
    wanted = analysis(*({"query": query} for query in queries), provider=provider, minRequests=0)
    answered = (await sampler.take(wanted, measured(), None, {}, NOW)).samples
    assert "parse error" in answered[0].error
    assert answered[1].value == "1"
    assert answered[2].value == "NaN"
    assert (answered[3].value, answered[3].error) == ("", "")
    assert answered[4].value == "text"
    assert "a range" in answered[5].error
    assert answered[6].value == "1"
    # Without a request a built-in metric has no number either.
    await server.wait_for("count_over_time(up[1m]) >= 2")
    empty = analysis(
        {"builtin": "ErrorRate"},
        {"builtin": "LatencyP95"},
        provider=provider,
        intervalSeconds=INTERVAL,
    )
    for sample in (await sampler.take(empty, measured(), None, {}, NOW)).samples:
        assert not sample.error
        assert parse_number(sample.value) is None
        assert sample.requests == 0
    # A server that does not scrape the pods is no lack of traffic.
    unknown = measured(name="chat-cccccccccc")
    for sample in (await sampler.take(empty, unknown, None, {}, NOW)).samples:
        assert "no counts of chat-cccccccccc over the last 60 s" in sample.error
        assert not sample.needs_change


def _number(text: str) -> float:
    return float(text)
