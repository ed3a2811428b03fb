"""Which models can be written as GGUF, and what llama.cpp must know of each to compute the same.

Names and keys are those of llama.cpp's own converter (conversion/llama.py, conversion/qwen.py).
A model is refused rather than written as something that computes slightly different.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from gguf import MODEL_ARCH, GGUFWriter, RopeScalingType
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tunesmith_api.run import UserErrorReason
from tunesmith_trainer.outcome import UserError

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Family:
    """A kind of model."""

    arch: MODEL_ARCH
    is_interleaved: bool = False
    """Whether llama.cpp turns neighbouring rows of a head by the rotary angle. transformers turns
    row i with row i + size/2, so the rows of queries and keys have to be put in another order."""


FAMILIES: Final = {
    "LlamaForCausalLM": Family(MODEL_ARCH.LLAMA, is_interleaved=True),
    # To llama.cpp a Mistral is a Llama.
    "MistralForCausalLM": Family(MODEL_ARCH.LLAMA, is_interleaved=True),
    "Qwen2ForCausalLM": Family(MODEL_ARCH.QWEN2),
    "Qwen3ForCausalLM": Family(MODEL_ARCH.QWEN3),
}


class Rope(BaseModel):
    """Rotary position embedding, as configurations spell it."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    rope_type: str = "default"
    rope_theta: float = 10000.0
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 8192


class Hyperparameters(BaseModel):
    """What counts of a config.json. Parsed once; anything missing is an error here."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    architectures: tuple[str, ...] = Field(min_length=1)
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope: Rope
    head_dim: int
    hidden_act: str = "silu"
    sliding_window: int | None = None
    use_sliding_window: bool = True

    @property
    def family(self) -> Family:
        """The family; only after :func:`check_family`."""
        return FAMILIES[self.architectures[0]]


def read_hyperparameters(directory: Path) -> Hyperparameters:
    """Read and check a model's config.json.

    Raises UserError InvalidRun for a model that cannot be written as GGUF, ModelInvalid where the
    configuration lacks what every such model has.
    """
    import orjson

    content = orjson.loads((directory / "config.json").read_bytes())
    check_family(content)
    try:
        settings = Hyperparameters.model_validate(_filled(content))
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(
            UserErrorReason.MODEL_INVALID,
            f"config.json of the base model: {'.'.join(map(str, first['loc']))}: {first['msg']}.",
        ) from error
    _check_computation(settings)
    return settings


def check_family(content: dict[str, Any]) -> None:
    """Raise UserError InvalidRun for a model of a family that is not in FAMILIES."""
    names = content.get("architectures") or ["a model without architectures in its config.json"]
    if names[0] not in FAMILIES:
        raise refusal(f"{names[0]} cannot be written; {', '.join(FAMILIES)} can")


def refusal(why: str) -> UserError:
    """Give the error that says why there can be no GGUF, and what to change."""
    return UserError(
        UserErrorReason.INVALID_RUN,
        f"output.artifacts asks for GGUF: {why}. Choose another base model, or leave GGUF out.",
    )


def _filled(content: dict[str, Any]) -> dict[str, Any]:
    """Add what older configurations leave to be derived, as transformers derives it."""
    heads, hidden = content.get("num_attention_heads"), content.get("hidden_size")
    # Before its version 5, transformers kept the base beside, and the scaling in its own object.
    rope = {"rope_theta": content["rope_theta"]} if content.get("rope_theta") else {}
    rope |= content.get("rope_scaling") or {}
    rope |= content.get("rope_parameters") or {}
    if "type" in rope:
        rope.setdefault("rope_type", rope["type"])
    derived: dict[str, Any] = {"rope": rope}
    if content.get("num_key_value_heads") is None:
        derived["num_key_value_heads"] = heads
    if content.get("head_dim") is None and heads and hidden:
        derived["head_dim"] = hidden // heads
    return content | derived


def _check_computation(settings: Hyperparameters) -> None:
    if settings.rope.rope_type not in {"default", "linear", "llama3"}:
        raise refusal(
            f"rotary embeddings of type {settings.rope.rope_type} cannot be written; default, "
            "linear and llama3 can"
        )
    if settings.hidden_act != "silu":
        raise refusal(f"llama.cpp computes this family with silu, not {settings.hidden_act}")
    window = settings.sliding_window if settings.use_sliding_window else None
    if window is not None and window < settings.max_position_embeddings:
        raise refusal(f"llama.cpp knows no sliding window ({window} tokens) for this family")


def add_hyperparameters(writer: GGUFWriter, settings: Hyperparameters) -> None:
    """Add the keys that make llama.cpp compute what the configuration says."""
    rope = settings.rope
    writer.add_block_count(settings.num_hidden_layers)
    writer.add_context_length(settings.max_position_embeddings)
    writer.add_embedding_length(settings.hidden_size)
    writer.add_feed_forward_length(settings.intermediate_size)
    writer.add_head_count(settings.num_attention_heads)
    writer.add_head_count_kv(settings.num_key_value_heads)
    writer.add_key_length(settings.head_dim)
    writer.add_value_length(settings.head_dim)
    writer.add_rope_dimension_count(settings.head_dim)
    writer.add_rope_freq_base(rope.rope_theta)
    writer.add_layer_norm_rms_eps(settings.rms_norm_eps)
    writer.add_vocab_size(settings.vocab_size)
    if rope.rope_type == "linear":
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope.factor)


def arranged(settings: Hyperparameters, name: str, values: Floats) -> Floats:
    """Give a tensor as llama.cpp wants it; `name` is GGUF's, `values` are as in transformers.

    Of queries and keys, float32[heads * size, …], the two halves of each head are interleaved:
    x0 x1 … y0 y1 … becomes x0 y0 x1 y1 …
    """
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
