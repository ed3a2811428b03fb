"""OpenAI's routes: what passes through, what does not, and what goes wrong in between."""

from __future__ import annotations

import asyncio
import gzip
import json

import aiohttp
import pytest

from tests.sidecar.conftest import CHAT, Start, chat, eventually
from tests.sidecar.standin import Standin, events

SECONDS = "tunesmith_serving_request_seconds_count"
ERRORS = "tunesmith_serving_errors_total"
REQUESTS = "tunesmith_serving_requests_total"


@pytest.mark.parametrize(
    ("path", "body"), [(CHAT, chat()), ("/v1/completions", {"prompt": "Hi", "odd": [1, None]})]
)
async def test_a_request_reaches_the_engine_byte_for_byte(
    start: Start, engine: Standin, path: str, body: object
) -> None:
    serving = await start()
    data = json.dumps(body, indent=3).encode()
    headers = {"Content-Type": "application/json", "Authorization": "Bearer mine", "Cookie": "a=b"}
    async with serving.client.post(serving.url + path, data=data, headers=headers) as answer:
        assert answer.status == 200
        assert (await answer.json())["usage"]["completion_tokens"] == 5
        assert answer.headers["x-tunesmith-revision"] == "7"
        assert answer.headers["x-request-id"]
    (asked,) = engine.requests
    assert (asked[0], asked[2]) == (path, data)
    assert not {"authorization", "cookie"} & set(asked[1])
    assert await serving.metric("tunesmith_serving_prompt_tokens_total") == 7
    assert await serving.metric("tunesmith_serving_completion_tokens_total") == 5
    assert await serving.metric("tunesmith_serving_in_flight") == 0


async def test_a_stream_comes_byte_for_byte_and_as_it_is_made(
    start: Start, engine: Standin
) -> None:
    serving = await start()
    # The next event is only made when this one has come: nothing holds them back to send several.
    body, chunks = chat(stream=True, tokens=4, paced=True), []
    async with serving.client.post(serving.url + CHAT, json=body) as answer:
        assert answer.content_type == "text/event-stream"
        async for chunk in answer.content.iter_any():
            chunks.append(chunk)
            engine.pace.release()
    assert chunks == events(4)
    assert await serving.metric("tunesmith_serving_time_to_first_token_seconds_count") == 1
    assert await serving.metric("tunesmith_serving_completion_tokens_total") == 5


async def test_a_stream_without_usage_is_not_counted_as_if_it_had_one(start: Start) -> None:
    serving = await start()
    async with serving.client.post(
        serving.url + CHAT, json=chat(stream=True, usage=False)
    ) as answer:
        await answer.read()
    assert await serving.metric("tunesmith_serving_completion_tokens_total") == 0
    assert await serving.metric("tunesmith_serving_answers_without_usage_total") == 1


async def test_models_are_the_engines(start: Start) -> None:
    serving = await start()
    status, text = await serving.get("/v1/models")
    assert (status, json.loads(text)["data"][0]["id"]) == (200, "tiny")


async def test_of_an_engine_with_several_models_clients_know_one(
    start: Start, engine: Standin
) -> None:
    """As Ollama is served: it lists its names with a tag, and wants one in every request."""
    engine.models = ("chat:latest", "tunesmith-first:latest")
    serving = await start(model_name="chat", served_model="chat")
    _, text = await serving.get("/v1/models")
    assert [card["id"] for card in json.loads(text)["data"]] == ["chat"]
    for named, status in (({}, 200), ({"model": "chat"}, 200), ({"model": "other"}, 404)):
        async with serving.client.post(serving.url + CHAT, json=chat() | named) as answer:
            assert answer.status == status
            if status == 404:
                assert "it is chat" in (await answer.json())["error"]["message"]
    assert [json.loads(body)["model"] for _, _, body in engine.requests] == ["chat", "chat"]


