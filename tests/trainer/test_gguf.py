"""GGUF: the same weights, in files that a run publishes or does not publish at all."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import MODEL_ARCH, GGUFReader, get_tensor_name_map
from gguf.quants import dequantize, quantize
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.trainer.conftest import Bucket
from tests.trainer.gguf_models import (
    GEMMA3_POSITIONS,
    LLAMA3_POSITIONS,
    change_config,
    export,
    logits,
    make_model,
    metadata,
    tokenizer_of,
)
from tests.trainer.trials import Trial, echo_rows, tiny_tokenizer
from tunesmith_api.output import K_QUANTS, GgufQuantization
from tunesmith_api.result import Outcome
from tunesmith_trainer.batches import Batch
from tunesmith_trainer.export import check_gguf_parity, logits_of, parity_batch
from tunesmith_trainer.gguf import file
from tunesmith_trainer.gguf.arrangement import arranged, rope_factors
from tunesmith_trainer.gguf.configuration import read_hyperparameters
from tunesmith_trainer.gguf.file import write_gguf
from tunesmith_trainer.objective import SupervisedLoss
from tunesmith_trainer.outcome import Infrastructure, Interrupted, UserError
from tunesmith_trainer.stopping import StopSignal
from tunesmith_trainer.storage.manifest import read_manifest
from tunesmith_trainer.tiny import write_tiny

LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
FAMILIES = [
    pytest.param("llama", {"tie_word_embeddings": True}, id="Llama, tied"),
    pytest.param("llama", {"tie_word_embeddings": False, "attention_bias": True}, id="Llama, bias"),
    pytest.param("llama", {"rope_parameters": LLAMA3_POSITIONS}, id="Llama 3.1's positions"),
    pytest.param("llama", {"rope_parameters": LINEAR}, id="linear positions"),
    pytest.param("mistral", {"sliding_window": None}, id="Mistral"),
    pytest.param("qwen2", {}, id="Qwen2"),
    pytest.param("qwen3", {"head_dim": 32}, id="Qwen3"),
    pytest.param("gemma", {}, id="Gemma 1"),
    pytest.param("gemma2", {"attn_logit_softcapping": 5.0}, id="Gemma 2"),
    pytest.param("gemma3_text", {"rope_parameters": GEMMA3_POSITIONS}, id="Gemma 3"),
    pytest.param("gpt2", {}, id="GPT-2"),
]


@pytest.mark.parametrize(("family", "settings"), FAMILIES)
def test_a_stranger_reads_the_model_that_was_written(
    tmp_path: Path, family: str, settings: dict[str, Any]
) -> None:
    source = make_model(tmp_path / "m", family, **settings)
    path = export(source)
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    tokens = list(range(5, 105))
    wanted = logits(model, tokens)
    batch = Batch(
        torch.tensor([tokens]), torch.arange(100), torch.zeros(100, dtype=torch.long), len(tokens)
    )
    assert check_gguf_parity(path, source, wanted, batch, GgufQuantization.F16) < 5e-3
    arch = {"mistral": "llama", "gemma3_text": "gemma3"}.get(family, family)
    positions = ["rope.dimension_count"] if family != "gpt2" else []
    for key in ("attention.key_length", "attention.value_length", *positions):
        assert metadata(path)[f"{arch}.{key}"] == settings.get("head_dim", 16)


@pytest.mark.parametrize(
    ("quantization", "step"),
    [
        # Half a step of the grid, as a share of the largest weight of a block.
        pytest.param("F16", 2**-11, id="F16"),
        pytest.param("BF16", 2**-8, id="BF16"),
        pytest.param("Q8_0", 1 / 254, id="Q8_0"),
        pytest.param("Q4_0", 1 / 8, id="Q4_0"),
    ],
)
def test_weights_are_rounded_and_not_more(tmp_path: Path, quantization: str, step: float) -> None:
    source = make_model(tmp_path / "m", tie_word_embeddings=False)
    path = export(source, quantization)
    weights = load_file(source / "model.safetensors")
    found = {t.name: t for t in GGUFReader(path).tensors}
    assert len(found) == len(weights)
    kinds = {name: tensor.tensor_type.name for name, tensor in found.items()}
    assert kinds["blk.0.attn_norm.weight"] == "F32"
    assert kinds["blk.1.ffn_down.weight"] == quantization
    assert kinds["token_embd.weight"] == kinds["output.weight"]
    assert kinds["output.weight"] == ("Q8_0" if quantization == "Q4_0" else quantization)
    for ours, theirs in {
        "blk.1.ffn_gate.weight": "model.layers.1.mlp.gate_proj.weight",
        "blk.0.attn_v.weight": "model.layers.0.self_attn.v_proj.weight",
        "output_norm.weight": "model.norm.weight",
    }.items():
        values = dequantize(found[ours].data, found[ours].tensor_type)
        wanted = weights[theirs].numpy()
        assert values.shape == wanted.shape
        largest = np.abs(wanted).max()
        assert np.abs(values - wanted).max() <= step * largest * 1.01, ours


@pytest.mark.parametrize("quantization", ["Q4_0", "Q8_0"])
def test_blocks_are_those_of_llama_cpp(tmp_path: Path, quantization: str) -> None:
    source = make_model(tmp_path / "m", tie_word_embeddings=False)
    found = {t.name: t for t in GGUFReader(export(source, quantization)).tensors}
    names = get_tensor_name_map(MODEL_ARCH.LLAMA, 2)
    compared = 0
    for key, weight in load_file(source / "model.safetensors").items():
        name = names.get_name(key, try_suffixes=(".weight",))
        assert name is not None
        values, tensor = interleaved(name, weight.numpy()), found[name]
        # gguf-py's own tests compare it with the C code that llama-quantize runs.
        assert np.array_equal(tensor.data, quantize(values, tensor.tensor_type)), name
        if tensor.tensor_type.name == quantization == "Q4_0":
            blocks = tensor.data.reshape(-1, 18)[:100]
            for block, numbers in zip(blocks, values.reshape(-1, 32), strict=False):
                assert block.tobytes() == block_of_q4_0(numbers), name
        compared += tensor.tensor_type.name == quantization
    assert compared >= 14


def interleaved(name: str, values: Any) -> Any:
    """Put the rows of queries and keys, heads of 16, into llama.cpp's order one by one."""
    if not name.endswith(("attn_q.weight", "attn_k.weight")):
        return values
    rows = [
        values[first + part + place]
        for first in range(0, len(values), 16)
        for place in range(8)
        for part in (0, 8)
    ]
    return np.stack(rows)


