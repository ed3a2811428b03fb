"""The conversation log: what becomes of it with a real bucket, a broken one, and none."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import pytest
import structlog
from aiohttp import web

from tests.sidecar.conftest import CHAT, Serving, Start, chat, eventually, listening
from tests.sidecar.standin import events
from tests.trainer.conftest import REGION, STRANGER_KEYS, Bucket, S3Server, new_bucket, use_identity
from tunesmith_api.dataset import DataFormat, Dataset, Training
from tunesmith_sidecar.conversations import log as log_module
from tunesmith_sidecar.conversations.bucket import Bucket as LogBucket
from tunesmith_sidecar.conversations.lines import Exchanged, build_conversation
from tunesmith_sidecar.s3 import CredentialsError
from tunesmith_sidecar.settings import Settings
from tunesmith_trainer.data.rows import Reader

LINES = "tunesmith_serving_log_lines_total"
FAILURES = "tunesmith_serving_log_write_failures_total"
WAITING = "tunesmith_serving_log_buffer_bytes"


class Shelf:
    """A store in memory that can refuse or hang."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.is_refusing = False
        self.refused = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()

    def put(self, key: str, data: bytes) -> None:
        self.go_on.wait(100)
        if self.is_refusing:
            self.refused.set()
            raise PermissionError("403")
        self.objects[key] = data

    def lines(self, folder: str = "conversations") -> list[dict[str, Any]]:
        found = sorted(item for item in self.objects.items() if item[0].startswith(folder))
        return [json.loads(line) for _, data in found for line in data.splitlines()]


def log_settings(bucket: Bucket, **more: Any) -> dict[str, Any]:
    given = {"log_uri": bucket.uri("logs"), "log_endpoint": bucket.server.endpoint}
    return given | {"log_region": REGION, "log_path_style": True} | more


async def ask(serving: Serving, body: dict[str, Any], **headers: str) -> None:
    async with serving.client.post(
        serving.url + CHAT,
        json=body,
        headers={name.replace("_", "-"): text for name, text in headers.items()},
    ) as answer:
        await answer.read()


async def flushed(serving: Serving) -> bool:
    assert serving.conversations is not None
    return await serving.conversations.flush()


async def test_a_trainer_reads_what_was_logged(start: Start, bucket: Bucket) -> None:
    settings = log_settings(bucket)
    parsed = Settings.model_validate({"revision": "7"} | settings)
    serving = await start(LogBucket(settings["log_uri"], parsed), **settings)
    await ask(serving, chat("I am at 10.0.0.1", pii=True), x_conversation_id="s-1")
    await ask(serving, chat("Hi", stream=True, tokens=2), x_request_id="call-2")
    await serving.post("/api/v1/predict", {"query": "Hm", "context": "Be brief."})
    feedback = {"requestId": "call-2", "rating": "good", "correction": "Ask bob@example.com"}
    assert (await serving.post("/api/v1/feedback", feedback))[1] == {"stored": True}
    assert await flushed(serving)

    (key,) = bucket.keys("logs/")
    assert key.startswith("logs/conversations/7/")
    rows = bucket.get(key).splitlines()
    first, second, third = (json.loads(row) for row in rows)
    assert (first["session"], first["revision"], first["feedback"]) == ("s-1", "7", None)
    assert first["messages"] == [
        {"role": "user", "content": "I am at [IP]"},
        {"role": "assistant", "content": "Reach me at [EMAIL]."},
    ]
    assert first["response"]["completionTokens"] == 5
    assert second["messages"][1]["content"] == " tök0 tök1"
    said = {"rating": "good", "comment": "", "correction": "Ask [EMAIL]"}
    assert second["feedback"] == said | {"time": second["feedback"]["time"]}
    assert second["feedback"]["time"] >= second["time"]
    assert [message["role"] for message in third["messages"]] == ["system", "user", "assistant"]
    reader = Reader(DataFormat.AUTO, Dataset(train=Training(uri="s3://acme/log/")))
    parsed = [reader.parse(row) for row in rows]
    assert [json.loads(row or b"")[-1]["role"] for row in parsed] == ["assistant"] * 3
    assert reader.format is DataFormat.CONVERSATIONS
    assert await serving.metric(LINES, result="written") == 3


