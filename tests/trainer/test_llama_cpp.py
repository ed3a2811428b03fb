"""What llama.cpp makes of our GGUF files: the same tokens, the same probabilities.

Needs a real llama-server, on PATH or where LLAMA_SERVER says; skipped elsewhere.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.ports import free_port
from tests.trainer.gguf_models import (
    DIGITS,
    GEMMA3_POSITIONS,
    LLAMA3_POSITIONS,
    LLAMA3_WORDS,
    QWEN_WORDS,
    byte_level,
    export,
    logits,
    make_model,
    make_sentencepiece,
    make_tokenizer,
    split,
    tokenizer_of,
    words_of,
)

LLAMA_SERVER = os.environ.get("LLAMA_SERVER") or shutil.which("llama-server")


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[Path], httpx.Client]]:
    """Start llama-server on a file and wait until it is ready."""
    started: list[subprocess.Popen[bytes]] = []

    def start(path: Path) -> httpx.Client:
        port = free_port()
        options = ["--port", str(port), "--ctx-size", "512", "--threads", "1", "--jinja"]
        with (tmp_path / "llama.log").open("wb") as log:
            started.append(
                subprocess.Popen(
                    [str(LLAMA_SERVER), "--model", str(path), *options], stdout=log, stderr=log
                )
            )
        client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=200)
        for _ in range(2000):
            try:
                if client.get("/health").status_code == 200:
                    return client
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        raise RuntimeError((tmp_path / "llama.log").read_text()[-3000:])

    yield start
    for process in started:
        process.terminate()
        process.wait(200)


TEXTS = [
    "Hello, world! It's 2026; I'll pay 1,234.50 € …",
    "  two  spaces\n\n\ttab\r\n한국어 العربية 🚀🚀",
    "def f(x):\n    return x**2  # DON'T we've",
    "<|im_start|>user\nhi<|im_end|>\n<tool>",
]


@pytest.mark.skipif(not LLAMA_SERVER, reason="no llama-server on PATH, LLAMA_SERVER not set")
@pytest.mark.parametrize(
    ("family", "settings", "tokenizer"),
    [
        pytest.param("llama", {}, None, id="the built-in model's tokenizer"),
        pytest.param(
            "llama",
            {"rope_parameters": LLAMA3_POSITIONS, "tie_word_embeddings": True},
            words_of(DIGITS, byte_level(regex=True)),
            id="Llama, SmolLM2's tokenizer",
        ),
        pytest.param(
            "qwen2",
            {},
            words_of(split(QWEN_WORDS), byte_level(regex=False)),
            id="Qwen2 and its own",
        ),
        pytest.param(
            "qwen3",
            {},
            words_of(split(LLAMA3_WORDS), byte_level(regex=False)),
            id="Qwen3, Llama 3's",
        ),
        pytest.param("mistral", {"sliding_window": None}, None, id="Mistral"),
        pytest.param("gemma", {}, make_sentencepiece, id="Gemma 1"),
        pytest.param("gemma2", {"attn_logit_softcapping": 5.0}, make_sentencepiece, id="Gemma 2"),
        pytest.param(
            "gemma3_text",
            {"rope_parameters": GEMMA3_POSITIONS},
            make_sentencepiece,
            id="Gemma 3",
        ),
        pytest.param("gpt2", {}, words_of(byte_level(regex=True)), id="GPT-2 and its own"),
    ],
)
def test_llama_cpp_reads_and_answers_as_transformers_does(
    tmp_path: Path,
    serve: Callable[[Path], httpx.Client],
    family: str,
    settings: dict[str, Any],
    tokenizer: Any,
) -> None:
    source = make_model(tmp_path / "m", family, **{"vocab_size": 512} | settings)
    if tokenizer is None:
        given = tokenizer_of(source)
    else:
        given = tokenizer() if callable(tokenizer) else make_tokenizer(tokenizer)
    client = serve(export(source, "F16", given))
    for text in TEXTS:
        asked = {"content": text, "add_special": True, "parse_special": True}
        tokens = client.post("/tokenize", json=asked).json()["tokens"]
        assert tokens == given(text)["input_ids"], text
    messages = [{"role": "user", "content": "Who?"}]
    rendered = client.post("/apply-template", json={"messages": messages}).json()["prompt"]
    ours = given.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    # The server adds the first token by itself where the template does.
    assert ours.endswith(rendered)
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    tokens = given(TEXTS[2] + TEXTS[0])["input_ids"]
    scores = torch.log_softmax(logits(model, tokens), -1)
    # The longest beginning, longer than a sliding window, after which comes whole text: of half a
    # character the server says nothing, nor of an end.
    last = max(
        n
        for n in range(40, len(tokens))
        if (given.decode([int(scores[n].argmax())]) or "é").isascii()
        and int(scores[n].argmax()) not in given.all_special_ids
    )
    tokens, wanted = tokens[: last + 1], scores[last]
    ask = {"prompt": tokens, "n_predict": 1, "temperature": 0, "n_probs": 5, "cache_prompt": False}
    answer = client.post("/completion", json=ask).json()
    assert "completion_probabilities" in answer, (int(wanted.argmax()), answer)
    first = answer["completion_probabilities"][0]
    assert first["id"] == int(wanted.argmax())
    for candidate in first["top_logprobs"]:
        assert candidate["logprob"] == pytest.approx(float(wanted[candidate["id"]]), abs=0.05)
