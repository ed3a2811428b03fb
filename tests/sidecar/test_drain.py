"""The whole program as a process of its own: SIGTERM under load loses no request."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.sidecar.conftest import CHAT, chat, eventually, listening
from tests.sidecar.standin import Standin, events
from tests.trainer.conftest import REGION, ROOT_KEYS, Bucket, free_port
from tunesmith_sidecar.main import main
from tunesmith_sidecar.settings import PREFIX

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def sidecar(log: Path, **given: object) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run ``python -m tunesmith_sidecar``."""
    port = free_port()
    settings = {"revision": "7", "host": "127.0.0.1", "port": port} | given
    variables = {PREFIX + name.upper(): str(value) for name, value in settings.items()}
    keys = dict(zip(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), ROOT_KEYS, strict=True))
    environment = os.environ | keys | variables | {"PYTHONPATH": str(ROOT / "operator")}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "tunesmith_sidecar"], env=environment, stderr=output
        )
    try:
        yield f"http://127.0.0.1:{port}", process
    finally:
        process.kill()
        process.wait()


async def until_ready(session: aiohttp.ClientSession, url: str) -> None:
    async with asyncio.timeout(120):
        while True:
            with suppress(aiohttp.ClientError):
                async with session.get(url + "/readyz") as answer:
                    if answer.status == 200:
                        return
            await asyncio.sleep(0.05)


class Load:
    """Clients behind a router: they ask as long as the pod was ready at the last look."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session, self._url = session, url
        self.is_routed = True
        self.sent = self.whole = 0
        self.problems: list[str] = []
        self.closes = 0

    async def router(self) -> None:
        while self.is_routed:
            async with self._session.get(self._url + "/readyz") as answer:
                self.is_routed = answer.status == 200
            await asyncio.sleep(0.05)

    async def client(self, body: dict[str, Any]) -> None:
        while self.is_routed:
            self.sent += 1
            try:
                async with self._session.post(self._url + CHAT, json=body) as answer:
                    data = await answer.read()
                    self.closes += answer.headers.get("Connection") == "close"
                    is_whole = not body.get("stream") or data == b"".join(events(8))
                    self.whole += answer.status == 200 and is_whole
            except aiohttp.ClientError as error:
                self.problems.append(repr(error))


async def running_when_drained(session: aiohttp.ClientSession, url: str, engine: Standin) -> int:
    """Wait as the engine's preStop hook does; give how many requests the engine has then."""
    async with session.get(url + "/drained") as answer:
        assert answer.status == 200
        return engine.running


async def test_sigterm_under_load_loses_no_request(tmp_path: Path, bucket: Bucket) -> None:
    engine, log = Standin(), tmp_path / "log"
    s3 = {"log_uri": bucket.uri("logs/"), "log_endpoint": bucket.server.endpoint}
    s3 |= {"log_region": REGION, "log_path_style": True}
    async with listening(engine.build()) as upstream, aiohttp.ClientSession() as session:
        # As in a cluster, where routers have five seconds to notice.
        given = {"engine_url": upstream, "pre_stop_seconds": 5, "drain_timeout_seconds": 60}
        with sidecar(log, **given, **s3) as (url, process):
            await until_ready(session, url)
            load = Load(session, url)
            bodies = [chat(delay=0.02), chat(stream=True, tokens=8, pause=0.8)]
            clients = [asyncio.create_task(load.client(bodies[n % 2])) for n in range(16)]
            router = asyncio.create_task(load.router())
            hook = asyncio.create_task(running_when_drained(session, url, engine))
            await eventually(lambda: load.whole > 30 and engine.running >= 8)
            process.send_signal(signal.SIGTERM)
            began = time.monotonic()
            await asyncio.gather(router, *clients)
            # The engine is told to end only now: nobody needs it any more.
            assert await hook == 0
            assert await asyncio.to_thread(process.wait, 60) == 0
            took = time.monotonic() - began
    assert load.problems == []
    assert load.whole == load.sent
    # Streams of 6.4 s were in progress, longer than the pre-stop time, and still came whole.
    assert took > 5
    assert load.closes > 0
    assert engine.cancelled == 0
    rows = [line for key in bucket.keys("logs/") for line in bucket.get(key).splitlines()]
    assert len(rows) == load.whole
    # Logs are JSON and hold nothing that was said.
    said = [json.loads(line)["event"] for line in log.read_text().splitlines()]
    assert said == ["serving", "draining", "drained"]


async def test_what_never_ends_is_cut_off_at_the_limit(tmp_path: Path) -> None:
    engine = Standin()
    async with listening(engine.build()) as upstream, aiohttp.ClientSession() as session:
        given = {"engine_url": upstream, "pre_stop_seconds": 0, "drain_timeout_seconds": 0.3}
        with sidecar(tmp_path / "log", **given) as (url, process):
            await until_ready(session, url)
            asking = asyncio.create_task(session.post(url + CHAT, json=chat(held=True)))
            await eventually(lambda: engine.running == 1)
            process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(process.wait, 60) == 0
            await eventually(lambda: engine.cancelled == 1)
            with suppress(aiohttp.ClientError):
                await asking


def test_wrong_settings_end_the_program_with_a_message(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for arguments, message in (
        (["--engine-url", "nowhere"], "TUNESMITH_SIDECAR_ENGINE_URL"),
        (["--revision", "7", "--api-key-file", str(tmp_path / "none")], "api_key_file"),
    ):
        monkeypatch.setattr(sys, "argv", ["tunesmith-sidecar", *arguments])
        with pytest.raises(SystemExit, match=message):
            main()
