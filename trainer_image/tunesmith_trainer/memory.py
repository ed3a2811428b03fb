"""How much GPU memory a run will take, told from shapes before a GPU is taken.

Pure but for reading config.json: the model is built without its weights (torch's meta device).
Called by ``placing``. An estimate: the allocator's fragments and kernels' workspaces are covered
by an allowance, not counted.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import assert_never

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from tunesmith_api.training import LoraVariant, Method, Optimizer
from tunesmith_trainer.model import ALL_LINEAR
from tunesmith_trainer.objective import CHUNK_VALUES

GIB = 1024**3
FLOAT32 = 4
# 4 bits, and of each block of 64 a scale: 8 bits when quantized again, else float32. The scales'
# own scales are one float32 for 256 of them (Dettmers et al. 2023, section 3).
_NF4_BYTES = {True: 0.5 + 1 / 64 + 4 / (64 * 256), False: 0.5 + 4 / 64}
# Logits, their float32 copy and the gradient, of each supervised token.
_LOGIT_COPIES = 3
# The CUDA context with its kernels, and what the allocator loses to fragments.
_CONTEXT_BYTES = GIB
_FRAGMENTS = 1.1


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What of a model decides about memory. Numbers of parameters, unless said otherwise."""

    parameters: int
    linear: int
    """In linear layers but the output layer: what can be quantized and gets adapters."""
    linear_ends: tuple[tuple[str, int, int], ...]
    """Last part of the name, width in and width out, of each such layer."""
    layers: int
    hidden: int
    """Width between the layers."""
    vocabulary: int
    is_tied: bool = True
    """Whether the output layer's weights are the embeddings'."""
    new_tokens: int = 0
    """Tokens that the run adds, whose embeddings adapters train too."""


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes at the peak of a training step, by what they are for."""

    weights: int
    """Frozen ones, in the precision they are kept in."""
    trained: int
    """Trained weights with their gradients and the optimizer's state."""
    activations: int
    logits: int
    gathered: int = 0
    """With a model in parts: what is put together for the computation."""

    @property
    def total(self) -> int:
        """All of it, with the allowance for context and fragments."""
        held = self.weights + self.trained + self.gathered
        counted = held + self.activations + self.logits
        return int(counted * _FRAGMENTS) + _CONTEXT_BYTES


@dataclass(frozen=True, slots=True)
class Workload:
    """What one device works on at once, and how."""

    rows: int
    longest: int
    """Tokens of the longest row."""
    width: int
    """Bytes of a number in the computation."""
    checkpointing: bool
    """Whether only the inputs of layers are kept."""
    optimizer: Optimizer = Optimizer.ADAMW
    parts: int = 1
    """Ranks that the model is shared out over; 1 where each holds all of it."""


def read_shape(model_path: Path) -> ModelShape:
    """Give the shape of the model whose config.json is in ``model_path``."""
    config = AutoConfig.from_pretrained(model_path, trust_remote_code=False)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    head = model.get_output_embeddings()
    ends = tuple(
        (name.rpartition(".")[2], *_ends(module))
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head
    )
    text = config.get_text_config()
    return ModelShape(
        parameters=sum(p.numel() for p in model.parameters()),
        linear=sum(width_in * width_out for _, width_in, width_out in ends),
        linear_ends=ends,
        layers=int(text.num_hidden_layers),
        hidden=int(text.hidden_size),
        vocabulary=int(text.vocab_size),
        is_tied=head is None or head.weight is model.get_input_embeddings().weight,
    )


def with_tokens(shape: ModelShape, rows: int, count: int) -> ModelShape:
    """Give the shape with `count` tokens added, for which embeddings have `rows` rows or more."""
    more = max(0, rows - shape.vocabulary)
    return replace(
        shape,
        parameters=shape.parameters + more * shape.hidden * _ends_by_token(shape),
        vocabulary=shape.vocabulary + more,
        new_tokens=count,
    )


def _ends_by_token(shape: ModelShape) -> int:
    return 1 if shape.is_tied else 2


def estimate(shape: ModelShape, method: Method, work: Workload) -> MemoryEstimate:
    """Estimate the peak of a training step."""
    adapted = _adapted(shape, method)
    trained = _trained(shape, method, adapted)
    # Weight and gradient are float32 each.
    trained_bytes = trained * (2 * FLOAT32 + _state_bytes(work.optimizer))
    return MemoryEstimate(
        weights=_frozen_bytes(shape, method, work.width) // work.parts,
        trained=int(trained_bytes) // work.parts,
        activations=work.rows * work.longest * _activation_bytes(shape, adapted, work, method),
        logits=_logit_bytes(shape, method, work),
        gathered=_gathered_bytes(shape, method, work) if work.parts > 1 else 0,
    )


