"""Questions of the operator's analysis, and copies: what is counted of them, what is logged."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.sidecar.conftest import ANALYSIS, CHAT, TOKEN, Serving, Start, chat
from tests.sidecar.standin import Standin
from tests.sidecar.test_log import Shelf, ask, flushed

PREDICT, FEEDBACK = "/api/v1/predict", "/api/v1/feedback"
REQUESTS = "tunesmith_serving_requests_total"


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
        pytest.param(CHAT, chat(held=True), id="a timeout"),
        pytest.param(PREDICT, {"query": "Hi"}, id="a prediction"),
        pytest.param(PREDICT, {}, id="a body that cannot be used"),
        pytest.param("/v1/completions", "x" * 5000, id="a body that is too large"),
    ],
)
async def test_a_question_of_the_analysis_counts_nowhere(
    start: Start, engine: Standin, path: str, body: object
) -> None:
    # Nothing else may end so.
    seconds = 0.3 if body == chat(held=True) else 60
    serving = await start(Shelf(), request_timeout_seconds=seconds, max_body_bytes=1000, **ANALYSIS)
    before = await counted(serving)
    mine, _, headers = await serving.post(path, body, x_tunesmith_analysis=TOKEN)
    assert headers["x-tunesmith-revision"] == "7"
    assert await counted(serving) == before
    # The same question of a client gets the same answer, and is counted.
    theirs, _, _ = await serving.post(path, body)
    assert theirs == mine
    assert await counted(serving) != before
    assert "x-tunesmith-analysis" not in {name for asked in engine.requests for name in asked[1]}


async def test_a_question_of_the_analysis_is_not_logged(start: Start) -> None:
    shelf = Shelf()
    serving = await start(shelf, **ANALYSIS)
    await ask(serving, chat("golden"), x_tunesmith_analysis=TOKEN)
    await ask(serving, chat("golden", stream=True), x_tunesmith_analysis=TOKEN)
    await serving.post(PREDICT, {"query": "golden"}, x_tunesmith_analysis=TOKEN)
    feedback = {"requestId": "golden", "rating": "bad"}
    headers = {"x_tunesmith_analysis": TOKEN}
    assert (await serving.post(FEEDBACK, feedback, **headers))[1] == {"stored": False}
    await ask(serving, chat("a client's"))
    assert await flushed(serving)
    (line,) = shelf.lines()
    assert "golden" not in str(line)


@pytest.mark.parametrize(
    ("token", "status"),
    [
        pytest.param(TOKEN, 200, id="the operator's"),
        pytest.param("1", 401, id="anybody's"),
        pytest.param("", 401, id="an empty one"),
        pytest.param(TOKEN[:-1], 401, id="a beginning of it"),
        pytest.param(ANALYSIS["analysis_token_digest"], 401, id="the digest that pods are told"),
        pytest.param("t\u00f6ken", 401, id="letters of any kind"),
    ],
)
@pytest.mark.parametrize("key", [{"api_key": "sesame"}, {}], ids=["with keys", "without"])
async def test_the_analysis_is_known_by_its_token_alone(
    start: Start, engine: Standin, key: dict[str, str], token: str, status: int
) -> None:
    shelf = Shelf()
    serving = await start(shelf, **ANALYSIS, **key)
    found, body, _ = await serving.post(CHAT, chat(), x_tunesmith_analysis=token)
    assert found == status
    assert await flushed(serving)
    assert shelf.objects == {}
    refused = status == 401
    assert len(engine.requests) == (not refused)
    # Whoever only pretends is seen.
    assert await serving.metric(REQUESTS, route="chat", code="401") == refused
    if refused:
        assert body["error"]["code"] == "invalid_analysis_token"


async def test_a_key_does_not_make_a_client_the_operator(start: Start) -> None:
    serving = await start(api_key="sesame", **ANALYSIS)
    headers = {"Authorization": "Bearer sesame", "x_tunesmith_analysis": "1"}
    assert (await serving.post(CHAT, chat(), **headers))[0] == 401
    # Nor is the token a key.
    assert (await serving.post(CHAT, chat(), Authorization=f"Bearer {TOKEN}"))[0] == 401


async def test_without_a_digest_nobody_is_the_operator(start: Start) -> None:
    serving = await start()
    assert (await serving.post(CHAT, chat(), x_tunesmith_analysis=""))[0] == 401
    assert (await serving.post(CHAT, chat()))[0] == 200


async def test_copies_are_load_but_no_conversations(start: Start) -> None:
    shelf = Shelf()
    serving = await start(shelf, api_key="sesame")
    copy = {"Authorization": "Bearer sesame", "x_tunesmith_mirror": "1"}
    await ask(serving, chat("copied"), **copy)
    await ask(serving, chat("copied", stream=True), **copy)
    assert (await serving.post(PREDICT, {"query": "copied"}, **copy))[0] == 200
    # A copy needs the client's key like the request that it is of.
    assert (await serving.post(CHAT, chat(), x_tunesmith_mirror="1"))[0] == 401
    await ask(serving, chat("answered"), Authorization="Bearer sesame")
    assert await flushed(serving)
    (line,) = shelf.lines()
    assert "copied" not in str(line)
    assert await serving.metric(REQUESTS, route="chat", code="200") == 3
    assert await serving.metric(REQUESTS, route="predict", code="200") == 1
    assert await serving.metric("tunesmith_serving_request_seconds_count", route="chat") == 3
    assert await serving.metric("tunesmith_serving_completion_tokens_total") == 4 * 5


async def test_a_refused_request_has_no_latency(start: Start) -> None:
    serving = await start(api_key="right")
    await serving.post(CHAT, chat())
    await serving.post(CHAT, chat(), Authorization="Bearer right")
    assert await serving.metric("tunesmith_serving_requests_total", route="chat", code="401") == 1
    assert await serving.metric("tunesmith_serving_request_seconds_count", route="chat") == 1
