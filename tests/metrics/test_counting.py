"""What pods count: differences, restarts, pods that come and go, little traffic, percentiles."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from itertools import pairwise

import aiohttp
import pytest

from tests.metrics.conftest import (
    CANARY,
    NOW,
    STABLE,
    Begin,
    Scholar,
    analysis,
    answer,
    measured,
    pod,
    take,
)
from tests.sidecar.conftest import CHAT, TOKEN, chat, eventually
from tunesmith_operator.metrics import exposed
from tunesmith_operator.metrics.builtin import quantile
from tunesmith_operator.metrics.ledger import Ledger
from tunesmith_operator.metrics.sampling import Sampler
from tunesmith_operator.metrics.scraping import Scrape, read_page
from tunesmith_operator.planning.serving import MetricSample
from tunesmith_sidecar.metrics import _SECONDS as BUCKETS
from tunesmith_sidecar.metrics import Failure, Metrics, Route
from tunesmith_sidecar.usage import Usage

ERRORS = {"builtin": "ErrorRate", "max": "0.01"}
COMPARED = {"comparedWith": "Stable", "maxRegressionPercent": 20}


async def test_a_value_is_what_was_counted_since_the_baseline(
    begin: Begin, sampler: Sampler
) -> None:
    serving = await begin()
    canary = measured(pod(serving.url))
    answer(serving, good=5, bad=5)
    await sampler.remember(canary, None)
    answer(serving, good=95, bad=5)
    # What is remembered already stays.
    await sampler.remember(canary, None)
    assert await take(sampler, analysis(), canary) == MetricSample(
        "error-rate", "0.05", requests=100
    )
    answer(serving, good=8, bad=2)
    assert await take(sampler, analysis(), canary) == MetricSample("error-rate", "0.2", requests=10)
    # No requests are no good requests.
    assert await take(sampler, analysis(), canary) == MetricSample("error-rate", requests=0)


async def test_the_error_rate_holds_only_what_is_the_revisions_fault(
    begin: Begin, sampler: Sampler, engine: Scholar
) -> None:
    serving = await begin(max_body_bytes=1000, request_timeout_seconds=1, max_concurrent_requests=1)
    good = chat()
    for body in (good, chat(status=503), chat(status=400), chat(held=True), chat("x" * 2000)):
        await serving.post(CHAT, body)
    for broken in (chat(stream=True, tokens=5, fail=2), chat(stream=True, tokens=3, paced=True)):
        async with serving.client.post(serving.url + CHAT, json=broken) as reply:
            with suppress(aiohttp.ClientPayloadError):
                await reply.read()
    busy = asyncio.create_task(serving.post(CHAT, chat(held=True)))
    await eventually(lambda: serving.gate.in_flight == 1)
    assert (await serving.post(CHAT, good))[0] == 429
    engine.released.set()
    await busy
    await serving.get("/v1/models")
    await serving.post(CHAT, chat(status=503), x_tunesmith_analysis=TOKEN)
    sample = await take(sampler, analysis(), measured(pod(serving.url)))
    # Good, 503, 400, 504, two broken streams, and the one that kept it busy.
    assert (sample.value, sample.requests) == (f"{4 / 7:.6g}", 7)


@pytest.mark.parametrize("reason", list(Failure))
async def test_each_cause_is_somebodys_fault(
    begin: Begin, sampler: Sampler, reason: Failure
) -> None:
    theirs = {Failure.UNAUTHORIZED, Failure.OVERLOADED, Failure.TOO_LARGE, Failure.CLIENT_GONE}
    serving = await begin()
    serving.metrics.failed(reason)
    serving.metrics.answered(Route.PREDICT, 200, 0.1)
    sample = await take(sampler, analysis(), measured(pod(serving.url)))
    assert sample.value == ("0" if reason in theirs else "1")


async def test_ends_of_an_engine_can_be_excused_and_nothing_else(
    begin: Begin, sampler: Sampler
) -> None:
    serving = await begin()
    canary, wanted = measured(pod(serving.url)), analysis(minRequests=10)
    answer(serving, good=8, bad=2)
    for code in (502, 200):  # it was not there, or went away within a stream
        serving.metrics.failed(Failure.ENGINE_UNAVAILABLE)
        serving.metrics.answered(Route.CHAT, code, 0.1)
    (excused,) = (await sampler.take(wanted, canary, None, {}, NOW, excuses_ends=True)).samples
    assert (excused.value, excused.requests) == ("0.2", 10)
    answer(serving, good=1)
    for _ in range(9):
        serving.metrics.failed(Failure.ENGINE_UNAVAILABLE)
        serving.metrics.answered(Route.CHAT, 502, 0.1)
    (few,) = (await sampler.take(wanted, canary, None, {}, NOW, excuses_ends=True)).samples
    assert few.requests == 1, "what is excused is no traffic either"
    held = await take(sampler, wanted, canary)
    assert (held.value, held.requests) == ("0.9", 10)


async def test_little_traffic_adds_up(begin: Begin, sampler: Sampler) -> None:
    serving = await begin()
    canary, wanted = measured(pod(serving.url)), analysis(minRequests=10)
    seen = []
    for _ in range(5):
        answer(serving, good=3, bad=1)
        seen.append((await take(sampler, wanted, canary)).requests)
    assert seen == [4, 8, 12, 4, 8]


async def test_a_comparison_waits_until_stable_has_enough_too(
    begin: Begin, sampler: Sampler
) -> None:
    new, old = await begin(), await begin(STABLE)
    canary, stable = measured(pod(new.url)), measured(pod(old.url), name=STABLE)
    wanted = analysis(
        {"builtin": "LatencyP95", **COMPARED}, {"builtin": "ErrorRate"}, minRequests=10
    )
    answer(old, good=1000)
    await sampler.remember(canary, stable)
    seen = []
    for _ in range(4):
        answer(new, good=20)
        answer(old, good=5)
        sampling = await sampler.take(wanted, canary, stable, {}, NOW)
        compared, alone = sampling.samples
        seen.append((compared.requests, compared.stable_requests, alone.requests))
    assert seen == [(20, 5, 20), (40, 10, 20), (20, 5, 20), (40, 10, 20)]


async def test_an_early_look_at_one_metric_leaves_the_others_their_requests(
    begin: Begin, sampler: Sampler
) -> None:
    serving = await begin()
    canary = measured(pod(serving.url))
    wanted = analysis(ERRORS, {"builtin": "LatencyP95", "max": "1"}, minRequests=10)
    answer(serving, good=12)
    looked = await sampler.take(wanted, canary, None, {}, NOW, only=wanted.metrics[:1])
    assert [(s.name, s.requests) for s in looked.samples] == [(wanted.metrics[0].name, 12)]
    answer(serving, good=3)
    few = await sampler.take(wanted, canary, None, {}, NOW, only=wanted.metrics[:1])
    assert few.samples[0].requests == 3
    answer(serving, good=8)
    whole = await sampler.take(wanted, canary, None, {}, NOW)
    # Too few for a look are still there for the sample.
    assert [s.requests for s in whole.samples] == [11, 23]


async def test_stable_without_pods_holds_nothing_up(begin: Begin, sampler: Sampler) -> None:
    new = await begin()
    canary, stable = measured(pod(new.url)), measured(name=STABLE)
    wanted = analysis({**ERRORS, **COMPARED}, minRequests=10)
    for _ in range(2):
        answer(new, good=20)
        sample = await take(sampler, wanted, canary, stable)
        assert (sample.requests, sample.stable_value) == (20, "")


async def test_stable_is_measured_over_the_same_time(begin: Begin, sampler: Sampler) -> None:
    new, old = await begin(), await begin(STABLE)
    canary, stable = measured(pod(new.url)), measured(pod(old.url), name=STABLE)
    wanted = analysis({**ERRORS, **COMPARED})
    answer(new, good=9, bad=1)
    answer(old, bad=1000)
    # Without a baseline a canary's pod counts from zero, stable's begins now.
    first = await take(sampler, wanted, canary, stable)
    assert first == MetricSample("m0", "0.1", "", 10, 0)
    answer(new, good=10)
    answer(old, good=3, bad=1)
    assert await take(sampler, wanted, canary, stable) == MetricSample("m0", "0.05", "0.25", 20, 4)


async def test_another_stable_begins_anew(begin: Begin, sampler: Sampler) -> None:
    new, old, other = await begin(), await begin(STABLE), await begin("chat-cccccccccc")
    canary, stable = measured(pod(new.url)), measured(pod(old.url), name=STABLE)
    wanted = analysis({**ERRORS, **COMPARED})
    await sampler.remember(canary, stable)
    answer(old, good=50)
    answer(new, good=50)
    await take(sampler, wanted, canary, stable)
    stable = measured(pod(other.url, "pod-3"), name="chat-cccccccccc")
    await take(sampler, wanted, canary, stable)
    answer(other, good=1, bad=1)
    answer(new, good=1)
    sample = await take(sampler, wanted, canary, stable)
    assert (sample.stable_value, sample.stable_requests) == ("0.5", 2)


async def test_pods_restart_go_and_come(begin: Begin, sampler: Sampler) -> None:
    first, second = await begin(), await begin()
    one, two = pod(first.url, "one"), pod(second.url, "two")
    wanted = analysis(minRequests=1000)
    await sampler.remember(measured(one, two), None)
    answer(first, good=30)
    answer(second, good=20)
    assert (await take(sampler, wanted, measured(one, two))).requests == 50
    # The same pod, whose container has started again.
    again = pod((restarted := await begin()).url, "one")
    answer(restarted, good=5)
    assert (await take(sampler, wanted, measured(again, two))).requests == 55
    answer(restarted, good=5)
    # The second is gone, a third has come; what the second has counted stays.
    third = await begin()
    answer(third, good=7)
    new = pod(third.url, "three")
    assert (await take(sampler, wanted, measured(again, new))).requests == 67
    # Back again, the second does not count twice.
    answer(second, good=1)
    assert (await take(sampler, wanted, measured(again, two, new))).requests == 68


def test_a_pod_that_was_faster_than_its_restart_is_seen_by_its_start() -> None:
    ledger = Ledger()
    key = ("requests", 0.0)
    for started, number in ((1.0, 10), (1.0, 15), (2.0, 40), (2.0, 41)):
        ledger.add("one", Scrape({key: number}, started), from_zero=False)
    assert ledger.sums == {key: 5 + 40 + 1}


def test_no_number_of_pods_fills_the_memory() -> None:
    ledger = Ledger()
    for number in range(5000):
        ledger.add(str(number), Scrape({("requests", 0.0): 1}, 1.0), from_zero=True)
    assert ledger.sums == {("requests", 0.0): 5000}
    assert len(ledger._last) == 512


async def test_restarts_are_kubernetes_and_stables_only_the_new_ones(
    begin: Begin, sampler: Sampler
) -> None:
    wanted = analysis({"builtin": "Restarts", **COMPARED})
    await sampler.remember(measured(restarts=0), measured(name=STABLE, restarts=7))
    sample = await take(sampler, wanted, measured(restarts=2), measured(name=STABLE, restarts=8))
    assert sample == MetricSample("m0", "2", "1")
    fewer = await take(sampler, wanted, measured(restarts=2), measured(name=STABLE, restarts=3))
    assert fewer.stable_value == "0"


async def test_a_forgotten_canary_begins_anew_and_others_are_left_alone(
    begin: Begin, sampler: Sampler
) -> None:
    serving = await begin()
    here = measured(pod(serving.url))
    there = type(here)("other", here.name, here.digest, here.pods, 0)
    answer(serving, good=10)
    await sampler.remember(here, None)
    await sampler.remember(there, None)
    answer(serving, good=5)
    sampler.forget("default", CANARY)
    await sampler.remember(here, None)
    answer(serving, good=1)
    assert (await take(sampler, analysis(), here)).requests == 1
    assert (await take(sampler, analysis(), there)).requests == 6


async def test_metrics_move_on_by_their_own_requests(begin: Begin, sampler: Sampler) -> None:
    serving = await begin()
    wanted = analysis({"builtin": "TimeToFirstTokenP95"}, {"builtin": "ErrorRate"}, minRequests=10)
    canary, seen = measured(pod(serving.url)), []
    for _ in range(3):
        answer(serving, good=20)
        for _ in range(4):
            serving.metrics.first_token_seconds.observe(0.02)
        sampling = await sampler.take(wanted, canary, None, {}, NOW)
        seen.append(tuple(sample.requests for sample in sampling.samples))
    assert seen == [(4, 20), (8, 20), (12, 20)]


async def test_tokens_per_second_are_the_mean_of_answers(begin: Begin, sampler: Sampler) -> None:
    serving = await begin()
    for tokens, seconds in ((100, 1.0), (300, 2.0), (50, 1.0)):
        serving.metrics.used(Usage(7, tokens), seconds)
    sample = await take(
        sampler, analysis({"builtin": "TokensPerSecond"}), measured(pod(serving.url))
    )
    assert sample == MetricSample("m0", "100", requests=3)


@pytest.mark.parametrize("seed", range(5))
async def test_percentiles_fall_into_the_bucket_of_the_exact_ones(
    begin: Begin, sampler: Sampler, seed: int
) -> None:
    chance = random.Random(seed)
    pods = [await begin(), await begin()]
    seconds = [chance.lognormvariate(-1.0, 0.8) for _ in range(2000)]
    for number, value in enumerate(seconds):
        route = (Route.CHAT, Route.COMPLETIONS, Route.PREDICT)[number % 3]
        pods[number % 2].metrics.answered(route, 200, value)
    for serving in pods:
        # Neither what is no question to the model nor a refusal is a latency.
        serving.metrics.answered(Route.MODELS, 200, 0.001)
        serving.metrics.answered(Route.CHAT, 429, 0.001)
    wanted = analysis(*({"builtin": f"Latency{p}"} for p in ("P50", "P95", "P99")))
    canary = measured(*(pod(s.url, s.url) for s in pods))
    sampling = await sampler.take(wanted, canary, None, {}, NOW)
    seconds.sort()
    for share, sample in zip((0.5, 0.95, 0.99), sampling.samples, strict=True):
        exact = seconds[int(share * len(seconds)) - 1]
        assert sample.requests == 2000
        low, high = next(b for b in pairwise((0.0, *BUCKETS)) if b[0] < exact <= b[1])
        assert low <= float(sample.value) <= high
        # A regression of 20 % must not be lost in a bucket.
        assert float(sample.value) == pytest.approx(exact, rel=0.1)


@pytest.mark.parametrize(
    ("buckets", "share", "value"),
    [
        pytest.param({1: 10, 2: 20, float("inf"): 20}, 0.5, 1.0, id="at the edge of a bucket"),
        pytest.param({1: 10, 2: 20, float("inf"): 20}, 0.25, 0.5, id="the first begins at zero"),
        pytest.param({1: 0, 2: 20, float("inf"): 20}, 0.95, 1.95, id="linear within a bucket"),
        pytest.param({1: 1, 2: 2, float("inf"): 20}, 0.95, 2, id="beyond the last finite bound"),
        pytest.param({1: 0, float("inf"): 0}, 0.5, None, id="nothing was counted"),
        pytest.param({1: 5, 2: 4, float("inf"): 10}, 0.45, 0.9, id="buckets that fall"),
        pytest.param({}, 0.5, None, id="no buckets"),
    ],
)
def test_a_quantile_as_prometheus_has_it(
    buckets: dict[float, float], share: float, value: float | None
) -> None:
    assert quantile(share, buckets) == (None if value is None else pytest.approx(value))


def test_every_name_is_one_of_a_real_sidecars() -> None:
    metrics = Metrics(CANARY)
    metrics.answered(Route.CHAT, 500, 0.1)
    page = metrics.render().decode()
    scrape = read_page(page.encode(), CANARY)
    assert {name for name, _ in scrape.counts} == {
        "requests",
        "faults",
        "away",
        "latency",
        "first_token",
        "tokens_sum",
        "tokens_count",
    }
    assert scrape.started
    assert scrape.counts["requests", 0.0] == 1
    assert set(exposed.ROUTES) < {route.value for route in Route}
    assert set(exposed.FAULTS) < {reason.value for reason in Failure}