def _state_bytes(optimizer: Optimizer) -> float:
    """Give the bytes that the update rule keeps of a weight."""
    match optimizer:
        case Optimizer.ADAMW:
            return 2 * FLOAT32
        case Optimizer.ADAMW_8BIT:
            # A byte a moment, and a float32 for each block of 256 (Dettmers et al. 2021).
            return 2 * (1 + FLOAT32 / 256)
        case Optimizer.ADAFACTOR:
            return 0  # means of rows and columns, of no weight beside the weights themselves
        case _:
            assert_never(optimizer)


def _trained(shape: ModelShape, method: Method, adapted: tuple[tuple[str, int, int], ...]) -> int:
    """Count the trained weights."""
    adapter = method.adapter
    if adapter is None:
        return shape.parameters
    lengths = sum(width_out for _, _, width_out in adapted)
    is_dora = adapter.variant is LoraVariant.DORA
    rows = shape.new_tokens * shape.hidden * _ends_by_token(shape)
    return sum(adapter.rank * (a + b) for _, a, b in adapted) + (lengths if is_dora else 0) + rows


def _logit_bytes(shape: ModelShape, method: Method, work: Workload) -> int:
    """Give the bytes of the logits of one chunk, which is what the loss holds at once."""
    values = min(work.rows * work.longest * shape.vocabulary, CHUNK_VALUES["cuda"])
    # Where the output layer is trained, its gradient is added up chunk by chunk.
    gradient = 0 if method.adapter else shape.vocabulary * shape.hidden * FLOAT32
    return _LOGIT_COPIES * values * FLOAT32 + gradient


def _gathered_bytes(shape: ModelShape, method: Method, work: Workload) -> int:
    """Give the bytes of the whole weights that a step of a model in parts needs at once.

    These are what is outside the layers, the layer that is computed and the next one on its way;
    where they are trained also their gradients, the layer's as float32 for the sum over ranks.
    """
    ends, layer = shape.parameters - shape.linear, shape.linear // shape.layers
    gathered = (ends + 2 * layer) * work.width
    if method.adapter is None:
        gathered += ends * work.width + layer * (work.width + FLOAT32)
    return gathered


def _frozen_bytes(shape: ModelShape, method: Method, width: int) -> int:
    qlora = method.qlora
    if method.adapter is None:
        return 0
    if qlora is None:
        return shape.parameters * width
    rest = shape.parameters - shape.linear
    return int(shape.linear * _NF4_BYTES[qlora.double_quantization]) + rest * width


def _adapted(shape: ModelShape, method: Method) -> tuple[tuple[str, int, int], ...]:
    adapter = method.adapter
    if adapter is None:
        return ()
    if adapter.target_modules == (ALL_LINEAR,):
        return shape.linear_ends
    names = set(adapter.target_modules)
    return tuple(end for end in shape.linear_ends if end[0] in names)


def _activation_bytes(
    shape: ModelShape, adapted: tuple[tuple[str, int, int], ...], work: Workload, method: Method
) -> int:
    """Give the bytes that one token leaves behind for the backward pass, over all layers.

    What a linear layer gives is kept by what comes after it (attention, activation function,
    product), so the widths of the layers say most. Attention is one of the fused kernels, which
    keep no matrix of scores (Dao et al. 2022, arXiv:2205.14135).
    """
    width = work.width
    outputs = sum(width_out for _, _, width_out in shape.linear_ends) / shape.layers
    # Around each of the two norms: its input in float32, the normalized one in both widths.
    norms = 2 * shape.hidden * (2 * FLOAT32 + width)
    # The activation function and the rotation keep what goes in and what comes out.
    layer = norms + 1.5 * outputs * width
    if method.adapter and float(method.adapter.dropout):
        # Each adapter keeps the mask, a byte; only the fused ones drop the dropped input again.
        is_fused = method.adapter is method.lora and method.adapter.variant is not LoraVariant.DORA
        dropped = 1 if is_fused else FLOAT32 + 1
        layer += sum(width_in for _, width_in, _ in adapted) / shape.layers * dropped
    if not work.checkpointing:
        return int(layer * shape.layers)
    # Only the inputs of all layers, and everything of the one that is computed again.
    return int(shape.layers * shape.hidden * width + layer)


def _ends(module: nn.Module) -> tuple[int, int]:
    rows, columns = module.weight.shape  # type: ignore[misc]
    # GPT-2's layers are stored the other way round.
    return (rows, columns) if isinstance(module, Conv1D) else (columns, rows)