@pytest.mark.parametrize(
    "path",
    ["/slots", "/props", "/v1/load_lora_adapter", "/api/pull", "/v1/models/../../slots", "/", "//"],
)
async def test_the_engines_administration_is_closed(
    start: Start, engine: Standin, path: str
) -> None:
    serving = await start()
    for method in ("GET", "POST", "DELETE"):
        async with serving.client.request(method, serving.url + path) as answer:
            assert answer.status == 404
            assert (await answer.json())["error"]["code"] == "unknown_path"
    assert engine.requests == []


async def test_the_engines_errors_pass_and_count(start: Start) -> None:
    serving = await start()
    for status in (400, 503):
        found, body, headers = await serving.post(CHAT, chat(status=status))
        assert (found, body["error"]["message"]) == (status, "bad")
        assert headers["Retry-After"] == "9"
        assert "X-Engine" not in headers
        assert await serving.metric(REQUESTS, route="chat", code=str(status)) == 1
    assert await serving.metric(ERRORS, reason="engine_error") == 1


async def test_a_redirect_of_the_engine_is_not_followed(start: Start, engine: Standin) -> None:
    serving = await start()
    async with serving.client.post(
        serving.url + CHAT, json=chat(status=307), allow_redirects=False
    ) as answer:
        assert answer.status == 307
        assert "Location" not in answer.headers
    assert len(engine.requests) == 1


async def test_an_error_in_a_stream_counts_although_its_code_was_200(start: Start) -> None:
    serving = await start()
    body = chat(stream=True, tokens=5, fail=2)
    async with serving.client.post(serving.url + CHAT, json=body) as answer:
        assert b"out of memory" in await answer.read()
    assert await serving.metric(ERRORS, reason="engine_error") == 1
    assert await serving.metric(REQUESTS, route="chat", code="200") == 1


async def test_a_slow_answer_is_a_504_and_the_engine_stops(start: Start, engine: Standin) -> None:
    serving = await start(request_timeout_seconds=0.2)
    status, body, _ = await serving.post(CHAT, chat(held=True))
    assert (status, body["error"]["code"]) == (504, "request_timeout")
    await eventually(lambda: engine.cancelled == 1)
    assert await serving.metric(ERRORS, reason="timeout") == 1


async def test_a_stream_may_last_longer_than_the_time_limit(start: Start) -> None:
    serving = await start(request_timeout_seconds=3)
    body = chat(stream=True, tokens=6, pause=0.6)
    async with serving.client.post(serving.url + CHAT, json=body) as answer:
        assert await answer.read() == b"".join(events(6))


@pytest.mark.parametrize(
    ("test", "seconds", "reason"),
    [
        pytest.param({"tokens": 3, "paced": True}, 1, "timeout", id="a stream that stops says so"),
        pytest.param(
            {"die": 2, "pause": 0.05}, 60, "engine_unavailable", id="an engine that dies is seen"
        ),
    ],
)
async def test_a_broken_stream_never_looks_whole(
    start: Start, test: dict[str, object], seconds: int, reason: str
) -> None:
    serving = await start(request_timeout_seconds=seconds)
    got = b""
    with pytest.raises(aiohttp.ClientPayloadError):
        async with serving.client.post(serving.url + CHAT, json=chat(stream=True, **test)) as a:
            assert a.status == 200
            async for chunk in a.content.iter_any():
                got += chunk
    assert got.startswith(events(3)[0])
    assert json.loads(got.rpartition(b"data: ")[2])["error"]["code"] == reason
    assert await serving.metric(ERRORS, reason=reason) == 1
    assert serving.gate.in_flight == 0


async def test_no_engine_is_a_502(start: Start) -> None:
    serving = await start(engine_url="http://127.0.0.1:9")
    status, body, _ = await serving.post(CHAT, chat())
    assert (status, body["error"]["code"]) == (502, "engine_unavailable")


async def test_a_pooled_connection_that_closes_under_a_request_is_not_the_clients_matter(
    start: Start, engine: Standin
) -> None:
    serving = await start()
    await serving.post(CHAT, chat())
    engine.drop_next = 1
    assert (await serving.post(CHAT, chat()))[0] == 200
    engine.drop_next = 2
    assert (await serving.post(CHAT, chat()))[0] == 502


