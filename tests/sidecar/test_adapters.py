"""A pod of adapters: the whole sidecar before the stand-in of vLLM, with a real S3 server."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.sidecar.conftest import CHAT, TOKEN
from tests.sidecar.test_drain import sidecar
from tests.sidecar.test_fetch import digest_of, put_model
from tests.trainer.conftest import REGION, Bucket, free_port
from tunesmith_api.adapters import (
    ADAPTERS_PATH,
    AdapterPhase,
    AdaptersReport,
    WantedAdapter,
    WantedAdapters,
)
from tunesmith_sidecar.adapters.fitting import misfit

# Each test starts two or three programs, on machines that do more than that.
pytestmark = pytest.mark.timeout(600)

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


@pytest.fixture
def options() -> list[str]:
    return ["--served-model-name=chat-base", "--enable-lora", "--max-lora-rank=64"]


@pytest.fixture
def base() -> dict[str, str]:
    """What the sidecar is told of the engine's model."""
    return {"adapters_base_model": "hf://org/base"}


@pytest.fixture
def running(
    bucket: Bucket, tmp_path: Path, options: list[str], base: dict[str, str]
) -> Iterator[tuple[str, int, Any, Any]]:
    port = free_port()
    engine = start_engine(port, options)
    given = {
        "revision": "chat-base-1",
        "engine_url": f"http://127.0.0.1:{port}",
        "served_model": "chat",
        "adapters_folder": tmp_path / "adapters",
        "adapters_token_digest": digest_of(TOKEN.encode()),
        **base,
        "adapters_endpoint": bucket.server.endpoint,
        "adapters_region": REGION,
        "adapters_path_style": "true",
        "pre_stop_seconds": 0,
    }
    try:
        with sidecar(tmp_path / "log", **given) as (url, process):
            yield url, port, engine, process
    finally:
        print((tmp_path / "log").read_text())


@pytest.fixture
async def pod(
    running: tuple[str, int, Any, Any], bucket: Bucket, options: list[str]
) -> AsyncIterator[Pod]:
    url, port, engine, process = running
    async with aiohttp.ClientSession() as session:
        made = Pod(url, bucket, session, port, engine, options, process)
        await made.until(lambda _: True)
        yield made
        made.kill_engine()


@pytest.mark.parametrize(
    ("trained", "serves", "fits"),
    [
        pytest.param("hf://Org/Base/", "hf://org/base", True, id="the same on the Hub"),
        pytest.param("org/base", "hf://org/base", True, id="the same as peft names it"),
        pytest.param("gpt2", "hf://org/base", False, id="another without an owner"),
        pytest.param("org/other", "hf://org/base", False, id="another on the Hub"),
        pytest.param("s3://b/base", "s3://b/base/", True, id="the same in S3"),
        pytest.param("s3://b/Base/", "s3://b/base/", False, id="another in S3"),
        pytest.param("s3://b/base/", "hf://org/base", True, id="a copy elsewhere, nobody can tell"),
        pytest.param("/workspace/base", "hf://org/base", True, id="a folder, nobody can tell"),
        pytest.param("", "hf://org/base", True, id="it names none"),
        pytest.param("org/other", "", True, id="the pod was told none"),
        pytest.param(None, "hf://org/base", True, id="null: it is the engine that judges"),
    ],
)
def test_an_adapter_fits_its_base_model_only(
    tmp_path: Path, trained: str | None, serves: str, fits: bool
) -> None:
    config = {"r": 4, "base_model_name_or_path": trained}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    assert (misfit(tmp_path, serves) == "") is fits


@pytest.mark.parametrize(
    ("rows", "fits"),
    [
        pytest.param({"model.embed_tokens": [32000]}, False, id="rows of two layers"),
        pytest.param([32000], False, id="rows of the embeddings"),
        pytest.param(None, True, id="none"),
    ],
)
def test_an_adapter_with_new_tokens_is_refused(tmp_path: Path, rows: object, fits: bool) -> None:
    config = {"r": 4, "base_model_name_or_path": "org/base", "trainable_token_indices": rows}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    said = misfit(tmp_path, "hf://org/base")
    assert (said == "") is fits
    assert fits or "with spec.delivery Merged" in said


async def test_each_adapter_answers_on_its_own_port_and_counts_for_itself(pod: Pod) -> None:
    assert await pod.readiness() == (503, "the operator has not said which adapters are served")
    pod.want("chat-a", 8)
    await pod.tell()
    await pod.until_loaded("chat-a")
    assert await pod.readiness() == (200, "ok")
    pod.want("chat-b", 4, is_required=False)
    await pod.tell()
    await pod.until_loaded("chat-a", "chat-b")
    for name, rank in (("chat-a", 8), ("chat-b", 4)):
        assert await pod.readiness(name) == (200, "ok")
        for body in (QUESTION, {"messages": QUESTION["messages"]}):
            status, said = await pod.ask(name, body)
            assert (status, said["model"]) == (200, name)
            assert said["choices"][0]["message"]["content"] == f"I am an adapter of rank {rank}."
    status, said = await pod.ask("chat-a", {"query": "Hi"}, "/api/v1/predict")
    assert (status, said["response"]) == (200, "I am an adapter of rank 8.")
    async with pod.session.get(pod.url + "/metrics") as answer:
        page = await answer.text()
    counted = {
        frozenset(sample.labels.items()): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == "tunesmith_serving_requests_total"
    }
    for name in ("chat-a", "chat-b"):
        labels = {"revision": name, "route": "chat", "code": "200"}
        assert counted[frozenset(labels.items())] == 2
    assert page.count("# TYPE tunesmith_serving_requests_total counter") == 1


