"""Which models can be written as GGUF, and in what llama.cpp's idea of each differs.

Names are those of llama.cpp's own converter (conversion/llama.py, qwen.py, gemma.py, gpt2.py). A
model is refused rather than written as something that computes slightly different.
"""

from dataclasses import dataclass
from typing import Any, Final

from gguf import MODEL_ARCH

from tunesmith_api.result import UserErrorReason
from tunesmith_trainer.outcome import UserError

GELU_TANH: Final = "gelu_pytorch_tanh"
"""GELU by its tanh approximation, the only one that llama.cpp computes."""


@dataclass(frozen=True)
class Family:
    """A kind of model."""

    arch: MODEL_ARCH
    activation: str = "silu"
    """What llama.cpp computes between the matrices of the feed-forward part."""
    is_rotary: bool = True
    """Whether positions are rotations; otherwise they are learned."""
    is_interleaved: bool = False
    """Whether llama.cpp turns neighbouring rows of a head by the rotary angle. transformers turns
    row i with row i + size/2, so the rows of queries and keys have to be put in another order."""
    is_transposed: bool = False
    """Whether transformers keeps matrices as input by output (Conv1D)."""
    norms_add_one: bool = False
    """Whether transformers multiplies by 1 + weight where llama.cpp multiplies by the weight."""
    full_attention_every: int = 0
    """Which layers look back without a limit, the others through a sliding window. 0: all."""
    largest_layers: int = 0
    """Layers of the family's largest model, whose attention llama.cpp scales by another rule."""
    rope_theta: float = 10000.0
    """Rotary base where a configuration is silent."""

    @property
    def is_gemma(self) -> bool:
        """Whether it is one of Gemma's, which have their ways in common."""
        return self.norms_add_one


FAMILIES: Final = {
    "LlamaForCausalLM": Family(MODEL_ARCH.LLAMA, is_interleaved=True),
    # To llama.cpp a Mistral is a Llama.
    "MistralForCausalLM": Family(MODEL_ARCH.LLAMA, is_interleaved=True),
    "Qwen2ForCausalLM": Family(MODEL_ARCH.QWEN2),
    "Qwen3ForCausalLM": Family(MODEL_ARCH.QWEN3),
    "GemmaForCausalLM": Family(MODEL_ARCH.GEMMA, activation=GELU_TANH, norms_add_one=True),
    "Gemma2ForCausalLM": Family(
        MODEL_ARCH.GEMMA2,
        activation=GELU_TANH,
        norms_add_one=True,
        full_attention_every=2,
        largest_layers=46,
    ),
    # The text models; those with eyes are Gemma3ForConditionalGeneration.
    "Gemma3ForCausalLM": Family(
        MODEL_ARCH.GEMMA3,
        activation=GELU_TANH,
        norms_add_one=True,
        full_attention_every=6,
        largest_layers=62,
        rope_theta=1_000_000.0,
    ),
    "GPT2LMHeadModel": Family(
        MODEL_ARCH.GPT2, activation="gelu_new", is_rotary=False, is_transposed=True
    ),
}


def family_of(content: dict[str, Any]) -> Family:
    """Give the family of a config.json; raise UserError InvalidRun for one not in FAMILIES."""
    names = content.get("architectures") or ["a model without architectures in its config.json"]
    if names[0] not in FAMILIES:
        raise refusal(f"{names[0]} cannot be written; {', '.join(FAMILIES)} can")
    return FAMILIES[names[0]]


def refusal(why: str) -> UserError:
    """Give the error that says why there can be no GGUF, and what to change."""
    return UserError(
        UserErrorReason.INVALID_RUN,
        f"output.artifacts asks for GGUF: {why}. Choose another base model, or leave GGUF out.",
    )
