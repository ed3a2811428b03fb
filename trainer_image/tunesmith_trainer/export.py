"""The result as files: the adapter, and the complete merged model, each ready to load.

How a GGUF file is written says `gguf`; here it is checked like the others.

Called by `recipe` on rank 0. Writes to local directories only; `recipe` commits them to S3.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from tunesmith_api.output import GgufQuantization
from tunesmith_trainer.batches import Batch, collate
from tunesmith_trainer.data.prepared import Split
from tunesmith_trainer.disk import room_for
from tunesmith_trainer.embeddings import load_adapter
from tunesmith_trainer.gguf.reading import read_gguf
from tunesmith_trainer.model import load_base
from tunesmith_trainer.objective import SupervisedLoss
from tunesmith_trainer.outcome import Infrastructure

CPU = torch.device("cpu")
PARITY_ROWS = 2
PARITY_TOKENS = 64

# Largest relative distance of centred logits. Rounding weights to 8 bits of mantissa moves them by
# one or two percent in a model of some dozen layers; a missing adapter by far more.
_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.02}

# What storing a matrix in GGUF may change: relative distance of its values, about four times what
# rounding does to normally distributed ones. Rows in a wrong order are at 1.4.
_ROUNDING = {
    GgufQuantization.F16: 2e-3,
    GgufQuantization.BF16: 1e-2,
    GgufQuantization.Q8_0: 0.03,
    GgufQuantization.Q4_0: 0.4,
    # Rows that 256 does not divide are in coarser blocks.
    GgufQuantization.Q6_K: 0.2,
    GgufQuantization.Q5_K_M: 0.3,
    GgufQuantization.Q4_K_M: 0.4,
}
# Of centred logits, where activations are rounded to 8 bits as well.
_INT8_TOLERANCE = 0.3
# Features above it are computed in full where weights have 8 bits. The library's 6 is for models of
# some billion weights; docs/artifacts.md has what this one gives and costs in a small one.
_INT8_OUTLIERS = 2.0


def save_adapter(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, base_uri: str, directory: Path
) -> None:
    """Write the adapter's weights and settings, with the tokenizer, into `directory`."""
    config: Any = model.peft_config["default"]  # type: ignore[index]
    # A path of this pod would mean nothing to whoever loads the adapter.
    config.base_model_name_or_path = base_uri
    # Otherwise peft asks the Hub whether the base model's vocabulary was resized.
    model.save_pretrained(directory, save_embedding_layers=False)  # type: ignore[operator]
    tokenizer.save_pretrained(directory)


def merge(base_path: Path, adapter: Path) -> PreTrainedModel:
    """Give the base model with the adapter added to its weights, on the CPU in float32.

    Always the base as published: an adapter trained on 4-bit weights is added to the full ones,
    so that no rounding error of the quantization stays in the result.
    """
    base = load_base(base_path, torch.float32, CPU)
    return load_adapter(base, adapter).merge_and_unload(safe_merge=True)


def save_complete(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    dtype: torch.dtype,
    directory: Path,
) -> None:
    """Write all weights as safetensors in `dtype`, with configuration, template and tokenizer.

    Changes `model` to `dtype`. Raises Infrastructure (DiskFull).
    """
    model.to(dtype)
    # Off for training only; a server wants the cache.
    model.config.use_cache = True
    model.config.dtype = dtype
    with room_for(directory, model.get_memory_footprint(), "the complete model"):
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)


def save_int8(merged: Path, tokenizer: PreTrainedTokenizerBase, directory: Path) -> None:
    """Write the complete model of `merged` with its matrices in 8 bits, on the CPU.

    LLM.int8() of bitsandbytes (Dettmers et al. 2022, arXiv:2208.07339): transformers loads it as it
    is, on CPUs and GPUs. The output layer stays as it was. Raises Infrastructure (DiskFull).
    """
    model = AutoModelForCausalLM.from_pretrained(
        merged,
        quantization_config=BitsAndBytesConfig(
            load_in_8bit=True, llm_int8_threshold=_INT8_OUTLIERS
        ),
        device_map={"": CPU},
        use_safetensors=True,
        dtype="auto",
    )
    with room_for(directory, model.get_memory_footprint(), "the model in 8 bits"):
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)


def check_int8_parity(directory: Path, expected: torch.Tensor, batch: Batch) -> float:
    """Load the 8-bit model as a stranger would; give the relative distance of its logits.

    Raises Infrastructure ExportMismatch where that is more than rounding.
    """
    model = AutoModelForCausalLM.from_pretrained(directory, device_map={"": CPU})
    distance = _distance(model, expected, batch)
    if not distance <= _INT8_TOLERANCE:
        raise _mismatch("logits in 8 bits", distance, _INT8_TOLERANCE)
    return distance