async def no_room(_: web.Request) -> web.Response:
    """Answer as an S3 server whose disk or quota is used up."""
    text = "<Error><Code>QuotaExceeded</Code><Message>no room is left</Message></Error>"
    return web.Response(status=507, text=text, content_type="application/xml")


async def test_a_missing_a_refusing_a_full_and_a_stopped_bucket_hurt_nobody(
    start: Start, own_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = new_bucket(own_server, tmp_path / "keys")
    use_identity(monkeypatch, STRANGER_KEYS)
    given = log_settings(bucket)
    parsed = Settings.model_validate({"revision": "7"} | given)
    refusing = LogBucket(given["log_uri"], parsed)
    folder = tmp_path / "keys" / "output"
    own = parsed.model_copy(update={"log_credentials_dir": folder})
    missing = LogBucket("s3://no-such-bucket/logs", own)
    serving = await start(refusing, **given)
    await ask(serving, chat("Hi"))
    assert serving.conversations is not None
    app = web.Application()
    app.router.add_put("/{key:.*}", no_room)
    async with listening(app) as url:
        full = LogBucket(given["log_uri"], own.model_copy(update={"log_endpoint": url}))
        for store in (refusing, missing, full):
            serving.conversations._store = store
            assert not await flushed(serving)
    serving.conversations._store = LogBucket(given["log_uri"], own)
    own_server.stop()
    assert not await flushed(serving)
    assert (await serving.post(CHAT, chat("Still here")))[0] == 200
    assert await serving.metric(FAILURES) == 4
    own_server.start()
    # What could not be written is written once it can be: nothing was lost meanwhile.
    assert await flushed(serving)
    assert await flushed(serving)
    assert len(bucket.keys("logs/conversations/")) == 2
    assert await serving.metric(WAITING) == 0


async def test_memory_is_bounded_and_what_is_dropped_is_counted(start: Start) -> None:
    shelf = Shelf()
    shelf.is_refusing = True
    serving = await start(shelf, log_buffer_bytes=8000, log_flush_bytes=8000)
    for _ in range(20):
        assert (await serving.post(CHAT, chat("x" * 1000)))[0] == 200
    assert not await flushed(serving)
    assert await serving.metric(WAITING) <= 8000
    dropped = await serving.metric(LINES, result="dropped")
    assert 10 < dropped < 20
    feedback = {"requestId": "a", "comment": "x" * 2000}
    assert (await serving.post("/api/v1/feedback", feedback))[1] == {"stored": False}
    shelf.is_refusing = False
    assert await flushed(serving)
    assert len(shelf.lines()) == 20 - dropped
    assert (await serving.post(CHAT, chat()))[0] == 200
    assert await flushed(serving)
    assert len(shelf.lines()) == 21 - dropped


async def test_it_is_written_by_size_and_by_time(start: Start) -> None:
    by_size, by_time = Shelf(), Shelf()
    large = await start(by_size, log_flush_bytes=3000, log_flush_seconds=300)
    small = await start(by_time, log_flush_bytes=3000, log_flush_seconds=0.4)
    logs = [serving.conversations for serving in (large, small)]
    writing = [asyncio.create_task(log.run()) for log in logs if log is not None]
    await ask(large, chat("x" * 4000))
    await eventually(lambda: len(by_size.lines()) == 1)
    await ask(large, chat("small"))
    await ask(small, chat("small"))
    await eventually(lambda: len(by_time.lines()) == 1)
    assert len(by_size.lines()) == 1
    for task in writing:
        task.cancel()


async def test_a_store_that_hangs_makes_nobody_wait(start: Start) -> None:
    shelf = Shelf()
    serving = await start(shelf)
    await ask(serving, chat())
    shelf.go_on.clear()
    writing = asyncio.create_task(flushed(serving))
    await asyncio.sleep(0.05)
    for _ in range(5):
        async with asyncio.timeout(50):
            assert (await serving.post(CHAT, chat()))[0] == 200
    shelf.go_on.set()
    assert await writing
    assert serving.conversations is not None
    await serving.conversations.close()
    assert len(shelf.lines()) == 6


async def test_late_feedback_is_a_line_apart_from_what_is_trained_on(start: Start) -> None:
    shelf = Shelf()
    serving = await start(shelf)
    await ask(serving, chat(), x_request_id="call-1")
    assert await flushed(serving)
    feedback = {"requestId": "call-1", "rating": "bad", "comment": "to jane@example.com"}
    await serving.post("/api/v1/feedback", feedback, x_conversation_id="s-1")
    assert await flushed(serving)
    assert [line["feedback"] for line in shelf.lines()] == [None]
    (line,) = shelf.lines("feedback")
    assert (line["id"], line["session"], line["revision"]) == ("call-1", "s-1", "7")
    assert line["feedback"]["comment"] == "to [EMAIL]"


async def test_nothing_that_was_said_is_lost_while_its_conversation_waits(start: Start) -> None:
    shelf = Shelf()
    serving = await start(shelf)
    await ask(serving, chat(), x_request_id="call-1")
    for said in ({"rating": "good"}, {"comment": "Thanks."}, {"rating": "bad"}):
        _, stored, _ = await serving.post("/api/v1/feedback", {"requestId": "call-1", **said})
        assert stored == {"stored": True}
    assert await flushed(serving)
    (line,) = shelf.lines()
    assert line["feedback"]["rating"] == "bad"
    late = [(one["id"], one["feedback"]) for one in shelf.lines("feedback")]
    assert [(name, said["rating"], said["comment"]) for name, said in late] == [
        ("call-1", "good", ""),
        ("call-1", "", "Thanks."),
    ]
    times = [*(said["time"] for _, said in late), line["feedback"]["time"]]
    assert times == sorted(times)


async def test_what_was_said_of_what_cannot_be_trained_on_is_written_all_the_same(
    start: Start,
) -> None:
    shelf = Shelf()
    serving = await start(shelf)
    tool = [{"role": "tool", "content": "x"}, *chat()["messages"]]
    await ask(serving, chat() | {"messages": tool}, x_request_id="call-1")
    feedback = {"requestId": "call-1", "rating": "bad", "comment": "It never called back."}
    assert (await serving.post("/api/v1/feedback", feedback))[1] == {"stored": True}
    assert await flushed(serving)
    assert shelf.lines() == []
    (line,) = shelf.lines("feedback")
    assert (line["id"], line["feedback"]["comment"]) == ("call-1", "It never called back.")


async def test_a_store_that_fails_for_a_moment_at_the_end_loses_nothing(start: Start) -> None:
    shelf = Shelf()
    shelf.is_refusing = True
    serving = await start(shelf)
    assert serving.conversations is not None
    await ask(serving, chat(), x_request_id="call-1")
    await serving.post("/api/v1/feedback", {"requestId": "another", "rating": "good"})
    closing = asyncio.create_task(serving.conversations.close())
    assert await asyncio.to_thread(shelf.refused.wait, 60)
    shelf.is_refusing = False
    await closing
    assert [line["id"] for line in shelf.lines()] == ["call-1"]
    assert [line["id"] for line in shelf.lines("feedback")] == ["another"]


async def test_a_store_that_refuses_to_the_end_is_told_of(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_module, "_LAST_FLUSH_SECONDS", 0.3)
    shelf = Shelf()
    shelf.is_refusing = True
    serving = await start(shelf)
    assert serving.conversations is not None
    await ask(serving, chat())
    await serving.post("/api/v1/feedback", {"requestId": "another", "rating": "good"})
    with structlog.testing.capture_logs() as said:
        await serving.conversations.close()
    lost = [entry for entry in said if "is lost" in entry["event"]]
    assert [entry["entries"] for entry in lost] == [2]


async def test_what_is_too_long_is_served_but_not_logged(start: Start) -> None:
    shelf = Shelf()
    serving = await start(shelf)
    assert (await serving.post(CHAT, chat("x" * (1 << 20))))[0] == 200
    body = chat(stream=True, tokens=25, size=50_000)
    async with serving.client.post(serving.url + CHAT, json=body) as answer:
        assert await answer.read() == b"".join(events(25, size=50_000))
    assert await flushed(serving)
    assert shelf.objects == {}
    assert await serving.metric(LINES, result="unsuitable") == 2
    # The tokens are counted all the same: they are in the end of the stream.
    assert await serving.metric("tunesmith_serving_completion_tokens_total") == 10


async def test_what_failed_or_broke_off_is_not_logged(start: Start) -> None:
    shelf = Shelf()
    serving = await start(shelf)
    await ask(serving, chat(status=500))
    await ask(serving, chat(stream=True, fail=2))
    with pytest.raises(Exception, match="payload"):
        await ask(serving, chat(stream=True, die=2, pause=0.02))
    assert await flushed(serving)
    assert shelf.objects == {}


async def test_bytes_that_are_no_text_do_not_hold_the_log_up(start: Start) -> None:
    shelf = Shelf()
    serving = await start(shelf)
    body = json.dumps(chat()).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n".encode()
    host, port = serving.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(head + b"X-Conversation-Id: \xff\xfe\r\nConnection: close\r\n\r\n" + body)
    assert (await reader.read()).startswith(b"HTTP/1.1 200")
    writer.close()
    await ask(serving, chat())
    assert await flushed(serving)
    assert len(shelf.lines()) == 2


ANSWER = b'{"choices":[{"message":{"content":"Yes."}}]}'


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        pytest.param({"messages": [{"role": "tool", "content": "x"}]}, ANSWER, id="a tool"),
        pytest.param({"messages": []}, ANSWER, id="no messages"),
        pytest.param({"messages": [1]}, ANSWER, id="no message"),
        pytest.param({"messages": [{"role": "user", "content": " "}]}, ANSWER, id="nothing said"),
        pytest.param(
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            ANSWER,
            id="an image",
        ),
        pytest.param(
            {
                "messages": [
                    {"role": "user", "content": "x"},
                    {"role": "system", "content": "late"},
                ]
            },
            ANSWER,
            id="a system message in the middle",
        ),
        pytest.param({"prompt": ["a", "b"]}, ANSWER, id="several prompts"),
        pytest.param([], ANSWER, id="a list"),
        pytest.param(
            {"prompt": "a"}, b'{"choices":[{"message":{"content":null}}]}', id="a tool call"
        ),
        pytest.param({"prompt": "a"}, b'{"choices":[]}', id="no choice"),
    ],
)
def test_what_the_trainer_could_not_read_gets_no_line(request_: Any, answer: bytes) -> None:
    exchanged = Exchanged("r", "", json.dumps(request_).encode(), answer, is_stream=False)
    assert build_conversation(exchanged, None, "7", "now") is None


