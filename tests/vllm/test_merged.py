"""A merged model in a real vLLM, behind the sidecar with the settings of its pod."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.cli.conftest import FinishedRun
from tests.sidecar.test_drain import sidecar
from tests.unit.manifests import container, pod_of, variables
from tests.vllm.program import (
    ON_A_CPU,
    Answer,
    Program,
    artifact,
    events,
    needs_vllm,
    program,
    question,
)
from tunesmith_sidecar.settings import PREFIX

pytestmark = [needs_vllm, pytest.mark.timeout(1800)]
ENGINE = {"type": "VLLM", "args": ON_A_CPU}
# Of the pod, not of the engine: they name its volumes and addresses.
_RUNNING = "vllm:num_requests_running{"
_PLACES = ("HOST", "PORT", "MODEL_DIGEST", "MODEL_DIGEST_FILE", "ANALYSIS_TOKEN_DIGEST")


@pytest.fixture(scope="module")
def engine(run: FinishedRun, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    part = container(pod_of(ENGINE), "engine")
    with program(part, str(artifact(run, "merged")), tmp_path_factory.mktemp("home")) as started:
        yield started


@pytest.fixture(scope="module")
def client(engine: Program, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    told = variables(container(pod_of(ENGINE), "sidecar"))
    given = {
        name.removeprefix(PREFIX).lower(): text
        for name, text in told.items()
        if name.startswith(PREFIX) and name.removeprefix(PREFIX) not in _PLACES
    }
    given |= {"engine_url": engine.url, "pre_stop_seconds": "0"}
    with sidecar(tmp_path_factory.mktemp("sidecar") / "log", **given) as (url, _):
        asking = httpx.Client(base_url=url, timeout=200)
        end = time.monotonic() + 200
        while not is_ready(asking):
            assert time.monotonic() < end
            time.sleep(0.1)
        yield asking


def is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


def counted(client: httpx.Client, name: str) -> float:
    lines = client.get("/metrics").text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name + "{"))


def test_it_says_what_transformers_says(client: httpx.Client, answer: Answer) -> None:
    for named in ({}, {"model": "support"}):
        said = client.post("/v1/chat/completions", json=question(**named)).json()
        assert said["choices"][0]["message"]["content"] == answer.text
        assert said["model"] == "support"
    assert [card["id"] for card in client.get("/v1/models").json()["data"]] == ["support"]


def test_a_stream_ends_properly_and_its_tokens_are_counted(
    client: httpx.Client, answer: Answer
) -> None:
    names = ("prompt_tokens_total", "completion_tokens_total", "time_to_first_token_seconds_count")
    before = [counted(client, f"tunesmith_serving_{name}") for name in names]
    said = client.post("/v1/chat/completions", json=question(stream=True))
    *parts, end = events(said.text)
    text = [choice["delta"].get("content", "") for part in parts for choice in part["choices"]]
    assert ("".join(text), end) == (answer.text, "[DONE]")
    usage = parts[-1]["usage"]
    after = [counted(client, f"tunesmith_serving_{name}") for name in names]
    risen = [new - old for new, old in zip(after, before, strict=True)]
    assert risen == [usage["prompt_tokens"], usage["completion_tokens"], 1]


def test_a_prediction_has_a_confidence(client: httpx.Client, answer: Answer) -> None:
    parameters = {"max_tokens": 24, "temperature": 0}
    body = {"query": "say c", "parameters": parameters}
    said = client.post("/api/v1/predict", json=body).json()
    assert said["response"] == answer.text
    assert said["confidence"] == pytest.approx(answer.confidence, rel=1e-3)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/load_lora_adapter"),
        ("POST", "/v1/unload_lora_adapter"),
        ("POST", "/adapters"),
        ("POST", "/scale_elastic_ep"),
        ("POST", "/invocations"),
        ("POST", "/tokenize"),
        ("GET", "/load"),
        ("GET", "/version"),
    ],
)
def test_its_other_paths_are_closed(
    engine: Program, client: httpx.Client, method: str, path: str
) -> None:
    assert client.request(method, path, json={}).status_code in {404, 405}
    # Some are there only with variables of the engine's.
    here = httpx.request(method, engine.url + path, json={}, timeout=60).status_code
    assert here not in {401, 403}


def test_wrong_requests_are_answered_by_the_engine(client: httpx.Client) -> None:
    said = client.post("/v1/chat/completions", json=question(max_tokens=100_000))
    assert said.status_code == 400
    assert "100000" in said.text


def test_sigterm_lets_it_answer_what_is_in_progress(engine: Program) -> None:
    """The last one: it ends the engine."""
    body = question(model="support", max_tokens=200, ignore_eos=True, stream=True)

    def ask() -> str:
        return httpx.post(engine.url + "/v1/chat/completions", json=body, timeout=200).text

    with ThreadPoolExecutor() as threads:
        asked = threads.submit(ask)
        end = time.monotonic() + 100
        while load(engine) != 1:
            assert time.monotonic() < end
            time.sleep(0.005)
        engine.process.send_signal(signal.SIGTERM)
        *parts, last = events(asked.result())
    assert (last, parts[-1]["usage"]["completion_tokens"]) == ("[DONE]", 200)
    assert engine.process.wait(200) == 0


def load(engine: Program) -> float:
    """Give how many requests are in progress."""
    lines = httpx.get(engine.url + "/metrics", timeout=60).text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(_RUNNING))