def block_of_q4_0(numbers: Any) -> bytes:
    """Quantize 32 numbers as ggml's quantize_row_q4_0_ref says, step by step."""
    extreme = max(numbers, key=abs)  # the first of equal ones
    scale = np.float32(extreme) / np.float32(-8)
    inverse = np.float32(1) / scale if scale else np.float32(0)
    codes = [min(15, int(number * inverse + np.float32(8.5))) for number in numbers]
    # Each byte has a number of the first half below one of the second.
    pairs = zip(codes[:16], codes[16:], strict=True)
    return np.float16(scale).tobytes() + bytes(low | high << 4 for low, high in pairs)


def test_rows_of_queries_and_keys_are_interleaved_by_head(tmp_path: Path) -> None:
    settings = read_hyperparameters(make_model(tmp_path / "m"))
    # Rows are named HEAD.HALF.PLACE as the number 100 HEAD + 10 HALF + PLACE.
    rows = [
        100 * head + 10 * half + place
        for head in range(2)
        for half in (0, 1)
        for place in (0, 1, 2, 3, 4, 5, 6, 7)
    ]
    column = np.array(rows, np.float32)[:, None]
    found = arranged(settings, "blk.0.attn_k.weight", column)[:, 0].astype(int).tolist()
    assert found[:6] == [0, 10, 1, 11, 2, 12]
    assert found[16:20] == [100, 110, 101, 111]
    assert sorted(found) == sorted(rows)
    for name in ("blk.0.attn_v.weight", "token_embd.weight", "blk.0.attn_k_norm.weight"):
        assert arranged(settings, name, column) is column


def test_scaled_frequencies_are_those_of_transformers(tmp_path: Path) -> None:
    source = make_model(tmp_path / "m", rope_parameters=LLAMA3_POSITIONS)
    model = AutoModelForCausalLM.from_pretrained(source)
    plain = 1 / 500000.0 ** (np.arange(0, 16, 2) / 16)
    factors = rope_factors(read_hyperparameters(source))
    assert factors is not None
    assert plain / factors == pytest.approx(model.model.rotary_emb.inv_freq.numpy(), rel=1e-5)
    assert {"rope_freqs.weight"} < {t.name for t in GGUFReader(export(source)).tensors}


def test_memory_holds_one_tensor_at_a_time(tmp_path: Path) -> None:
    source = make_model(tmp_path / "m", num_hidden_layers=12, intermediate_size=4096)
    largest, total = 4 * 96 * 4096, (source / "model.safetensors").stat().st_size
    tokenizer = tokenizer_of(source)
    tracemalloc.start()
    try:
        export(source, "Q8_0", tokenizer)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3 * largest < total / 6


def test_the_file_says_what_it_is(tmp_path: Path) -> None:
    found = metadata(export(make_model(tmp_path / "m"), "Q8_0"))
    assert {
        "general.architecture": "llama",
        "general.type": "model",
        "general.name": "support",
        "general.file_type": 7,
        "general.quantization_version": 2,
        "llama.block_count": 2,
        "llama.context_length": 512,
        "llama.embedding_length": 96,
        "llama.feed_forward_length": 160,
        "llama.attention.head_count": 6,
        "llama.attention.head_count_kv": 2,
        "llama.attention.key_length": 16,
        "llama.rope.dimension_count": 16,
        "llama.rope.freq_base": 10000.0,
        "tokenizer.ggml.eot_token_id": 3,
    }.items() <= found.items()
    assert found["llama.attention.layer_norm_rms_epsilon"] == pytest.approx(1e-6)


