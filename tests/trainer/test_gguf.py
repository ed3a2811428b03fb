"""GGUF: the same weights, the same text, the same answers, and a clear word where that cannot be.

What llama.cpp makes of the file is asked of a real llama-server where there is one: on PATH, or
where LLAMA_SERVER says.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from gguf import GGUFReader
from gguf.quants import dequantize
from safetensors.torch import load_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from tests.trainer.conftest import Bucket, free_port, jsonl, pairs
from tests.trainer.trials import Trial, echo_rows, tiny_tokenizer
from tunesmith_api.evaluation import GgufQuantization
from tunesmith_api.run import Outcome, TrainingRun, UserErrorReason
from tunesmith_api.training import Template
from tunesmith_trainer.batches import Batch
from tunesmith_trainer.data.templates import load_tokenizer
from tunesmith_trainer.export import check_gguf_parity, logits_of, parity_batch
from tunesmith_trainer.gguf import file
from tunesmith_trainer.gguf.families import arranged, read_hyperparameters, rope_factors
from tunesmith_trainer.gguf.file import check_gguf, file_name, write_gguf
from tunesmith_trainer.gguf.vocabulary import Vocabulary
from tunesmith_trainer.objective import SupervisedLoss
from tunesmith_trainer.outcome import Infrastructure, Interrupted, UserError
from tunesmith_trainer.prepare import prepare
from tunesmith_trainer.progress import Progress
from tunesmith_trainer.stopping import StopSignal
from tunesmith_trainer.storage.manifest import read_manifest
from tunesmith_trainer.tiny import write_tiny

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
SMALL = {
    "vocab_size": 260,
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    # As large as a trained model's, so that positions and attention count.
    "initializer_range": 0.2,
    "bos_token_id": 1,
    "eos_token_id": 3,
    "pad_token_id": 0,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
FAMILIES = [
    pytest.param("llama", {"tie_word_embeddings": True}, id="Llama, tied"),
    pytest.param("llama", {"tie_word_embeddings": False, "attention_bias": True}, id="Llama, bias"),
    pytest.param("llama", {"rope_parameters": LLAMA3}, id="Llama 3.1's positions"),
    pytest.param("llama", {"rope_parameters": LINEAR}, id="linear positions"),
    pytest.param("mistral", {"sliding_window": None}, id="Mistral"),
    pytest.param("qwen2", {}, id="Qwen2"),
    pytest.param("qwen3", {"head_dim": 32}, id="Qwen3"),
]


def make_model(folder: Path, family: str = "llama", **settings: Any) -> Path:
    """Write a model with random weights and the tiny model's tokenizer."""
    torch.manual_seed(7)
    write_tiny(folder)
    (folder / "model.safetensors").unlink()
    config = AutoConfig.for_model(family, **SMALL | settings)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 1:  # or norms are all one and biases all zero
                weight.copy_(torch.randn_like(weight) * 0.3 + ("norm" in name))
    model.save_pretrained(folder)
    return folder


def export(source: Path, quantization: str = "F16", tokenizer: Any = None) -> Path:
    given = tokenizer or load_tokenizer(source, Template.CHAT_TEMPLATE)
    kind = GgufQuantization(quantization)
    target = source / file_name(kind)
    write_gguf(source, given, target, kind, name="support", on_tensor=lambda: None)
    return target


def metadata(path: Path) -> dict[str, Any]:
    return {key: field.contents() for key, field in GGUFReader(path).fields.items()}


def logits(model: Any, tokens: list[int]) -> torch.Tensor:
    with torch.no_grad():
        found = model.eval()(torch.tensor([tokens])).logits[0]
    return found - found.mean(dim=-1, keepdim=True)


# Weights


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
    arch = "llama" if family == "mistral" else family
    for key in ("attention.key_length", "attention.value_length", "rope.dimension_count"):
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
    source = make_model(tmp_path / "m", rope_parameters=LLAMA3)
    model = AutoModelForCausalLM.from_pretrained(source)
    plain = 1 / 500000.0 ** (np.arange(0, 16, 2) / 16)
    factors = rope_factors(read_hyperparameters(source))
    assert factors is not None
    assert plain / factors == pytest.approx(model.model.rotary_emb.inv_freq.numpy(), rel=1e-5)
    assert {"rope_freqs.weight"} < {t.name for t in GGUFReader(export(source)).tensors}


def test_memory_holds_one_tensor_at_a_time(tmp_path: Path) -> None:
    source = make_model(tmp_path / "m", num_hidden_layers=12, intermediate_size=4096)
    largest, total = 4 * 96 * 4096, (source / "model.safetensors").stat().st_size
    tokenizer = load_tokenizer(source, Template.CHAT_TEMPLATE)
    tracemalloc.start()
    try:
        export(source, "Q8_0", tokenizer)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3 * largest < total / 6


# Text


def words_of(*steps: Any) -> Any:
    return steps[0] if len(steps) == 1 else pre_tokenizers.Sequence(list(steps))


