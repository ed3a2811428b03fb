"""A model's config.json, in the words of one family or another, as what GGUF must say of it.

Called by `file`. Refuses whatever llama.cpp would compute differently; it does not ask about
most of it, but takes its own for granted.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from gguf import MODEL_ARCH
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from tunesmith_api.result import UserErrorReason
from tunesmith_trainer.gguf.families import FAMILIES, GELU_TANH, Family, family_of, refusal
from tunesmith_trainer.outcome import UserError

_SOFT_CAPPED: Final = MODEL_ARCH.GEMMA2
# llama.cpp's for layers with a sliding window, whatever the file says.
_LOCAL_ROPE_THETA: Final = 10000.0


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
    hidden_size: int = Field(validation_alias=AliasChoices("hidden_size", "n_embd"))
    intermediate_size: int
    num_hidden_layers: int = Field(validation_alias=AliasChoices("num_hidden_layers", "n_layer"))
    num_attention_heads: int = Field(validation_alias=AliasChoices("num_attention_heads", "n_head"))
    num_key_value_heads: int
    max_position_embeddings: int = Field(
        validation_alias=AliasChoices("max_position_embeddings", "n_positions")
    )
    norm_eps: float = Field(validation_alias=AliasChoices("rms_norm_eps", "layer_norm_epsilon"))
    rope: Rope
    local_rope_theta: float = _LOCAL_ROPE_THETA
    head_dim: int
    activation: str
    layer_types: tuple[str, ...]
    sliding_window: int | None = None
    use_sliding_window: bool = True
    attn_logit_softcapping: float | None = None
    final_logit_softcapping: float | None = None
    query_pre_attn_scalar: float | None = None
    tie_word_embeddings: bool = True
    use_bidirectional_attention: bool = False
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False

    @property
    def family(self) -> Family:
        """The family."""
        return FAMILIES[self.architectures[0]]


def read_hyperparameters(directory: Path) -> Hyperparameters:
    """Read and check a model's config.json.

    Raises UserError InvalidRun for a model that cannot be written as GGUF, ModelInvalid where the
    configuration lacks what every such model has.
    """
    import orjson

    content = orjson.loads((directory / "config.json").read_bytes())
    family = family_of(content)
    try:
        settings = Hyperparameters.model_validate(_filled(content, family))
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(
            UserErrorReason.MODEL_INVALID,
            f"config.json of the base model: {'.'.join(map(str, first['loc']))}: {first['msg']}.",
        ) from error
    _check_computation(settings)
    return settings


def _filled(content: dict[str, Any], family: Family) -> dict[str, Any]:
    """Add what configurations leave to be derived, as transformers derives it."""
    heads = content.get("num_attention_heads") or content.get("n_head")
    hidden = content.get("hidden_size") or content.get("n_embd")
    layers = content.get("num_hidden_layers") or content.get("n_layer")
    local = (content.get("rope_parameters") or {}).get("sliding_attention") or {}
    derived: dict[str, Any] = {
        "rope": _rope(content, family),
        "local_rope_theta": local.get("rope_theta")
        or content.get("rope_local_base_freq")
        or _LOCAL_ROPE_THETA,
        "activation": _activation(content, family),
    }
    if content.get("num_key_value_heads") is None:
        derived["num_key_value_heads"] = heads
    if content.get("head_dim") is None and heads and hidden:
        derived["head_dim"] = hidden // heads
    if content.get("intermediate_size") is None and family.is_transposed and hidden:
        derived["intermediate_size"] = content.get("n_inner") or 4 * hidden
    if not content.get("layer_types"):
        every = content.get("sliding_window_pattern") or family.full_attention_every
        derived["layer_types"] = _layer_types(range(layers or 0), every)
    # Where an option is null, transformers takes its default.
    return {key: value for key, value in content.items() if value is not None} | derived


def _activation(content: dict[str, Any], family: Family) -> str:
    names = ("hidden_activation", "hidden_act", "activation_function")
    given = next((str(content[name]) for name in names if content.get(name)), family.activation)
    # Gemma's first releases say gelu and mean its approximation, and so does transformers.
    is_first_gemma = family.arch is MODEL_ARCH.GEMMA and given == "gelu"
    return GELU_TANH if is_first_gemma else given


def _rope(content: dict[str, Any], family: Family) -> dict[str, Any]:
    # Before its version 5, transformers kept the base beside, and the scaling in its own object.
    rope = {"rope_theta": content.get("rope_theta") or family.rope_theta}
    rope |= content.get("rope_scaling") or {}
    given = content.get("rope_parameters") or {}
    rope |= given.get("full_attention") or given
    if "type" in rope:
        rope.setdefault("rope_type", rope["type"])
    return rope


def _layer_types(layers: Iterable[int], every: int) -> tuple[str, ...]:
    """Give transformers' names of each layer's attention where each `every`th is full; 0: all."""
    return tuple(
        "full_attention" if not every or (layer + 1) % every == 0 else "sliding_attention"
        for layer in layers
    )


def _check_computation(settings: Hyperparameters) -> None:
    """Refuse what llama.cpp computes in another way for this family."""
    family = settings.family
    if settings.activation != family.activation:
        raise refusal(
            f"llama.cpp computes this family with {family.activation}, not {settings.activation}"
        )
    if family.is_rotary:
        _check_positions(settings)
    if family.is_gemma:
        _check_any_gemma(settings)
    if family.full_attention_every:
        _check_later_gemma(settings)
    elif family.is_transposed:
        if not settings.scale_attn_weights or settings.scale_attn_by_inverse_layer_idx:
            raise refusal("llama.cpp scales the attention of every GPT-2 by its head size only")
    else:
        window = settings.sliding_window if settings.use_sliding_window else None
        if window is not None and window < settings.max_position_embeddings:
            raise refusal(f"llama.cpp knows no sliding window ({window} tokens) for this family")


def _check_positions(settings: Hyperparameters) -> None:
    known = {"default", "linear"}
    if not settings.family.is_gemma:
        known.add("llama3")
    if settings.rope.rope_type not in known:
        raise refusal(
            f"rotary embeddings of type {settings.rope.rope_type} cannot be written; "
            f"{', '.join(sorted(known))} can"
        )


def _check_any_gemma(settings: Hyperparameters) -> None:
    if settings.use_bidirectional_attention:
        raise refusal("llama.cpp has this family attend to what came before only")
    if not settings.tie_word_embeddings:
        raise refusal("llama.cpp takes the token embeddings of this family as its output layer")


def _check_later_gemma(settings: Hyperparameters) -> None:
    family, layers = settings.family, settings.num_hidden_layers
    if settings.layer_types != _layer_types(range(layers), family.full_attention_every):
        raise refusal(
            "llama.cpp gives a sliding window to all layers of this family but each "
            f"{family.full_attention_every}th"
        )
    if not settings.sliding_window:
        raise refusal("this family needs a sliding_window")
    if settings.local_rope_theta != _LOCAL_ROPE_THETA:
        raise refusal(
            f"llama.cpp turns layers with a sliding window by {_LOCAL_ROPE_THETA:.0f}, not "
            f"{settings.local_rope_theta:.0f}"
        )
    capped = settings.attn_logit_softcapping, settings.final_logit_softcapping
    if (all if family.arch is _SOFT_CAPPED else any)(capped) != (family.arch is _SOFT_CAPPED):
        raise refusal("llama.cpp caps the logits of Gemma 2, and of no other")
    wanted = settings.head_dim
    if layers == family.largest_layers:
        wanted = settings.hidden_size // settings.num_attention_heads
    if (settings.query_pre_attn_scalar or wanted) != wanted:
        raise refusal(
            f"llama.cpp scales attention of this family for {wanted}, not for "
            f"{settings.query_pre_attn_scalar:.0f} (query_pre_attn_scalar)"
        )
