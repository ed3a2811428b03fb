"""What can be written as GGUF: the tokenizer in full; what cannot is refused before training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from tests.trainer.conftest import Bucket, jsonl, pairs
from tests.trainer.gguf_models import (
    DIGITS,
    GGUF_ONLY,
    LLAMA3_POSITIONS,
    LLAMA3_WORDS,
    QWEN_WORDS,
    byte_level,
    change_config,
    export,
    make_model,
    make_tokenizer,
    metadata,
    split,
    tokenizer_of,
    words_of,
)
from tunesmith_api.result import UserErrorReason
from tunesmith_api.run import TrainingRun
from tunesmith_trainer.gguf.configuration import read_hyperparameters
from tunesmith_trainer.gguf.file import check_gguf
from tunesmith_trainer.gguf.vocabulary import Vocabulary
from tunesmith_trainer.outcome import UserError
from tunesmith_trainer.prepare import prepare
from tunesmith_trainer.progress import Progress
from tunesmith_trainer.stopping import StopSignal
from tunesmith_trainer.tiny import write_tiny


@pytest.mark.parametrize(
    ("splitting", "name"),
    [
        pytest.param(words_of(byte_level(regex=True)), "gpt-2", id="GPT-2"),
        pytest.param(words_of(DIGITS, byte_level(regex=True)), "smollm", id="SmolLM2"),
        pytest.param(
            words_of(split(LLAMA3_WORDS), byte_level(regex=False)), "llama-bpe", id="Llama 3"
        ),
        pytest.param(words_of(split(QWEN_WORDS), byte_level(regex=False)), "qwen2", id="Qwen2"),
    ],
)
def test_the_tokenizer_is_in_the_file(tmp_path: Path, splitting: Any, name: str) -> None:
    source = make_model(tmp_path / "m", vocab_size=512)
    tokenizer = make_tokenizer(splitting)
    found = metadata(export(source, "F16", tokenizer))
    assert found["tokenizer.ggml.model"] == "gpt2"
    assert found["tokenizer.ggml.pre"] == name
    tokens, types = found["tokenizer.ggml.tokens"], found["tokenizer.ggml.token_type"]
    assert len(tokens) == len(types) == found["llama.vocab_size"] == 512
    vocabulary = tokenizer.get_vocab()
    assert all(tokens[number] == text for text, number in vocabulary.items())
    assert types[:4] == [3, 3, 3, 1]
    assert (types[vocabulary["<tool>"]], types[511], tokens[511]) == (4, 5, "[PAD511]")
    merged = {merge.replace(" ", "") for merge in found["tokenizer.ggml.merges"]}
    assert len(merged) > 100
    assert merged <= set(tokens)
    assert found["tokenizer.ggml.bos_token_id"] == found["tokenizer.ggml.eos_token_id"] == 0
    # Answers end with a token of the template, not with the end of the text.
    assert found["tokenizer.ggml.eot_token_id"] == vocabulary["<|im_end|>"]
    assert found["tokenizer.ggml.add_bos_token"] is False
    assert found["tokenizer.chat_template"] == tokenizer.chat_template


@pytest.mark.parametrize(
    ("tokenizer", "word"),
    [
        pytest.param(
            lambda: make_tokenizer(byte_level(regex=True), byte_fallback=True),
            "SentencePiece",
            id="SentencePiece",
        ),
        pytest.param(
            lambda: make_tokenizer(words_of(split(r"\w+"), byte_level(regex=False))),
            "smollm",
            id="an unknown expression",
        ),
        pytest.param(
            lambda: make_tokenizer(byte_level(regex=True, space=True)),
            "splits text",
            id="a space before the text",
        ),
    ],
)
def test_a_tokenizer_that_llama_cpp_lacks_is_refused(
    tokenizer: Callable[[], Any], word: str
) -> None:
    with pytest.raises(UserError) as error:
        Vocabulary(tokenizer(), 512)
    assert error.value.reason == UserErrorReason.INVALID_RUN
    assert word in error.value.message
    assert "leave GGUF out" in error.value.message


def test_more_tokens_than_embeddings_are_refused() -> None:
    with pytest.raises(UserError) as error:
        Vocabulary(make_tokenizer(byte_level(regex=True)), 260)
    assert error.value.reason == UserErrorReason.MODEL_INVALID
    assert "260" in error.value.message


REFUSED = [
    pytest.param(
        {"architectures": ["FalconForCausalLM"]},
        ["FalconForCausalLM", "LlamaForCausalLM", "Qwen3ForCausalLM"],
        id="another family",
    ),
    pytest.param({"architectures": None}, ["LlamaForCausalLM"], id="no family"),
    pytest.param(
        {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, ["yarn", "llama3"], id="YaRN"
    ),
    pytest.param({"rope_scaling": {"type": "dynamic"}}, ["dynamic"], id="the older spelling"),
    pytest.param({"hidden_act": "gelu"}, ["gelu", "silu"], id="another activation"),
    pytest.param({"sliding_window": 128}, ["128", "sliding"], id="a sliding window"),
    pytest.param({"rms_norm_eps": None}, ["rms_norm_eps"], id="a missing value"),
]


@pytest.mark.parametrize(("changes", "words"), REFUSED)
def test_a_model_that_cannot_be_written_is_refused(
    tmp_path: Path,
    make_run: Callable[..., TrainingRun],
    changes: dict[str, Any],
    words: list[str],
) -> None:
    write_tiny(tmp_path / "m")
    change_config(tmp_path / "m", {"rope_parameters": None} | changes)
    tokenizer = tokenizer_of(tmp_path / "m")
    with pytest.raises(UserError) as error:
        check_gguf(make_run(output=GGUF_ONLY), tmp_path / "m", tokenizer)
    for word in words:
        assert word in error.value.message
    # Nobody who does not ask for GGUF is bothered.
    check_gguf(make_run(), tmp_path / "m", tokenizer)


def test_old_spellings_of_a_configuration_are_understood(tmp_path: Path) -> None:
    write_tiny(tmp_path / "m")
    change_config(
        tmp_path / "m",
        {"head_dim": None, "num_key_value_heads": None, "rope_parameters": None, "rope_theta": 5e5},
    )
    settings = read_hyperparameters(tmp_path / "m")
    assert (settings.head_dim, settings.num_key_value_heads) == (32, 4)
    assert (settings.rope.rope_type, settings.rope.rope_theta) == ("default", 5e5)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        pytest.param({"tie_word_embeddings": False}, "output layer", id="an output layer"),
        pytest.param({"rope_parameters": LLAMA3_POSITIONS}, "llama3", id="scaled positions"),
        pytest.param({"hidden_act": "relu"}, "gelu_pytorch_tanh", id="another activation"),
        pytest.param({"use_bidirectional_attention": True}, "before", id="looking ahead"),
    ],
)
def test_a_gemma_that_llama_cpp_lacks_is_refused(
    tmp_path: Path, changes: dict[str, Any], word: str
) -> None:
    source = make_model(tmp_path / "m", "gemma")
    change_config(source, changes)
    with pytest.raises(UserError, match=word):
        read_hyperparameters(source)


def test_the_gelu_of_the_first_gemma_is_the_approximation(tmp_path: Path) -> None:
    source = make_model(tmp_path / "m", "gemma")
    # As google/gemma-2b said it at first; transformers reads it the same way.
    change_config(source, {"hidden_act": "gelu"})
    assert AutoConfig.from_pretrained(source).hidden_act == "gelu_pytorch_tanh"
    assert read_hyperparameters(source).activation == "gelu_pytorch_tanh"


def test_prepare_refuses_before_a_gpu_is_taken(
    bucket: Bucket, make_run: Callable[..., TrainingRun], tmp_path: Path
) -> None:
    write_tiny(tmp_path / "m")
    change_config(tmp_path / "m", {"architectures": ["FalconForCausalLM"]})
    for path in (tmp_path / "m").iterdir():
        bucket.put(f"models/m/{path.name}", path.read_bytes())
    bucket.put("data/train.jsonl", jsonl(*pairs(40)))
    run = make_run(model={"uri": bucket.uri("models/m/")}, output=GGUF_ONLY)
    with pytest.raises(UserError) as error:
        prepare(run, tmp_path / "work", Progress(run.stage, run.attempt), StopSignal())
    assert error.value.reason == UserErrorReason.INVALID_RUN
    assert "FalconForCausalLM" in error.value.message