@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_client_that_goes_away_stops_the_engine(
    start: Start, engine: Standin, is_stream: bool
) -> None:
    serving = await start()
    body = chat(delay=0 if is_stream else 20, stream=is_stream, tokens=1000, pause=0.05)
    asking = asyncio.create_task(serving.post(CHAT, body))
    await eventually(lambda: engine.running == 1)
    await asyncio.sleep(0.1)
    asking.cancel()
    await eventually(lambda: engine.running == 0 and serving.gate.in_flight == 0)
    assert engine.cancelled == 1
    assert await serving.metric(REQUESTS, route="chat", code="499") == 1
    assert await serving.metric(ERRORS, reason="client_gone") == 1
    assert await serving.metric(ERRORS, reason="engine_unavailable") == 0


async def test_a_client_that_does_not_read_gives_its_place_back(
    start: Start, engine: Standin
) -> None:
    serving = await start(request_timeout_seconds=0.5)
    body = json.dumps(chat(stream=True, tokens=400, size=50_000)).encode()
    host, port = serving.url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port), limit=1)
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await eventually(lambda: engine.running == 1)
    await eventually(lambda: serving.gate.in_flight == 0 and engine.running == 0)
    assert engine.cancelled == 1
    assert await serving.metric(ERRORS, reason="timeout") == 1
    writer.transport.abort()


async def test_more_than_the_limit_is_a_429_and_the_rest_is_served(
    start: Start, engine: Standin
) -> None:
    serving = await start(max_concurrent_requests=3, retry_after_seconds=2)
    asked = [asyncio.create_task(serving.post(CHAT, chat(held=True))) for _ in range(3)]
    await eventually(lambda: engine.running == 3)
    assert await serving.metric("tunesmith_serving_in_flight") == 3
    status, body, headers = await serving.post(CHAT, chat())
    assert (status, body["error"]["type"]) == (429, "rate_limit_error")
    assert headers["Retry-After"] == "2"
    # Probes need no place.
    assert (await serving.get("/livez"))[0] == 200
    engine.released.set()
    assert [(await task)[0] for task in asked] == [200] * 3
    assert len(engine.requests) == 3
    assert (await serving.post(CHAT, chat()))[0] == 200


async def test_a_large_body_is_a_413_however_it_is_sent(start: Start, engine: Standin) -> None:
    serving = await start(max_body_bytes=1000)
    big = json.dumps(chat("x" * 5000)).encode()

    async def pieces():  # type: ignore[no-untyped-def]
        for at in range(0, len(big), 100):
            yield big[at : at + 100]

    packed = gzip.compress(json.dumps(chat("x" * 100_000)).encode())
    ways = [(big, {}), (pieces(), {}), (packed, {"Content-Encoding": "gzip"})]
    for data, headers in ways:
        async with serving.client.post(serving.url + CHAT, data=data, headers=headers) as answer:
            assert answer.status == 413
            assert (await answer.json())["error"]["code"] == "body_too_large"
    assert engine.requests == []
    assert serving.gate.in_flight == 0


async def test_a_body_that_cannot_be_unpacked_is_a_400(start: Start) -> None:
    serving = await start()
    headers = {"Content-Encoding": "gzip"}
    async with serving.client.post(serving.url + CHAT, data=b"no gzip", headers=headers) as answer:
        assert answer.status == 400
    assert serving.gate.in_flight == 0


async def test_only_plain_request_ids_are_taken_over(start: Start, engine: Standin) -> None:
    serving = await start()
    _, _, headers = await serving.post(CHAT, chat(), x_request_id="call-1")
    assert headers["x-request-id"] == "call-1"
    assert engine.requests[-1][1]["x-request-id"] == "call-1"
    _, _, headers = await serving.post(CHAT, chat(), x_request_id="jane@example.com <b>")
    assert "jane" not in headers["x-request-id"]
