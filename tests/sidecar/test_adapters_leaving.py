"""Adapters that leave, are wanted again meanwhile, or end with their sidecar."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import pytest

from tests.sidecar.adapter_pods import (
    QUESTION,
    Pod,
    asking,
    start_engine,
    until_draining,
)
from tests.sidecar.conftest import CHAT, TOKEN
from tests.sidecar.test_adapters import base, options, pod, running  # noqa: F401
from tests.sidecar.test_drain import sidecar
from tests.sidecar.test_fetch import digest_of
from tests.trainer.conftest import REGION, Bucket, free_port
from tunesmith_api.adapters import (
    AdapterPhase,
)

# Each test starts two or three programs, on machines that do more than that.
pytestmark = pytest.mark.timeout(600)


async def test_an_adapter_that_is_not_wanted_any_more_leaves_after_its_last_request(
    pod: Pod,  # noqa: F811
) -> None:
    pod.want("chat-a", 8)
    pod.want("chat-b", 4)
    await pod.tell()
    await pod.until_loaded("chat-a", "chat-b")
    gone = pod.wanted["chat-b"]
    streamed = pod.session.post(
        f"http://127.0.0.1:{gone.port}{CHAT}", json=QUESTION | {"stream": True}
    )
    async with streamed as answer:
        first = await answer.content.readline()
        del pod.wanted["chat-b"]
        await pod.tell()
        rest = await answer.read()
    assert first.startswith(b"data: ")
    assert rest.endswith(b"data: [DONE]\n\n")
    await pod.until(lambda said: set(said) == {"chat-a"})
    with pytest.raises(aiohttp.ClientConnectorError):
        await pod.session.get(f"http://127.0.0.1:{gone.port}/readyz")
    async with pod.session.get(f"http://127.0.0.1:{pod.engine_port}/v1/models") as answer:
        names = [card["id"] for card in (await answer.json())["data"]]
    assert names == ["chat-base", "chat-a"]
    assert (await pod.ask("chat-a"))[0] == 200
    pod.wanted["chat-b"] = gone
    await pod.tell()
    await pod.until_loaded("chat-b")


async def test_sigterm_lets_every_adapter_answer_to_the_end(
    pod: Pod,  # noqa: F811
) -> None:
    pod.want("chat-a", 8)
    await pod.tell()
    await pod.until_loaded("chat-a")
    assert pod.sidecar is not None
    url = f"http://127.0.0.1:{pod.wanted['chat-a'].port}{CHAT}"
    async with pod.session.post(url, json=QUESTION | {"stream": True}) as answer:
        await answer.content.readline()
        pod.sidecar.terminate()
        rest = await answer.read()
    assert rest.endswith(b"data: [DONE]\n\n")
    assert await asyncio.to_thread(pod.sidecar.wait, 60) == 0


async def test_an_adapter_that_is_wanted_again_while_it_leaves_is_not_said_to_be_there(
    pod: Pod,  # noqa: F811
) -> None:
    """Its port is about to close: nobody may be sent there before it was loaded anew."""
    pod.want("chat-a", 8)
    pod.want("chat-b", 4)
    await pod.tell()
    await pod.until_loaded("chat-a", "chat-b")
    async with asking(pod, "chat-b") as end:
        again = pod.wanted.pop("chat-b")
        await pod.tell()
        # It begins to leave a moment after it was told.
        await pod.until(lambda said: said["chat-b"] == (AdapterPhase.LOADING, "it is leaving"))
        pod.wanted["chat-b"] = again
        said = await pod.tell()
        phases = {adapter.revision: adapter.phase for adapter in said.held}
        assert phases == {"chat-a": AdapterPhase.LOADED, "chat-b": AdapterPhase.LOADING}
        assert await pod.readiness() == (503, "adapter chat-b: it is leaving")
        assert await end() == 200
    await pod.until_loaded("chat-a", "chat-b")
    assert await pod.readiness() == (200, "ok")
    assert (await pod.ask("chat-b"))[0] == 200


@pytest.mark.parametrize("pre_stop_seconds", [0, 4], ids=["leaves after that", "leaves meanwhile"])
async def test_sigterm_while_an_adapter_leaves_loses_neither_requests_nor_its_log(
    bucket: Bucket, tmp_path: Path, pre_stop_seconds: int
) -> None:
    port = free_port()
    engine = start_engine(port, ["--enable-lora", "--served-model-name=chat-base"])
    s3 = {"endpoint": bucket.server.endpoint, "region": REGION, "path_style": "true"}
    given = {
        "revision": "chat-base-1",
        "engine_url": f"http://127.0.0.1:{port}",
        "served_model": "chat",
        "adapters_folder": tmp_path / "adapters",
        "adapters_token_digest": digest_of(TOKEN.encode()),
        "log_uri": bucket.uri("log/"),
        "pre_stop_seconds": pre_stop_seconds,
        **{f"{what}_{name}": value for what in ("adapters", "log") for name, value in s3.items()},
    }
    try:
        async with aiohttp.ClientSession() as session:
            with sidecar(tmp_path / "log", **given) as (url, process):
                pod = Pod(url, bucket, session, port, engine, [], process)
                pod.want("chat-a", 8)
                pod.want("chat-b", 4)
                await pod.until(lambda _: True)
                await pod.tell()
                await pod.until_loaded("chat-a", "chat-b")
                assert (await pod.ask("chat-b"))[0] == 200
                async with asking(pod, "chat-b") as end:
                    del pod.wanted["chat-b"]
                    await pod.tell()
                    process.terminate()
                    await until_draining(pod)
                    assert await end() == 200
                assert await asyncio.to_thread(process.wait, 60) == 0
    finally:
        engine.kill()
        engine.wait()
        print((tmp_path / "log").read_text())
    keys = bucket.keys("log/conversations/chat-b/")
    assert sum(len(bucket.get(key).splitlines()) for key in keys) == 2


async def test_a_sidecar_that_was_restarted_needs_nobody(bucket: Bucket, tmp_path: Path) -> None:
    """The set is in the pod's volume, and what is loaded is not fetched again."""
    port = free_port()
    engine = start_engine(port, ["--enable-lora", "--served-model-name=chat-base"])
    given = {
        "revision": "chat-base-1",
        "engine_url": f"http://127.0.0.1:{port}",
        "served_model": "chat",
        "adapters_folder": tmp_path / "adapters",
        "adapters_token_digest": digest_of(TOKEN.encode()),
        "adapters_endpoint": bucket.server.endpoint,
        "adapters_region": REGION,
        "adapters_path_style": "true",
        "pre_stop_seconds": 0,
    }
    try:
        async with aiohttp.ClientSession() as session:
            with sidecar(tmp_path / "log", **given) as (url, _):
                first = Pod(url, bucket, session, port, engine, [])
                first.want("chat-a", 8)
                await first.until(lambda _: True)
                await first.tell()
                await first.until_loaded("chat-a")
            bucket.put("chat-a/manifest.json", b"of another adapter")
            with sidecar(tmp_path / "log", **given) as (url, _):
                second = Pod(url, bucket, session, port, engine, [], None, dict(first.wanted))
                await second.until_loaded("chat-a")
                assert await second.readiness() == (200, "ok")
                assert (await second.ask("chat-a"))[0] == 200
    finally:
        engine.kill()
        engine.wait()