def split(expression: str) -> Any:
    return pre_tokenizers.Split(Regex(expression), "isolated")


def byte_level(*, regex: bool, space: bool = False) -> Any:
    return pre_tokenizers.ByteLevel(add_prefix_space=space, use_regex=regex)


LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN = LLAMA_3.replace("{1,3}", "")
DIGITS = pre_tokenizers.Digits(individual_digits=True)


def make_tokenizer(splitting: Any, **model: Any) -> Any:
    """Train a byte-level BPE on this file, with ChatML's tokens."""
    tokenizer = Tokenizer(models.BPE(**model))
    tokenizer.pre_tokenizer = splitting
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(t, special=True) for t in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")]
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(Path(__file__).read_text().splitlines(), trainer)
    tokenizer.add_tokens([AddedToken("<tool>", special=False)])
    template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        chat_template=template,
    )


@pytest.mark.parametrize(
    ("splitting", "name"),
    [
        pytest.param(words_of(byte_level(regex=True)), "gpt-2", id="GPT-2"),
        pytest.param(words_of(DIGITS, byte_level(regex=True)), "smollm", id="SmolLM2"),
        pytest.param(words_of(split(LLAMA_3), byte_level(regex=False)), "llama-bpe", id="Llama 3"),
        pytest.param(words_of(split(QWEN), byte_level(regex=False)), "qwen2", id="Qwen2"),
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


# Refusals


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
        {"architectures": ["GPT2LMHeadModel"]},
        ["GPT2LMHeadModel", "LlamaForCausalLM", "Qwen3ForCausalLM"],
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


def change_config(folder: Path, changes: dict[str, Any]) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(("changes", "words"), REFUSED)
def test_a_model_that_cannot_be_written_is_refused(
    tmp_path: Path,
    make_run: Callable[..., TrainingRun],
    changes: dict[str, Any],
    words: list[str],
) -> None:
    write_tiny(tmp_path / "m")
    change_config(tmp_path / "m", {"rope_parameters": None} | changes)
    tokenizer = load_tokenizer(tmp_path / "m", Template.CHAT_TEMPLATE)
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


GGUF_ONLY = {"uri": "s3://any/", "artifacts": ["GGUF"]}


def test_prepare_refuses_before_a_gpu_is_taken(
    bucket: Bucket, make_run: Callable[..., TrainingRun], tmp_path: Path
) -> None:
    write_tiny(tmp_path / "m")
    change_config(tmp_path / "m", {"architectures": ["GPT2LMHeadModel"]})
    for path in (tmp_path / "m").iterdir():
        bucket.put(f"models/m/{path.name}", path.read_bytes())
    bucket.put("data/train.jsonl", jsonl(*pairs(40)))
    run = make_run(model={"uri": bucket.uri("models/m/")}, output=GGUF_ONLY)
    with pytest.raises(UserError) as error:
        prepare(run, tmp_path / "work", Progress(run.stage, run.attempt), StopSignal())
    assert error.value.reason == UserErrorReason.INVALID_RUN
    assert "GPT2LMHeadModel" in error.value.message


# The train stage


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


@pytest.mark.parametrize("kind", list(GgufQuantization))
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
    tokenizer = load_tokenizer(source, Template.CHAT_TEMPLATE)
    with pytest.raises(Interrupted):
        write_gguf(
            source,
            tokenizer,
            source / "x.gguf",
            GgufQuantization.F16,
            name="x",
            on_tensor=stop.check,
        )


# llama.cpp itself

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
        client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30)
        for _ in range(300):
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
        process.wait(20)


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
            {"rope_parameters": LLAMA3, "tie_word_embeddings": True},
            words_of(DIGITS, byte_level(regex=True)),
            id="Llama, SmolLM2's tokenizer",
        ),
        pytest.param(
            "qwen2", {}, words_of(split(QWEN), byte_level(regex=False)), id="Qwen2 and its own"
        ),
        pytest.param(
            "qwen3", {}, words_of(split(LLAMA_3), byte_level(regex=False)), id="Qwen3, Llama 3's"
        ),
        pytest.param("mistral", {"sliding_window": None}, None, id="Mistral"),
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
    given = (
        make_tokenizer(tokenizer) if tokenizer else load_tokenizer(source, Template.CHAT_TEMPLATE)
    )
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
    tokens = given(TEXTS[0])["input_ids"]
    wanted = torch.log_softmax(logits(model, tokens)[-1], -1)
    ask = {"prompt": tokens, "n_predict": 1, "temperature": 0, "n_probs": 5, "cache_prompt": False}
    answer = client.post("/completion", json=ask).json()
    first = answer["completion_probabilities"][0]
    assert first["id"] == int(wanted.argmax())
    for candidate in first["top_logprobs"]:
        assert candidate["logprob"] == pytest.approx(float(wanted[candidate["id"]]), abs=0.05)
