"""/api/v1/predict and /api/v1/feedback."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from tests.sidecar.conftest import Start
from tests.sidecar.standin import Standin
from tunesmith_sidecar.usage import Usage, read_answer, read_stream_usage, read_usage

PREDICT = "/api/v1/predict"


async def test_a_prediction_is_a_chat_in_other_words(start: Start, engine: Standin) -> None:
    serving = await start(model_name="tiny")
    body = {
        "query": "And now?",
        "context": {
            "system": "Be brief.",
            "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}],
        },
        "parameters": {"temperature": 0.2, "maxTokens": 9, "stop": ["\n"]},
    }
    status, said, headers = await serving.post(PREDICT, body)
    assert status == 200
    assert said["response"] == "Hello there."
    assert said["confidence"] == pytest.approx(math.exp(-0.2))
    metadata = said["metadata"]
    assert metadata.pop("latencyMilliseconds") >= 0
    assert metadata == {
        "requestId": headers["x-request-id"],
        "revision": "7",
        "model": "tiny",
        "finishReason": "stop",
        "usage": {"promptTokens": 7, "completionTokens": 5},
    }
    asked = json.loads(engine.requests[0][2])
    assert asked == {
        "model": "tiny",
        "messages": [
            {"role": "system", "content": "Be brief."},
            *body["context"]["messages"],  # type: ignore[index]
            {"role": "user", "content": "And now?"},
        ],
        "temperature": 0.2,
        "max_tokens": 9,
        "stop": ["\n"],
        "logprobs": True,
    }


@pytest.mark.parametrize(
    ("context", "roles"),
    [
        ("You know everything.", ["system", "user"]),
        ([{"role": "assistant", "content": "Yes?"}], ["assistant", "user"]),
        ("", ["user"]),
    ],
)
async def test_the_short_forms_of_context(
    start: Start, engine: Standin, context: Any, roles: list[str]
) -> None:
    serving = await start()
    status, _, _ = await serving.post(PREDICT, {"query": "Hi", "context": context})
    assert status == 200
    messages = json.loads(engine.requests[0][2])["messages"]
    assert [message["role"] for message in messages] == roles


@pytest.mark.parametrize("is_asked_for", [True, False])
async def test_confidence_is_never_made_up(
    start: Start, engine: Standin, is_asked_for: bool
) -> None:
    engine.logprobs = False
    serving = await start(engine_logprobs=is_asked_for)
    _, said, _ = await serving.post(PREDICT, {"query": "Hi"})
    assert said["confidence"] is None
    assert ("logprobs" in json.loads(engine.requests[0][2])) is is_asked_for


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({}, "query"),
        ({"query": ""}, "query"),
        ({"query": "secret", "parameters": {"temperature": 9}}, "parameters.temperature"),
        ({"query": "secret", "parameters": {"magic": 1}}, "parameters.magic"),
        ({"query": "secret", "context": {"messages": [{"role": "tool"}]}}, "context"),
        ([], "body"),
    ],
)
async def test_a_body_that_cannot_be_used_says_where(
    start: Start, engine: Standin, body: Any, place: str
) -> None:
    serving = await start()
    status, said, _ = await serving.post(PREDICT, body)
    assert (status, said["error"]["code"]) == (400, "invalid_body")
    assert place in said["error"]["message"]
    assert "secret" not in said["error"]["message"]
    assert engine.requests == []


async def test_feedback_without_a_log_is_counted(start: Start) -> None:
    serving = await start()
    body = {"requestId": "call-1", "rating": "bad", "comment": "No."}
    status, said, _ = await serving.post("/api/v1/feedback", body)
    assert (status, said) == (202, {"stored": False})
    assert await serving.metric("tunesmith_serving_feedback_total", rating="bad") == 1
    status, _, _ = await serving.post("/api/v1/feedback", {"requestId": "a b"})
    assert status == 400


@pytest.mark.parametrize(
    ("body", "usage"),
    [
        pytest.param(
            b'{"usage":{"prompt_tokens":3,"completion_tokens":4},"timings":{"prompt_n":1}}',
            Usage(3, 4),
            id="OpenAI's member goes before llama-server's",
        ),
        pytest.param(b'{"timings":{"prompt_n":1,"predicted_n":2}}', Usage(1, 2), id="llama-server"),
        pytest.param(b'{"usage":null}', None, id="null"),
        pytest.param(b'{"usage":{"prompt_tokens":"3"}}', None, id="text is no count"),
        pytest.param(b'{"usage":{"prompt_tokens":-3}}', None, id="less than nothing"),
        pytest.param(b'{"usage":{"prompt_tokens":3}}', Usage(3, 0), id="nothing completed"),
        pytest.param(b"[1]", None, id="a list"),
        pytest.param(b"<html>", None, id="not JSON"),
    ],
)
def test_usage_is_what_the_engine_says(body: bytes, usage: Usage | None) -> None:
    assert read_usage(body) == usage
    assert read_stream_usage(b"data: {}\n\ndata: " + body + b"\n\ndata: [DONE]\n\n") == usage


@pytest.mark.parametrize(
    "logprobs", [None, {}, {"content": []}, {"content": [{"logprob": None}]}, {"content": ["x"]}]
)
def test_broken_logprobs_are_no_confidence(logprobs: Any) -> None:
    choice = {"message": {"content": "Hi"}, "logprobs": logprobs}
    answer = read_answer(json.dumps({"choices": [choice]}).encode())
    assert answer is not None
    assert answer.confidence is None