def check_gathered(
    loss: SupervisedLoss, expected: torch.Tensor, batch: Batch, dtype: torch.dtype
) -> float:
    """Compare the model put together from its parts with the parts; give the relative distance.

    `expected` is what the parts said, computed in `dtype`. Raises Infrastructure ExportMismatch.
    """
    found, limit = logits_of(loss, batch), _TOLERANCE[dtype]
    distance = float((found - expected).norm() / expected.norm())
    if not distance <= limit:
        raise _mismatch("logits of the gathered model", distance, limit)
    return distance


def parity_batch(rows: Split, pad_id: int) -> Batch:
    """Give a small batch to compare two forms of the model on."""
    batch = collate(rows, list(range(min(PARITY_ROWS, len(rows)))), pad_id)
    kept = slice(0, PARITY_TOKENS)
    return Batch(batch.input_ids, batch.positions[kept], batch.targets[kept], batch.tokens)


def logits_of(loss: SupervisedLoss, batch: Batch) -> torch.Tensor:
    """Give the model's centred logits on the CPU: float32[supervised, vocabulary]."""
    loss.eval()
    device = next(loss.parameters()).device
    with torch.no_grad():
        logits = loss.logits(batch.to(device)).float().cpu()
    # A constant added to all logits changes no probability, and would hide a difference.
    return logits - logits.mean(dim=-1, keepdim=True)


def logits_of_saved_adapter(base_path: Path, adapter: Path, batch: Batch) -> torch.Tensor:
    """Give what the saved adapter on the published base says, for bases trained in 4 bits."""
    model = load_adapter(load_base(base_path, torch.float32, CPU), adapter)
    return logits_of(SupervisedLoss(model), batch)


def computed_in(model: nn.Module) -> torch.dtype:
    """Give the coarsest precision that weights of a model are held in."""
    held = {weight.dtype for weight in model.parameters()} & _TOLERANCE.keys()
    return max(held, key=lambda dtype: _TOLERANCE[dtype], default=torch.float32)


def check_parity(
    directory: Path,
    expected: torch.Tensor,
    batch: Batch,
    computed: torch.dtype = torch.float32,
) -> float:
    """Load the complete model as a stranger would, and compare; give the relative distance.

    `expected` is float32[supervised, vocabulary] of the model that was evaluated, `computed` the
    precision of its weights: a base that is stored in float32 is rounded for training in 16 bits,
    and the files are not. Raises Infrastructure ExportMismatch where the files say something else
    than that model.
    """
    model = AutoModelForCausalLM.from_pretrained(directory, use_safetensors=True, dtype="auto")
    limit = max(_TOLERANCE[model.dtype], _TOLERANCE[computed])
    distance = _distance(model.to(torch.float32), expected, batch)
    if not distance <= limit:
        raise _mismatch("logits", distance, limit)
    return distance


def check_gguf_parity(
    path: Path,
    merged: Path,
    expected: torch.Tensor,
    batch: Batch,
    quantization: GgufQuantization,
) -> float:
    """Load the GGUF file with the reader of transformers; give the relative distance of logits.

    `merged` is the folder it was made from, which :func:`check_parity` has found to be right. The
    reader puts rows and names back by code of its own, so a mistake in writing does not cancel
    out. Weights are compared, not logits: 4 bits move the logits of a small model by 43 percent,
    rows of queries and keys in a wrong order by 48. Raises Infrastructure ExportMismatch.
    """
    model = read_gguf(path, merged)
    rounding, limit = _largest_rounding(model, merged), _ROUNDING[quantization]
    if not rounding <= limit:
        raise _mismatch("weights", rounding, limit)
    return _distance(model, expected, batch)


def _largest_rounding(model: PreTrainedModel, merged: Path) -> float:
    """Give the relative distance of the tensor that differs most from the one in `merged`."""
    weights, distances = model.state_dict(), []
    for path in merged.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 - no dictionary, it cannot be iterated
                wanted = file.get_tensor(key).float()
                distances.append((weights[key] - wanted).norm() / wanted.norm().clamp_min(1e-12))
    # Other than Python's max(), this one keeps what is no number.
    return float(torch.stack(distances).max())


def _distance(model: PreTrainedModel, expected: torch.Tensor, batch: Batch) -> float:
    found = logits_of(SupervisedLoss(model), batch)
    return float((found - expected).norm() / expected.norm())


def _mismatch(what: str, distance: float, limit: float) -> Infrastructure:
    return Infrastructure(
        "ExportMismatch",
        f"The exported model does not say what the evaluated one did: {what} differ by "
        f"{distance:.2%}, at most {limit:.2%} was expected. Nothing was published.",
    )
