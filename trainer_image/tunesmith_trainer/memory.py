"""How much GPU memory a run will take, told from shapes before a GPU is taken.

Pure but for reading config.json: the model is built without its weights (torch's meta device).
Called by ``prepare``. An estimate: the allocator's fragments and kernels' workspaces are covered
by an allowance, not counted.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from tunesmith_api.result import UserErrorReason
from tunesmith_api.run import PlannedGpus, TrainingRun
from tunesmith_api.training import LoraVariant, Method, Precision, QLora, Switch
from tunesmith_trainer.model import ALL_LINEAR
from tunesmith_trainer.outcome import UserError

GIB = 1024**3
_FLOAT32 = 4
# Weight, gradient and AdamW's two moments, each float32.
_TRAINED_BYTES = 4 * _FLOAT32
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


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes at the peak of a training step, by what they are for."""

    weights: int
    """Frozen ones, in the precision they are kept in."""
    trained: int
    """Trained weights with their gradients and the optimizer's moments."""
    activations: int
    logits: int

    @property
    def total(self) -> int:
        """All of it, with the allowance for context and fragments."""
        counted = self.weights + self.trained + self.activations + self.logits
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
    )


def estimate(shape: ModelShape, method: Method, work: Workload) -> MemoryEstimate:
    """Estimate the peak of a training step."""
    adapter = method.adapter
    tokens = work.rows * work.longest
    adapted = _adapted(shape, method)
    logits = _LOGIT_COPIES * tokens * shape.vocabulary * _FLOAT32
    activations = tokens * _activation_bytes(shape, adapted, work, method)
    if adapter is None:
        return MemoryEstimate(0, shape.parameters * _TRAINED_BYTES, activations, logits)
    extra = sum(adapter.rank * (a + b) for _, a, b in adapted)
    return MemoryEstimate(
        weights=_frozen_bytes(shape, method.qlora, work.width),
        trained=extra * _TRAINED_BYTES,
        activations=activations,
        logits=logits,
    )


def check_fit(shape: ModelShape, run: TrainingRun, longest: int) -> MemoryEstimate:
    """Estimate what each GPU of a run's train stage will hold.

    Raises UserError DoesNotFit where even one row at a time with recomputed activations would not
    fit; a batch that is too large is halved when it comes to that.
    """
    gpus = run.planned_gpus or PlannedGpus()
    work = planned_work(run, longest)
    found = estimate(shape, run.method, work)
    least = estimate(shape, run.method, _least(run, work))
    if gpus.memory_bytes and least.total > gpus.memory_bytes:
        raise UserError(
            UserErrorReason.DOES_NOT_FIT,
            f"Training {run.model.uri} takes at least {_gib(least.total)} of GPU memory, the"
            f" largest {gpus.type} has {_gib(gpus.memory_bytes)}."
            f" {_what_would(shape, run, work, gpus)}",
        )
    return found


def planned_work(run: TrainingRun, longest: int) -> Workload:
    """Give what a device will work on, as the train stage will decide it."""
    settings = run.hyperparameters
    is_full = run.method.adapter is None
    wanted = settings.gradient_checkpointing
    return Workload(
        rows=settings.per_device_batch_size * run.objective.sides,
        longest=longest,
        width=_FLOAT32 if settings.precision is Precision.FP32 else 2,
        checkpointing=wanted is Switch.ENABLED or (wanted is Switch.AUTO and is_full),
    )


def _least(run: TrainingRun, work: Workload) -> Workload:
    return replace(work, rows=run.objective.sides, checkpointing=True)


def _what_would(shape: ModelShape, run: TrainingRun, work: Workload, gpus: PlannedGpus) -> str:
    """Name what would fit: another method, or how large a GPU must be."""
    smallest = _least(run, work)
    least = estimate(shape, run.method, smallest).total
    ways = []
    if run.method.qlora is None:
        quantized = estimate(shape, Method(qlora=QLora()), smallest).total
        if quantized <= gpus.memory_bytes:
            ways.append(f"method.qlora (about {_gib(quantized)})")
    shorter = estimate(shape, run.method, replace(smallest, longest=smallest.longest // 4)).total
    if shorter <= gpus.memory_bytes:
        ways.append("a lower hyperparameters.maxSequenceLength with checks.tooLong Truncate")
    ways.append(f"a compute.gpuType with {_gib(least)} or more")
    return f"Use {', or '.join(ways)}."


def _frozen_bytes(shape: ModelShape, qlora: QLora | None, width: int) -> int:
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
    norms = 2 * shape.hidden * (2 * _FLOAT32 + width)
    # The activation function and the rotation keep what goes in and what comes out.
    layer = norms + 1.5 * outputs * width
    if method.adapter and float(method.adapter.dropout):
        # Each adapter keeps the mask, a byte; only the fused ones drop the dropped input again.
        is_fused = method.adapter is method.lora and method.adapter.variant is not LoraVariant.DORA
        dropped = 1 if is_fused else _FLOAT32 + 1
        layer += sum(width_in for _, width_in, _ in adapted) / shape.layers * dropped
    if not work.checkpointing:
        return int(layer * shape.layers)
    # Only the inputs of all layers, and everything of the one that is computed again.
    return int(shape.layers * shape.hidden * width + layer)


def _ends(module: nn.Module) -> tuple[int, int]:
    rows, columns = module.weight.shape  # type: ignore[misc]
    # GPT-2's layers are stored the other way round.
    return (rows, columns) if isinstance(module, Conv1D) else (columns, rows)


def _gib(count: int) -> str:
    return f"{count / GIB:.1f} GiB"