async def test_no_client_chooses_an_adapter_by_its_name(pod: Pod) -> None:
    pod.want("chat-a", 8)
    pod.want("chat-b", 4)
    await pod.tell()
    await pod.until_loaded("chat-a", "chat-b")
    for model in ("chat-b", "chat-base", "gpt"):
        status, said = await pod.ask("chat-a", QUESTION | {"model": model})
        assert (status, said["error"]["code"]) == (404, "model_not_found")
    async with pod.session.get(f"http://127.0.0.1:{pod.wanted['chat-a'].port}/v1/models") as answer:
        listed = await answer.json()
    assert [card["id"] for card in listed["data"]] == ["chat"]


async def test_an_adapter_that_is_not_wanted_any_more_leaves_after_its_last_request(
    pod: Pod,
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


async def test_a_bad_adapter_is_refused_and_the_other_serves_on(pod: Pod) -> None:
    pod.want("chat-a", 8)
    await pod.tell()
    await pod.until_loaded("chat-a")
    pod.want("chat-b", 4, is_required=False)
    wrong = pod.wanted["chat-b"].model_copy(update={"digest": "sha256:" + "0" * 64})
    pod.wanted["chat-b"] = wrong
    pod.want("chat-c", 128, is_required=False)
    pod.want("chat-d", 4, is_required=False, base="hf://org/other")
    await pod.tell()
    refused = AdapterPhase.REFUSED
    await pod.until(lambda said: {said[f"chat-{n}"][0] for n in "bcd"} == {refused})
    # What was found is said all the time, not only between one try and the next.
    for _ in range(20):
        assert {(await pod.report())[f"chat-{n}"][0] for n in "bcd"} == {refused}
        await asyncio.sleep(0.1)
    said = await pod.report()
    assert "wanted is sha256:000" in said["chat-b"][1]
    assert "greater than max_lora_rank 64" in said["chat-c"][1]
    assert "was trained for hf://org/other, the pods serve hf://org/base" in said["chat-d"][1]
    assert await pod.readiness() == (200, "ok")
    assert (await pod.ask("chat-a"))[0] == 200


async def test_what_s3_refuses_is_said_and_tried_again(pod: Pod) -> None:
    pod.want("chat-a", 8)
    elsewhere = pod.bucket.uri("nothing/")
    pod.wanted["chat-a"] = pod.wanted["chat-a"].model_copy(update={"uri": elsewhere})
    await pod.tell()
    await pod.until(lambda said: said["chat-a"][0] is AdapterPhase.FAILED)
    assert "ModelNotFound" in (await pod.report())["chat-a"][1]
    assert (await pod.readiness())[0] == 503
    config = json.dumps({"r": 8}).encode()
    digest = put_model(pod.bucket, "nothing/", {"adapter_config.json": config})
    assert digest != pod.wanted["chat-a"].digest
    await pod.until(lambda said: said["chat-a"][0] is AdapterPhase.REFUSED)


async def test_an_engine_that_was_restarted_gets_its_adapters_back(pod: Pod) -> None:
    pod.want("chat-a", 8)
    await pod.tell()
    await pod.until_loaded("chat-a")
    pod.kill_engine()
    await pod.until(lambda said: said["chat-a"][0] is AdapterPhase.LOADING)
    assert (await pod.readiness())[0] == 503
    assert (await pod.readiness("chat-a"))[0] == 503
    pod.start_engine()
    await pod.until_loaded("chat-a")
    assert await pod.readiness() == (200, "ok")
    assert (await pod.ask("chat-a"))[0] == 200


async def test_sigterm_lets_every_adapter_answer_to_the_end(pod: Pod) -> None:
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
    assert await asyncio.to_thread(pod.sidecar.wait, 10) == 0


async def eventually(holds: Callable[[], Awaitable[object]]) -> None:
    for _ in range(600):
        if await holds():
            return
        await asyncio.sleep(0.05)
    raise AssertionError("it never happened")


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


async def test_an_adapter_that_is_wanted_again_while_it_leaves_is_not_said_to_be_there(
    pod: Pod,
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


async def until_draining(pod: Pod) -> None:
    """Wait until SIGTERM was taken: nothing is ready any more, or no port is open."""

    async def is_draining() -> bool:
        try:
            return (await pod.readiness())[1] == "draining"
        except aiohttp.ClientError:
            return True

    await eventually(is_draining)


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
                assert await asyncio.to_thread(process.wait, 30) == 0
    finally:
        engine.kill()
        engine.wait()
        print((tmp_path / "log").read_text())
    keys = bucket.keys("log/conversations/chat-b/")
    assert sum(len(bucket.get(key).splitlines()) for key in keys) == 2


async def test_only_the_operator_says_what_is_served(pod: Pod) -> None:
    tokens = ("", "Bearer wrong", f"Basic {TOKEN}")
    for method, token in itertools.product(("GET", "PUT"), tokens):
        async with pod.session.request(
            method, pod.url + ADAPTERS_PATH, headers={"Authorization": token}, data=b"{}"
        ) as answer:
            assert answer.status == 401
    async with pod.session.put(pod.url + ADAPTERS_PATH, headers=OPERATOR, data=b"[]") as answer:
        assert answer.status == 400


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
