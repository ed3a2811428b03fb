"""``builtin://tiny``: a Llama model of about 330,000 parameters, made on the spot for trials.

Weights are drawn with numpy from a fixed seed and written file by file, so the model is the same
on every machine and with every version of torch, and takes a few milliseconds. One token a byte:
it can read any text and knows nothing. Called by ``sources``.
"""

import json
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

REVISION: Final = "tiny-1"
CONTEXT_LENGTH: Final = 512
_SEED = 20_240_617
_HIDDEN, _INTERMEDIATE, _LAYERS, _HEADS, _KV_HEADS = 128, 256, 2, 4, 2
_SPREAD = 0.02
_SPECIAL = ("<|pad|>", "<|bos|>", "<|im_start|>", "<|im_end|>")
_PAD, _BOS, _EOS = 0, 1, 3
_VOCABULARY = len(_SPECIAL) + 256

CHAT_TEMPLATE: Final = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def write_tiny(directory: Path) -> None:
    """Write config, weights, tokenizer and chat template into ``directory``, which is made."""
    from safetensors.numpy import save_file

    directory.mkdir(parents=True, exist_ok=True)
    save_file(_weights(), directory / "model.safetensors", metadata={"format": "pt"})
    _write_json(directory / "config.json", _config())
    _write_json(
        directory / "generation_config.json",
        {"bos_token_id": _BOS, "eos_token_id": _EOS, "pad_token_id": _PAD},
    )
    _write_tokenizer(directory)


def _config() -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": _VOCABULARY,
        "hidden_size": _HIDDEN,
        "intermediate_size": _INTERMEDIATE,
        "num_hidden_layers": _LAYERS,
        "num_attention_heads": _HEADS,
        "num_key_value_heads": _KV_HEADS,
        "head_dim": _HIDDEN // _HEADS,
        "hidden_act": "silu",
        "max_position_embeddings": CONTEXT_LENGTH,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "tie_word_embeddings": True,
        "attention_bias": False,
        "mlp_bias": False,
        "attention_dropout": 0.0,
        "initializer_range": _SPREAD,
        "pad_token_id": _PAD,
        "bos_token_id": _BOS,
        "eos_token_id": _EOS,
        "dtype": "float32",
    }


def _weights() -> dict[str, NDArray[np.float32]]:
    random = np.random.Generator(np.random.Philox(_SEED))

    def normal(*shape: int) -> NDArray[np.float32]:
        return (random.standard_normal(shape) * _SPREAD).astype(np.float32)

    kv = _HIDDEN // _HEADS * _KV_HEADS
    weights = {"model.embed_tokens.weight": normal(_VOCABULARY, _HIDDEN)}
    for layer in range(_LAYERS):
        prefix = f"model.layers.{layer}"
        weights |= {
            f"{prefix}.self_attn.q_proj.weight": normal(_HIDDEN, _HIDDEN),
            f"{prefix}.self_attn.k_proj.weight": normal(kv, _HIDDEN),
            f"{prefix}.self_attn.v_proj.weight": normal(kv, _HIDDEN),
            f"{prefix}.self_attn.o_proj.weight": normal(_HIDDEN, _HIDDEN),
            f"{prefix}.mlp.gate_proj.weight": normal(_INTERMEDIATE, _HIDDEN),
            f"{prefix}.mlp.up_proj.weight": normal(_INTERMEDIATE, _HIDDEN),
            f"{prefix}.mlp.down_proj.weight": normal(_HIDDEN, _INTERMEDIATE),
            f"{prefix}.input_layernorm.weight": np.ones(_HIDDEN, np.float32),
            f"{prefix}.post_attention_layernorm.weight": np.ones(_HIDDEN, np.float32),
        }
    weights["model.norm.weight"] = np.ones(_HIDDEN, np.float32)
    return weights


def _write_tokenizer(directory: Path) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {text: number for number, text in enumerate((*_SPECIAL, *letters))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in _SPECIAL])
    tokenizer.save(str(directory / "tokenizer.json"))
    pad, bos, _, eos = _SPECIAL
    _write_json(
        directory / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": CONTEXT_LENGTH,
            "pad_token": pad,
            "bos_token": bos,
            "eos_token": eos,
            "clean_up_tokenization_spaces": False,
            "chat_template": CHAT_TEMPLATE,
        },
    )


def _write_json(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