@pytest.fixture
def make_trial(bucket: Bucket, make_run: Any, tmp_path: Path) -> Callable[..., Trial]:
    def make(artifacts: list[str], **options: Any) -> Trial:
        output = {"uri": "s3://any/", "artifacts": artifacts, "gguf": options}
        return Trial(bucket, make_run, tmp_path, sections={"output": output}, rows=(8, 0, 4))

    return make


def test_a_run_publishes_the_file_with_its_digest(make_trial: Callable[..., Trial]) -> None:
    trial = make_trial(["Adapter", "Merged", "GGUF"], quantization="F16")
    result = trial.go()
    assert result.outcome is Outcome.SUCCEEDED
    assert [a.name for a in result.artifacts] == ["Adapter", "Merged", "GGUF"]
    assert trial.report().artifacts == result.artifacts
    committed = read_manifest(trial.storage, f"{trial.run_uri}gguf/")
    assert committed is not None
    assert committed.digest == result.artifacts[2].digest
    assert {f.path for f in committed.manifest.files} == {"model-F16.gguf", "README.md"}
    folder = trial.fetch("gguf")
    assert "llama-server --model model-F16.gguf" in (folder / "README.md").read_text()
    assert metadata(folder / "model-F16.gguf")["general.name"] == "demo"
    merged = AutoModelForCausalLM.from_pretrained(trial.fetch("merged"), dtype=torch.float32)
    read = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file="model-F16.gguf", dtype=torch.float32
    )
    tokens = trial.data.test.tokens[:40].tolist()
    assert torch.allclose(logits(merged, tokens), logits(read, tokens), atol=0.02)


def test_the_file_alone_can_be_asked_for(make_trial: Callable[..., Trial]) -> None:
    trial = make_trial(["GGUF"])
    assert [a.name for a in trial.go().artifacts] == ["GGUF"]
    assert trial.bucket.keys("runs/u-1/merged/") == []
    # In 8 bits, when nobody says otherwise.
    assert (trial.fetch("gguf") / "model-Q8_0.gguf").is_file()


def test_training_does_not_begin_for_a_file_that_cannot_be_made(
    make_trial: Callable[..., Trial], tmp_path: Path
) -> None:
    trial = make_trial(["GGUF"])
    write_tiny(tmp_path / "odd")
    change_config(tmp_path / "odd", {"hidden_act": "gelu"})
    for path in (tmp_path / "odd").iterdir():
        trial.bucket.put(f"models/odd/{path.name}", path.read_bytes())
    trial.sections["model"] = {"uri": trial.bucket.uri("models/odd/")}
    with pytest.raises(UserError):
        trial.go()
    assert trial.progress.snapshot().step == 0


@pytest.mark.parametrize("kind", sorted(set(GgufQuantization) - K_QUANTS))
def test_a_file_that_says_something_else_is_not_published(
    tmp_path: Path, kind: GgufQuantization, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_model(tmp_path / "m")
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    batch = parity_batch(echo_rows(4, 1, tiny_tokenizer(tmp_path / "tiny")), 0)
    expected = logits_of(SupervisedLoss(model), batch)
    path = export(source, kind.value)
    check_gguf_parity(path, source, expected, batch, kind)
    # The mistake that is easiest to make: the rows stay as transformers has them.
    monkeypatch.setattr(file, "arranged", lambda _settings, _name, values: values)
    export(source, kind.value)
    with pytest.raises(Infrastructure) as error:
        check_gguf_parity(path, source, expected, batch, kind)
    assert error.value.reason == "ExportMismatch"
    assert "weights differ by" in error.value.message


def test_writing_can_be_interrupted(tmp_path: Path) -> None:
    source = make_model(tmp_path / "m")
    stop = StopSignal()
    stop.request()
    tokenizer = tokenizer_of(source)
    with pytest.raises(Interrupted):
        write_gguf(
            source,
            tokenizer,
            source / "x.gguf",
            GgufQuantization.F16,
            name="x",
            on_tensor=stop.check,
        )


def test_of_several_chat_templates_all_are_in_the_file(tmp_path: Path) -> None:
    source = make_model(tmp_path / "m")
    config = source / "tokenizer_config.json"
    settings = json.loads(config.read_text())
    named = {"default": settings["chat_template"], "tool_use": "{{ messages }}"}
    settings["chat_template"] = [{"name": n, "template": text} for n, text in named.items()]
    config.write_text(json.dumps(settings))
    found = metadata(export(source))
    assert found["tokenizer.chat_template"] == named["default"]
    assert found["tokenizer.chat_template.tool_use"] == named["tool_use"]
