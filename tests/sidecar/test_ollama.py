"""The sidecar before a real Ollama, set up as the operator sets up its pod.

What a stand-in cannot show: that another program's answers are counted and passed on, that nobody
sees or asks its further models, and that it is drained before it ends.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest

from tests.sidecar.conftest import CHAT
from tests.sidecar.test_drain import sidecar, until_ready
from tests.trainer.test_ollama import NAME, model, needs_ollama, ollama, user  # noqa: F401
from tests.unit.manifests import container, pod_of, variables
from tunesmith_sidecar.settings import PREFIX

pytestmark = [needs_ollama, pytest.mark.timeout(240)]

QUESTION = {"messages": [user("Why is the sky blue?")], "max_tokens": 4, "temperature": 0}
# Of the pod, not of the engine: they name its volumes and addresses.
_PLACES = ("HOST", "PORT", "MODEL_DIGEST", "MODEL_DIGEST_FILE", "ANALYSIS_TOKEN_DIGEST")


@pytest.fixture
async def url(ollama: httpx.Client, tmp_path: Path) -> AsyncIterator[str]:  # noqa: F811
    """The address of a sidecar that has the settings of the pod's."""
    told = variables(container(pod_of({"type": "Ollama"}), "sidecar"))
    given = {
        name.removeprefix(PREFIX).lower(): value
        for name, value in told.items()
        if name.startswith(PREFIX) and name.removeprefix(PREFIX) not in _PLACES
    }
    given |= {"engine_url": str(ollama.base_url), "pre_stop_seconds": "0"}
    with sidecar(tmp_path / "log", **given) as (address, _):
        async with aiohttp.ClientSession() as session:
            await until_ready(session, address)
        yield address


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as opened:
        yield opened


async def counted(session: aiohttp.ClientSession, url: str, name: str) -> float:
    async with session.get(url + "/metrics") as answer:
        lines = (await answer.text()).splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name + "{"))


async def ask(
    session: aiohttp.ClientSession, url: str, path: str = CHAT, **body: Any
) -> tuple[int, Any]:
    async with session.post(url + path, json=body) as answer:
        return answer.status, await answer.json()


async def test_an_answer_comes_through_and_is_counted(
    url: str, session: aiohttp.ClientSession
) -> None:
    for named in ({}, {"model": NAME}):
        status, said = await ask(session, url, **QUESTION, **named)
        assert (status, said["model"]) == (200, NAME)
        assert said["usage"]["completion_tokens"] == 4
    assert await counted(session, url, "tunesmith_serving_requests_total") == 2
    assert await counted(session, url, "tunesmith_serving_tokens_per_second_count") == 2


async def test_a_stream_ends_properly_and_has_a_first_token(
    url: str, session: aiohttp.ClientSession
) -> None:
    async with session.post(url + CHAT, json=QUESTION | {"stream": True}) as answer:
        assert answer.status == 200
        data = (await answer.read()).decode()
    chunks = [line.removeprefix("data: ") for line in data.splitlines() if line]
    assert chunks[-1] == "[DONE]"
    assert all(json.loads(chunk)["object"] == "chat.completion.chunk" for chunk in chunks[:-1])
    assert await counted(session, url, "tunesmith_serving_time_to_first_token_seconds_count") == 1


async def test_predict_asks_it_too(url: str, session: aiohttp.ClientSession) -> None:
    status, said = await ask(session, url, "/api/v1/predict", query="Why?")
    assert status == 200
    assert isinstance(said["response"], str)


async def test_nobody_sees_or_asks_its_further_models(
    url: str,
    session: aiohttp.ClientSession,
    ollama: httpx.Client,  # noqa: F811
) -> None:
    async with session.get(str(ollama.base_url.join("/v1/models"))) as answer:
        names = {card["id"].split(":")[0] for card in (await answer.json())["data"]}
    assert names == {NAME, "tunesmith-first"}, "otherwise there is nothing to hide"
    async with session.get(url + "/v1/models") as answer:
        assert [card["id"] for card in (await answer.json())["data"]] == [NAME]
    status, said = await ask(session, url, **QUESTION, model="tunesmith-first")
    assert (status, said["error"]["code"]) == (404, "model_not_found")
    async with session.post(url + "/api/pull", json={"model": "other"}) as answer:
        assert answer.status == 404, "Ollama's own paths are not for clients"


async def test_what_it_refuses_is_the_clients_mistake(
    url: str, session: aiohttp.ClientSession
) -> None:
    status, _ = await ask(session, url, messages="not a list")
    assert status == 400
    assert await counted(session, url, "tunesmith_serving_errors_total") == 0
