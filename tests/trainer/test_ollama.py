"""What Ollama makes of our GGUF file and Modelfile when it is started as its pod starts it.

Needs a real ollama: on PATH, where OLLAMA says, or in the cache, into which `make test-ollama`
builds one; skipped elsewhere.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from deploy.native.binaries import find_binary
from tests.ports import free_port
from tests.trainer.gguf_models import export, make_model, tokenizer_of
from tests.unit.manifests import engine_of, variables
from tunesmith_api.templating import Prompt
from tunesmith_trainer.data.prompting import Prompting
from tunesmith_trainer.modelfile import build_modelfile, write

OLLAMA = os.environ.get("OLLAMA") or shutil.which("ollama") or find_binary("ollama")
NAME = "support"
PROMPT = Prompt.model_validate(
    {
        "system": "Answer.\nFROM now on.",
        "template": "Question: {{ prompt }}",
        "examples": [{"prompt": "Who?\nYou?", "response": 'A "model"'}],
    }
)

needs_ollama = pytest.mark.skipif(not OLLAMA, reason="no ollama on PATH, OLLAMA not set")
pytestmark = needs_ollama


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifact Ollama of a small model with random weights."""
    folder = make_model(tmp_path_factory.mktemp("model"))
    write(build_modelfile(tokenizer_of(folder), PROMPT), folder, export(folder).name)
    return folder


@pytest.fixture(scope="module")
def ollama(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Run the container's command; the client may ask once it does."""
    part = engine_of({"type": "Ollama", "args": ["PARAMETER seed 7"]})
    home, port = tmp_path_factory.mktemp("home"), free_port()
    link = home / "model.gguf"
    link.symlink_to(next(model.glob("*.gguf")))
    environment = variables(part) | {
        "HOME": str(home),
        "OLLAMA_HOST": f"127.0.0.1:{port}",
        "OLLAMA_MODELS": str(home / "models"),
        "PATH": f"{Path(str(OLLAMA)).parent}:{os.environ['PATH']}",
        "TUNESMITH_GGUF": str(link),
    }
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(part["command"], env=environment, stdout=log, stderr=log)
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=200)
    try:
        assert wait(client, process) == [404, 200], (home / "log").read_text()[-3000:]
        yield client
    finally:
        process.terminate()
        process.wait(200)


def wait(client: httpx.Client, process: subprocess.Popen[bytes]) -> list[int]:
    """Give what the readiness path said by turns until the model has its name."""
    said: list[int] = []
    for _ in range(4000):
        try:
            code = client.get(f"/v1/models/{NAME}").status_code
        except httpx.TransportError:
            code = 0
        if code and said[-1:] != [code]:
            said.append(code)
        if code == 200 or process.poll() is not None:
            break
        time.sleep(0.05)
    return said


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


@pytest.mark.parametrize(
    "messages",
    [
        pytest.param([user("Why is the sky blue?")], id="a question"),
        pytest.param(
            [user("Why?"), {"role": "assistant", "content": "So."}, user("And then?")],
            id="a conversation",
        ),
        pytest.param(
            [{"role": "system", "content": "Be short."}, user("Why?")], id="a system message"
        ),
    ],
)
def test_the_model_is_asked_as_it_was_trained(
    ollama: httpx.Client, model: Path, messages: list[dict[str, Any]]
) -> None:
    body = {"model": NAME, "messages": messages, "max_tokens": 4, "temperature": 0}
    answer = ollama.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    tokenizer = tokenizer_of(model)
    around = Prompting(PROMPT).around(messages)
    asked = tokenizer.apply_chat_template(around, add_generation_prompt=True, return_dict=False)
    assert answer.json()["usage"]["prompt_tokens"] == len(asked)


def test_further_lines_count_and_the_last_one_wins(ollama: httpx.Client, model: Path) -> None:
    told = ollama.post("/api/show", json={"model": NAME}).json()
    assert "seed" in told["parameters"]
    assert told["template"] == build_modelfile(tokenizer_of(model), PROMPT).template