def test_parts_of_text_are_joined() -> None:
    parts = [{"type": "text", "text": "a@b.example"}, {"type": "text", "text": " yes"}]
    request = json.dumps({"messages": [{"role": "user", "content": parts}]}).encode()
    line = build_conversation(Exchanged("r", "", request, ANSWER, False), None, "7", "now")
    assert line is not None
    assert json.loads(line)["messages"][0] == {"role": "user", "content": "[EMAIL] yes"}


async def test_keys_that_come_late_or_change_are_used(
    start: Start, own_server: S3Server, tmp_path: Path
) -> None:
    bucket = new_bucket(own_server, tmp_path / "keys")
    right = tmp_path / "keys" / "output"
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    given = log_settings(bucket) | {"log_credentials_dir": mounted}
    parsed = Settings.model_validate({"revision": "7"} | given)
    store = LogBucket(given["log_uri"], parsed)
    with pytest.raises(CredentialsError, match="AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
        store.put("x", b"")
    serving = await start(store, **given)
    assert (await serving.post(CHAT, chat("Hi")))[0] == 200
    assert not await flushed(serving)
    wrong = dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "x" * 20)
    for name, text in wrong.items():
        (mounted / name).write_text(text)
    assert not await flushed(serving)
    for name in wrong:
        (mounted / name).write_bytes((right / name).read_bytes())
    assert await flushed(serving)
    assert len(bucket.keys("logs/conversations/")) == 1
