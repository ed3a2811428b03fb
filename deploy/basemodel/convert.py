"""Writes a Llama model in GGUF as a folder that transformers loads: safetensors and tokenizer.

    python -m deploy.basemodel.convert MODEL.gguf FOLDER

Needs gguf and numpy, no torch: dequantizing is arithmetic, safetensors a JSON header before raw
bytes. Weights are written as bfloat16, the type in which the model was published; its rounding
(2^-9) is far below that of the 4-bit source (about 2^-4 of a block's range).
"""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize
from numpy.typing import NDArray

Array = NDArray[Any]
CONTROL_TOKEN = 3
BYTE_LEVEL = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": True,
    "use_regex": True,
}

# GGUF's names of what a layer holds, and transformers'.
LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
TOP = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}


def main() -> None:
    """Convert the file named first into the folder named second."""
    reader, folder = GGUFReader(sys.argv[1]), Path(sys.argv[2])
    fields = {name: field.contents() for name, field in reader.fields.items()}
    config = model_config(fields)
    tensors = {}
    for tensor in reader.tensors:
        name = parameter_name(tensor.name)
        values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if ".attn_q." in tensor.name:
            values = unpermute(values, config["num_attention_heads"])
        elif ".attn_k." in tensor.name:
            values = unpermute(values, config["num_key_value_heads"])
        tensors[name] = to_bfloat16(values)
    config["tie_word_embeddings"] = "lm_head.weight" not in tensors
    write_safetensors(folder / "model.safetensors", tensors)
    write_json(folder / "config.json", config)
    special = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    write_json(folder / "generation_config.json", special)
    write_json(folder / "tokenizer.json", tokenizer(fields))
    write_json(folder / "tokenizer_config.json", tokenizer_config(fields))
    (folder / "chat_template.jinja").write_text(fields["tokenizer.chat_template"])
    print(f"{len(tensors)} tensors, {sum(t.size for t in tensors.values()) / 1e6:.0f} M parameters")


def parameter_name(name: str) -> str:
    """Return transformers' name of a GGUF tensor. Raises ``KeyError`` for an unknown one."""
    if name in TOP:
        return TOP[name]
    _, layer, part, kind = name.split(".")
    return f"model.layers.{layer}.{LAYER[part]}.{kind}"


def unpermute(weight: Array, heads: int) -> Array:
    """Undo the row order that GGUF gives to rotary embeddings.

    ``weight`` is [heads * size, inputs]. GGUF holds the two halves of each head interleaved
    (x0 y0 x1 y1 …), transformers one after the other (x0 x1 … y0 y1 …).
    """
    rows, inputs = weight.shape
    interleaved = weight.reshape(heads, rows // heads // 2, 2, inputs)
    return interleaved.swapaxes(1, 2).reshape(rows, inputs)


def to_bfloat16(values: Array) -> Array:
    """Round float32 to bfloat16, to nearest with ties to even, as 16-bit integers."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def write_safetensors(path: Path, tensors: dict[str, Array]) -> None:
    """Write bfloat16 tensors: header length, JSON header, data in the header's order."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, values in tensors.items():
        end = offset + values.nbytes
        shape = list(values.shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    # Data begins on a multiple of eight, as the format asks.
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for values in tensors.values():
            file.write(values.tobytes())


def model_config(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the model's ``config.json``."""

    def llama(key: str) -> Any:
        return fields[f"llama.{key}"]

    heads, hidden = int(llama("attention.head_count")), int(llama("embedding_length"))
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "bfloat16",
        "vocab_size": llama("vocab_size"),
        "hidden_size": hidden,
        "intermediate_size": llama("feed_forward_length"),
        "num_hidden_layers": llama("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": llama("attention.head_count_kv"),
        "head_dim": hidden // heads,
        "max_position_embeddings": llama("context_length"),
        # The file holds these as float32, with its noise in the last digits.
        "rms_norm_eps": float(f"{llama('attention.layer_norm_rms_epsilon'):.6g}"),
        "rope_theta": float(f"{llama('rope.freq_base'):.6g}"),
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": float(f"{llama('rope.freq_base'):.6g}"),
        },
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "initializer_range": 0.041666666666666664,
        "bos_token_id": fields["tokenizer.ggml.bos_token_id"],
        "eos_token_id": fields["tokenizer.ggml.eos_token_id"],
        "pad_token_id": fields["tokenizer.ggml.padding_token_id"],
    }


def tokenizer(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the ``tokenizer.json`` of a byte-level BPE.

    Raises ``ValueError`` for a pre-tokenizer other than SmolLM's, which splits digits one by one.
    """
    if fields["tokenizer.ggml.pre"] != "smollm":
        raise ValueError(f"unknown pre-tokenizer {fields['tokenizer.ggml.pre']}")
    tokens, kinds = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    flags = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False}
    special = [
        {"id": number, "content": token, "special": True, **flags}
        for number, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
        if kind == CONTROL_TOKEN
    ]
    digits = {"type": "Digits", "individual_digits": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [digits, BYTE_LEVEL]},
        "post_processor": None,
        "decoder": BYTE_LEVEL,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": {token: number for number, token in enumerate(tokens)},
            "merges": [merge.split(" ") for merge in fields["tokenizer.ggml.merges"]],
        },
    }


def tokenizer_config(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the ``tokenizer_config.json``."""
    tokens = fields["tokenizer.ggml.tokens"]
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": fields["llama.context_length"],
        "clean_up_tokenization_spaces": False,
        "bos_token": tokens[fields["tokenizer.ggml.bos_token_id"]],
        "eos_token": tokens[fields["tokenizer.ggml.eos_token_id"]],
        "pad_token": tokens[fields["tokenizer.ggml.padding_token_id"]],
        "unk_token": tokens[fields["tokenizer.ggml.unknown_token_id"]],
    }


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write one JSON file."""
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
