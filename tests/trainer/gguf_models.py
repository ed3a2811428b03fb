"""Small random models and tokenizers of each kind, and what their GGUF files say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from tunesmith_api.dataset import Dataset
from tunesmith_api.output import GgufQuantization
from tunesmith_trainer.data.templates import load_tokenizer
from tunesmith_trainer.gguf.file import file_name, write_gguf
from tunesmith_trainer.tiny import write_tiny

GGUF_ONLY = {"uri": "s3://any/", "artifacts": ["GGUF"]}
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
# What a GPT-2 has no words for.
NOT_OF_GPT2 = ("num_key_value_heads", "head_dim", "intermediate_size")
SMALL_GEMMA = {"query_pre_attn_scalar": 16, "sliding_window": 32, "num_hidden_layers": 6}
GEMMA3_POSITIONS = {
    "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}
LLAMA3_POSITIONS = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def make_model(folder: Path, family: str = "llama", **settings: Any) -> Path:
    """Write a model with random weights and the tiny model's tokenizer."""
    torch.manual_seed(7)
    write_tiny(folder)
    (folder / "model.safetensors").unlink()
    given = SMALL | (SMALL_GEMMA if family in ("gemma2", "gemma3_text") else {}) | settings
    if family == "gpt2":
        given = {key: value for key, value in given.items() if key not in NOT_OF_GPT2}
    config = AutoConfig.for_model(family, **given)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 1:  # or norms are all one and biases all zero
                weight.copy_(torch.randn_like(weight) * 0.3 + _mean_of(family, name))
    model.save_pretrained(folder)
    return folder


def _mean_of(family: str, name: str) -> float:
    if family.startswith("gemma"):  # its norms multiply by 1 + weight
        return 0.0
    return float("norm" in name or (".ln_" in name and name.endswith("weight")))


def tokenizer_of(folder: Path) -> Any:
    """Give the tokenizer as the stages load it, with the model's own template."""
    return load_tokenizer(folder, Dataset.model_validate({"train": {"uri": "s3://any/x.jsonl"}}))


def export(source: Path, quantization: str = "F16", tokenizer: Any = None) -> Path:
    given = tokenizer or tokenizer_of(source)
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


def words_of(*steps: Any) -> Any:
    return steps[0] if len(steps) == 1 else pre_tokenizers.Sequence(list(steps))


def split(expression: str) -> Any:
    return pre_tokenizers.Split(Regex(expression), "isolated")


def byte_level(*, regex: bool, space: bool = False) -> Any:
    return pre_tokenizers.ByteLevel(add_prefix_space=space, use_regex=regex)


LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_WORDS = LLAMA3_WORDS.replace("{1,3}", "")
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


GEMMA_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>"
    "{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n{{ m['content'] | trim }}"
    "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


def make_sentencepiece(template: str = GEMMA_TEMPLATE, **model: Any) -> Any:
    """Give a tokenizer like Gemma's: SentencePiece's BPE as transformers converts it."""
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Replace(" ", "▁")
    trained.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    trainer = trainers.BpeTrainer(vocab_size=200, show_progress=False)
    trained.train_from_iterator(Path(__file__).read_text().splitlines(), trainer)
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
    pieces = sorted(trained.get_vocab(), key=trained.get_vocab().__getitem__)
    pieces = [*pieces, "▁▁"]
    tokens = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    merges = [
        (piece[:cut], piece[cut:])
        for piece in pieces
        for cut in range(1, len(piece))
        if piece[:cut] in vocabulary and piece[cut:] in vocabulary
    ]
    options = {"byte_fallback": True, "fuse_unk": True, "unk_token": "<unk>"} | model
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, **options))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in special])
    tokenizer.add_tokens(
        [
            AddedToken("▁▁", special=False, normalized=False),
            AddedToken("<tool>", special=False),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing("<bos> $A", None, [("<bos>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        pad_token="<pad>",
        chat_template=template,
    )


def change_config(folder: Path, changes: dict[str, Any]) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
