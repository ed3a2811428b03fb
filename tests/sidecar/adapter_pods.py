"""A stand-in engine that takes adapters, and a real sidecar before it as a program of its own."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from tests.sidecar.conftest import CHAT, TOKEN
from tests.sidecar.test_fetch import put_model
from tests.trainer.conftest import Bucket, free_port
from tunesmith_api.adapters import (
    ADAPTERS_PATH,
    AdapterPhase,
    AdaptersReport,
    WantedAdapter,
    WantedAdapters,
)

ROOT = Path(__file__).resolve().parents[2]
ENGINE = ROOT / "deploy/standin/engine/engine.py"
OPERATOR = {"Authorization": f"Bearer {TOKEN}"}
QUESTION = {"model": "chat", "messages": [{"role": "user", "content": "Hi"}]}


def put_adapter(bucket: Bucket, prefix: str, rank: int, base: str) -> str:
    """Store an adapter; gives the digest of its manifest."""
    config = json.dumps({"r": rank, "base_model_name_or_path": base}).encode()
    files = {"adapter_config.json": config, "adapter_model.safetensors": os.urandom(4096)}
    return put_model(bucket, prefix, files)


@dataclass
class Pod:
    """A pod's containers as processes, and what an operator and a client say to them."""

    url: str
    bucket: Bucket
    session: aiohttp.ClientSession
    engine_port: int
    engine: subprocess.Popen[bytes]
    options: list[str]
    sidecar: subprocess.Popen[bytes] | None = None
    wanted: dict[str, WantedAdapter] = field(default_factory=dict)

    def want(
        self, name: str, rank: int, *, is_required: bool = True, base: str = "hf://org/base"
    ) -> None:
        """Store an adapter of that rank and want it under that name."""
        digest = put_adapter(self.bucket, f"{name}/", rank, base)
        self.wanted[name] = WantedAdapter(
            revision=name,
            uri=self.bucket.uri(f"{name}/"),
            digest=digest,
            port=free_port(),
            is_required=is_required,
        )

    async def in_flight(self, name: str) -> float:
        """Give how many requests an adapter has in progress."""
        async with self.session.get(self.url + "/metrics") as answer:
            page = await answer.text()
        return sum(
            sample.value
            for family in text_string_to_metric_families(page)
            for sample in family.samples
            if sample.name == "tunesmith_serving_in_flight" and sample.labels["revision"] == name
        )

    async def tell(self) -> AdaptersReport:
        body = WantedAdapters(adapters=tuple(self.wanted.values())).model_dump_json(by_alias=True)
        async with self.session.put(
            self.url + ADAPTERS_PATH, data=body, headers=OPERATOR
        ) as answer:
            assert answer.status == 200, await answer.text()
            return AdaptersReport.model_validate_json(await answer.read())

    async def report(self) -> dict[str, tuple[AdapterPhase, str]]:
        async with self.session.get(self.url + ADAPTERS_PATH, headers=OPERATOR) as answer:
            report = AdaptersReport.model_validate_json(await answer.read())
        return {held.revision: (held.phase, held.message) for held in report.held}

    async def until(self, holds: Callable[[dict[str, Any]], bool], seconds: float = 200) -> None:
        said: dict[str, Any] = {}
        for _ in range(int(seconds / 0.1)):
            with suppress(aiohttp.ClientError):
                said = await self.report()
                if holds(said):
                    return
            await asyncio.sleep(0.1)
        raise AssertionError(f"it never happened: {said}")

    async def until_loaded(self, *names: str) -> None:
        loaded = (AdapterPhase.LOADED, "")
        await self.until(lambda said: all(said.get(name) == loaded for name in names))

    async def readiness(self, name: str = "") -> tuple[int, str]:
        url = f"http://127.0.0.1:{self.wanted[name].port}" if name else self.url
        async with self.session.get(url + "/readyz") as answer:
            return answer.status, await answer.text()

    async def ask(self, name: str, body: Any = QUESTION, path: str = CHAT) -> tuple[int, Any]:
        url = f"http://127.0.0.1:{self.wanted[name].port}{path}"
        async with self.session.post(url, json=body) as answer:
            return answer.status, await answer.json()

    def start_engine(self) -> None:
        self.engine = start_engine(self.engine_port, self.options)

    def kill_engine(self) -> None:
        self.engine.kill()
        self.engine.wait()


def start_engine(port: int, options: list[str]) -> subprocess.Popen[bytes]:
    variables = os.environ | {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True", "BAD_RANK": "13"}
    command = [sys.executable, str(ENGINE), "serve", "base", f"--port={port}", *options]
    return subprocess.Popen(command, env=variables, stdout=subprocess.DEVNULL)


async def eventually(holds: Callable[[], Awaitable[object]]) -> None:
    end = time.monotonic() + 120
    while not await holds():
        assert time.monotonic() < end, "it never happened"
        await asyncio.sleep(0.05)


@asynccontextmanager
async def asking(pod: Pod, name: str) -> AsyncIterator[Callable[[], Awaitable[int]]]:
    """Have a question in progress for as long as wanted; gives what ends it, and says its code."""
    go_on, port = asyncio.Event(), pod.wanted[name].port

    async def body() -> AsyncIterator[bytes]:
        text = json.dumps(QUESTION).encode()
        yield text[:5]
        await go_on.wait()
        yield text[5:]

    async def ask() -> int:
        url = f"http://127.0.0.1:{port}{CHAT}"
        headers = {"Content-Type": "application/json"}
        async with pod.session.post(url, data=body(), headers=headers) as answer:
            await answer.read()
            return answer.status

    async def end() -> int:
        go_on.set()
        return await task

    task = asyncio.create_task(ask())
    try:
        await eventually(lambda: pod.in_flight(name))
        yield end
    finally:
        task.cancel()


async def until_draining(pod: Pod) -> None:
    """Wait until SIGTERM was taken: nothing is ready any more, or no port is open."""

    async def is_draining() -> bool:
        try:
            return (await pod.readiness())[1] == "draining"
        except aiohttp.ClientError:
            return True

    await eventually(is_draining)
