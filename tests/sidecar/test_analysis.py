"""Questions of the operator's analysis: answered like any other, but not counted as clients'."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.sidecar.conftest import CHAT, Serving, Start, chat
from tests.sidecar.standin import Standin
from tests.sidecar.test_log import Shelf, ask, flushed

PREDICT = "/api/v1/predict"


async def counted(serving: Serving) -> dict[str, float]:
    """Give what the sidecar has counted of requests; how it is itself changes all the time."""
    _, text = await serving.get("/metrics")
    return {
        f"{sample.name}{sample.labels}": sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("tunesmith_serving_") and not sample.name.endswith("_created")
    }


@pytest.mark.parametrize(
    ("path", "body"),
    [
        pytest.param(CHAT, chat(), id="an answer"),
        pytest.param(CHAT, chat(status=503), id="an error of the engine"),
        pytest.param(CHAT, chat(delay=2), id="a timeout"),
        pytest.param(PREDICT, {"query": "Hi"}, id="a prediction"),
        pytest.param(PREDICT, {}, id="a body that cannot be used"),
        pytest.param("/v1/completions", "x" * 5000, id="a body that is too large"),
    ],
)
async def test_a_question_of_the_analysis_counts_nowhere(
    start: Start, engine: Standin, path: str, body: object
) -> None:
    serving = await start(Shelf(), request_timeout_seconds=0.3, max_body_bytes=1000)
    before = await counted(serving)
    mine, _, headers = await serving.post(path, body, x_tunesmith_analysis="1")
    assert headers["x-tunesmith-revision"] == "7"
    assert await counted(serving) == before
    # The same question of a client gets the same answer, and is counted.
    theirs, _, _ = await serving.post(path, body)
    assert theirs == mine
    assert await counted(serving) != before
    assert "x-tunesmith-analysis" not in {name for asked in engine.requests for name in asked[1]}


async def test_a_question_of_the_analysis_is_not_logged(start: Start) -> None:
    shelf = Shelf()
    serving = await start(shelf)
    await ask(serving, chat("golden"), x_tunesmith_analysis="1")
    await ask(serving, chat("golden", stream=True), x_tunesmith_analysis="1")
    await serving.post(PREDICT, {"query": "golden"}, x_tunesmith_analysis="1")
    await ask(serving, chat("a client's"), x_tunesmith_analysis="no")
    assert await flushed(serving)
    (line,) = shelf.lines()
    assert "golden" not in str(line)


async def test_a_refused_request_has_no_latency(start: Start) -> None:
    serving = await start(api_key="right")
    await serving.post(CHAT, chat())
    await serving.post(CHAT, chat(), Authorization="Bearer right")
    assert await serving.metric("tunesmith_serving_requests_total", route="chat", code="401") == 1
    assert await serving.metric("tunesmith_serving_request_seconds_count", route="chat") == 1
