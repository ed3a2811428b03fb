"""A pod of adapters: the whole sidecar before the stand-in of vLLM, with a real S3 server."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.sidecar.adapter_pods import (
    OPERATOR,
    QUESTION,
    Pod,
    start_engine,
)
from tests.sidecar.conftest import TOKEN
from tests.sidecar.test_drain import sidecar
from tests.sidecar.test_fetch import digest_of, put_model
from tests.trainer.conftest import REGION, Bucket, free_port
from tunesmith_api.adapters import (
    ADAPTERS_PATH,
    AdapterPhase,
)
from tunesmith_sidecar.adapters.fitting import misfit

# Each test starts two or three programs, on machines that do more than that.
pytestmark = pytest.mark.timeout(600)


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


async def test_only_the_operator_says_what_is_served(pod: Pod) -> None:
    tokens = ("", "Bearer wrong", f"Basic {TOKEN}")
    for method, token in itertools.product(("GET", "PUT"), tokens):
        async with pod.session.request(
            method, pod.url + ADAPTERS_PATH, headers={"Authorization": token}, data=b"{}"
        ) as answer:
            assert answer.status == 401
    async with pod.session.put(pod.url + ADAPTERS_PATH, headers=OPERATOR, data=b"[]") as answer:
        assert answer.status == 400
