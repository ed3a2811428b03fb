"""Prometheus and webhooks: what they may answer, and what becomes of it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

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
from tunesmith_api.analysis import Analysis
from tunesmith_operator.metrics.prometheus import fill_in
from tunesmith_operator.metrics.sampling import Sampler
from tunesmith_operator.planning.serving import MetricSample

COMPARED = {"comparedWith": "Stable", "maxRegressionPercent": 20}


def by_prometheus(url: str, *metrics: dict[str, Any], seconds: int = 30, **more: Any) -> Analysis:
    provider = {"type": "Prometheus", "prometheus": {"url": url, "timeoutSeconds": seconds}}
    return analysis(*(metrics or ({"query": "up"},)), provider=provider, **more)


def by_webhook(url: str, *metrics: dict[str, Any], seconds: int = 30, **more: Any) -> Analysis:
    webhook = {"url": url + "/mine", "timeoutSeconds": seconds}
    provider = {"type": "Webhook", "webhook": webhook}
    return analysis(*(metrics or ({"query": "mine"},)), provider=provider, **more)


def vector(*values: str, **more: Any) -> dict[str, Any]:
    result = [{"metric": {"n": str(n)}, "value": [1.5, value]} for n, value in enumerate(values)]
    return {"status": "success", "data": {"resultType": "vector", "result": result}, **more}


def single(kind: str, value: str) -> dict[str, Any]:
    return {"status": "success", "data": {"resultType": kind, "result": [1.5, value]}}


HISTOGRAM = {"resultType": "vector", "result": [{"metric": {}, "histogram": [1.5, {}]}]}
RANGE = {"resultType": "matrix", "result": [{"metric": {}, "values": [[1.5, "1"]]}]}


OF_THE_QUERY = {"2 series", "a range", "a histogram", "1:3: parse error: no"}


@pytest.mark.parametrize(
    ("reply", "status", "value", "error"),
    [
        pytest.param(vector("0.25"), 200, "0.25", "", id="a number"),
        pytest.param(vector("1e-05"), 200, "1e-05", "", id="a small number"),
        pytest.param(vector("NaN"), 200, "NaN", "", id="NaN is passed on, and is no data"),
        pytest.param(vector("+Inf"), 200, "+Inf", "", id="so is infinity"),
        pytest.param(vector(), 200, "", "", id="no series is no value"),
        pytest.param(vector("1", "2"), 200, "", "2 series", id="several series"),
        pytest.param(single("scalar", "3"), 200, "3", "", id="a scalar"),
        pytest.param(single("string", "good"), 200, "good", "", id="a text"),
        pytest.param({"status": "success", "data": RANGE}, 200, "", "a range", id="a range"),
        pytest.param(
            {"status": "success", "data": HISTOGRAM}, 200, "", "a histogram", id="a histogram"
        ),
        pytest.param(
            {"status": "error", "errorType": "bad_data", "error": "1:3: parse error: no"},
            400,
            "",
            "1:3: parse error: no",
            id="Prometheus' own words",
        ),
        pytest.param({"status": "error"}, 503, "", "HTTP 503", id="an error without words"),
        pytest.param(
            vector("0", warnings=["store 2 did not answer"]),
            200,
            "",
            "store 2 did not answer",
            id="half of the data is no data",
        ),
        pytest.param(
            vector("0", warnings=["PromQL info: not a counter"]), 200, "0", "", id="a note"
        ),
        pytest.param({"status": "success"}, 200, "", "a range", id="no data member"),
        pytest.param({"value": 1}, 200, "", "not Prometheus'", id="somebody else's JSON"),
        pytest.param("<html>", 502, "", "HTTP 502 with no answer", id="a gateway's page"),
        pytest.param("x" * 400_000, 200, "", "larger than", id="a huge answer"),
    ],
)
async def test_what_prometheus_may_say(
    serve: Serve, sampler: Sampler, reply: Any, status: int, value: str, error: str
) -> None:
    async def say(_: web.Request) -> web.Response:
        text = reply if isinstance(reply, str) else json.dumps(reply)
        return web.Response(text=text, status=status)

    sample = await take(sampler, by_prometheus(await serve(say), minRequests=0), measured())
    assert sample.value == value
    assert error in sample.error
    assert bool(error) == bool(sample.error)
    assert sample.needs_change == (error in OF_THE_QUERY)


async def test_canary_and_stable_are_asked_for_by_name_at_the_same_time(
    serve: Serve, sampler: Sampler
) -> None:
    asked: list[str] = []
    all_asked = asyncio.Event()

    async def say(request: web.Request) -> web.Response:
        assert request.path == "/prefix/api/v1/query"
        asked.append(query := request.query["query"])
        if len(asked) == 17:
            all_asked.set()
        # Whoever asks for one after the other waits in vain.
        await all_asked.wait()
        return web.json_response(vector("2" if STABLE in query else "1"))

    query = "a{r=\"{{revision}}\"} + b{r='{{ revision }}'} * 1"
    metrics = [{"query": query, **COMPARED}] + [{"query": query}] * 15
    wanted = by_prometheus(await serve(say) + "/prefix/", *metrics, minRequests=0)
    sampling = await sampler.take(wanted, measured(), measured(name=STABLE), {}, NOW)
    assert sampling.samples[0] == MetricSample("m0", "1", "2")
    assert [s.value for s in sampling.samples] == ["1"] * 16
    assert set(asked) == {f"a{{r=\"{name}\"}} + b{{r='{name}'}} * 1" for name in (CANARY, STABLE)}


@pytest.mark.parametrize(
    "handler_seconds", [pytest.param(60, id="slow"), pytest.param(None, id="away")]
)
async def test_a_provider_that_is_silent_is_an_error(
    serve: Serve, sampler: Sampler, handler_seconds: float | None
) -> None:
    async def hang(_: web.Request) -> web.Response:
        await asyncio.sleep(handler_seconds or 0)
        return web.Response()

    url = await serve(hang) if handler_seconds else "http://127.0.0.1:9"
    for by in (by_prometheus, by_webhook):
        wanted = by(url, seconds=1, minRequests=0)
        sample = await take(sampler, wanted, measured())
        assert "no answer within 1 s" in sample.error or "cannot connect" in sample.error


async def test_stables_trouble_leaves_the_canarys_value(serve: Serve, sampler: Sampler) -> None:
    async def say(request: web.Request) -> web.Response:
        if STABLE in request.query["query"]:
            return web.Response(status=500)
        return web.json_response(vector("7"))

    query = {"query": "{{revision}}", **COMPARED}
    wanted = by_prometheus(await serve(say), query, minRequests=0)
    assert await take(sampler, wanted, measured(), measured(name=STABLE)) == MetricSample("m0", "7")


def test_a_name_cannot_leave_its_label() -> None:
    assert fill_in('a{r="{{revision}}"}', 'x"} or up{a="\n\\') == (
        'a{r="x\\"} or up{a=\\"\\n\\\\"}'
    )


async def test_a_good_number_without_traffic_is_not_taken_over_any(
    serve: Serve, sampler: Sampler, begin: Begin
) -> None:
    async def say(_: web.Request) -> web.Response:
        return web.json_response(vector("0"))

    new, old = await begin(), await begin(STABLE)
    canary, stable = measured(pod(new.url)), measured(pod(old.url), name=STABLE)
    wanted = by_prometheus(await serve(say), {"query": "x", **COMPARED}, minRequests=10)
    await sampler.remember(canary, stable)
    assert await take(sampler, wanted, canary, stable) == MetricSample("m0", "0", "0", 0, 0)
    answer(new, good=12)
    answer(old, good=30)
    assert await take(sampler, wanted, canary, stable) == MetricSample("m0", "0", "0", 12, 30)
    # That was enough; the next value needs requests of its own.
    assert await take(sampler, wanted, canary, stable) == MetricSample("m0", "0", "0", 0, 0)
    sample = await take(sampler, wanted, measured(), stable)
    assert "no pod of the canary" in sample.error


@pytest.mark.parametrize(
    ("reply", "status", "sample"),
    [
        pytest.param(
            {"value": 0.5, "stableValue": "0.25", "requests": 300, "stableRequests": 900},
            200,
            MetricSample("m0", "0.5", "0.25", 300, 900),
            id="everything",
        ),
        pytest.param(
            {"value": 3, "requests": 1, "more": True},
            200,
            MetricSample("m0", "3", "", 1),
            id="less",
        ),
        pytest.param(
            {"value": None, "requests": 1}, 200, MetricSample("m0", requests=1), id="none"
        ),
        pytest.param({"requests": 1}, 200, MetricSample("m0", requests=1), id="no value"),
        pytest.param(
            {"value": "bad", "requests": 1}, 200, MetricSample("m0", "bad", "", 1), id="a text"
        ),
        pytest.param({"value": True}, 200, "value", id="a truth is no number"),
        pytest.param({"value": [1]}, 200, "value", id="a list is no number"),
        pytest.param({"value": 1, "requests": -1}, 200, "requests", id="fewer than none"),
        pytest.param([], 200, "body", id="no object"),
        pytest.param("<html>", 200, "body", id="no JSON"),
        pytest.param({"detail": "who are you?"}, 403, "who are you?", id="refused"),
        pytest.param("x" * 100_000, 200, "larger than", id="huge"),
    ],
)
async def test_what_a_webhook_may_say(
    serve: Serve, sampler: Sampler, reply: Any, status: int, sample: MetricSample | str
) -> None:
    asked = []

    async def say(request: web.Request) -> web.Response:
        asked.append((request.method, request.path, await request.json()))
        text = reply if isinstance(reply, str) else json.dumps(reply)
        return web.Response(text=text, status=status)

    wanted = by_webhook(await serve(say), {"query": "mine", **COMPARED}, minRequests=0)
    found = await take(sampler, wanted, measured(), measured(name=STABLE))
    body = {"metric": "m0", "query": "mine", "revision": CANARY, "stableRevision": STABLE}
    assert asked == [("POST", "/mine", body)]
    if isinstance(sample, str):
        assert sample in found.error
    else:
        assert found == sample


async def test_a_webhook_that_counts_no_requests_is_held_to_the_pods(
    serve: Serve, sampler: Sampler, begin: Begin
) -> None:
    async def say(_: web.Request) -> web.Response:
        return web.json_response({"value": 0})

    serving = await begin()
    answer(serving, good=4)
    wanted = by_webhook(await serve(say), {"query": "x"}, {"builtin": "ErrorRate"}, minRequests=5)
    sampling = await sampler.take(wanted, measured(pod(serving.url)), None, {}, NOW)
    assert sampling.samples == (
        MetricSample("m0", "0", requests=4),
        MetricSample("m1", "0", requests=4),
    )


async def test_a_provider_at_a_metadata_service_is_not_asked(sampler: Sampler) -> None:
    # The rules of the API server know some ways of writing it, not this one.
    wanted = by_prometheus("http://[::ffff:a9fe:a9fe]", minRequests=0)
    assert "metadata service" in (await take(sampler, wanted, measured())).error
