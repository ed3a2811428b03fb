"""The same numbers in llama.cpp's order, and the keys that make it compute the same with them.

Names and keys are those of its own converter. Called by `file`. Pure but for the writer given.
"""

import numpy as np
from gguf import GGUFWriter, RopeScalingType
from numpy.typing import NDArray

from tunesmith_trainer.gguf.configuration import Hyperparameters

Floats = NDArray[np.float32]
_CONV1D = frozenset({"attn_qkv", "attn_output", "ffn_up", "ffn_down"})


def add_hyperparameters(writer: GGUFWriter, settings: Hyperparameters) -> None:
    """Add the keys that make llama.cpp compute what the configuration says."""
    family = settings.family
    writer.add_block_count(settings.num_hidden_layers)
    writer.add_context_length(settings.max_position_embeddings)
    writer.add_embedding_length(settings.hidden_size)
    writer.add_feed_forward_length(settings.intermediate_size)
    writer.add_head_count(settings.num_attention_heads)
    writer.add_head_count_kv(settings.num_key_value_heads)
    writer.add_key_length(settings.head_dim)
    writer.add_value_length(settings.head_dim)
    writer.add_vocab_size(settings.vocab_size)
    if not family.is_rotary:
        writer.add_layer_norm_eps(settings.norm_eps)
        return
    writer.add_layer_norm_rms_eps(settings.norm_eps)
    writer.add_rope_dimension_count(settings.head_dim)
    writer.add_rope_freq_base(settings.rope.rope_theta)
    if settings.rope.rope_type == "linear":
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(settings.rope.factor)
    if family.full_attention_every and settings.sliding_window:
        writer.add_sliding_window(settings.sliding_window)
    if settings.attn_logit_softcapping and settings.final_logit_softcapping:
        writer.add_attn_logit_softcapping(settings.attn_logit_softcapping)
        writer.add_final_logit_softcapping(settings.final_logit_softcapping)


def arranged_shape(settings: Hyperparameters, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Give the shape that :func:`arranged` makes of `shape`."""
    return shape[::-1] if _is_transposed(settings, name, shape) else shape


def arranged(settings: Hyperparameters, name: str, values: Floats) -> Floats:
    """Give a tensor as llama.cpp wants it; `name` is GGUF's, `values` are as in transformers.

    Of queries and keys of a Llama, float32[heads * size, …], the two halves of each head are
    interleaved: x0 x1 … y0 y1 … becomes x0 y0 x1 y1 …
    """
    if _is_transposed(settings, name, values.shape):
        return values.T
    if settings.family.norms_add_one and name.endswith("_norm.weight"):
        return values + 1
    heads = {"attn_q": settings.num_attention_heads, "attn_k": settings.num_key_value_heads}
    part = name.split(".")[-2]
    if not settings.family.is_interleaved or part not in heads:
        return values
    halves = values.reshape(heads[part], 2, -1, *values.shape[1:])
    return halves.swapaxes(1, 2).reshape(values.shape)


def rope_factors(settings: Hyperparameters) -> Floats | None:
    """Give what Llama 3.1 divides each rotary frequency by, float32[size/2]; None for others.

    Source: transformers' `_compute_llama3_parameters`. Low frequencies are divided by `factor`,
    high ones stay, those between go from one to the other.
    """
    rope = settings.rope
    if rope.rope_type != "llama3":
        return None
    exponents = np.arange(0, settings.head_dim, 2, dtype=np.float32) / settings.head_dim
    wavelengths = 2 * np.pi * rope.rope_theta**exponents
    turns = rope.original_max_position_embeddings / wavelengths
    span = rope.high_freq_factor - rope.low_freq_factor
    smooth = np.clip((turns - rope.low_freq_factor) / span, 0.0, 1.0)
    return (1 / ((1 - smooth) / rope.factor + smooth)).astype(np.float32)


def _is_transposed(settings: Hyperparameters, name: str, shape: tuple[int, ...]) -> bool:
    return settings.family.is_transposed and len(shape) == 2 and name.split(".")[-2] in _CONV1D
