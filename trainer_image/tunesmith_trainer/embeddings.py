"""Embeddings of tokens that a run adds: rows for them, how they begin, how an adapter trains them.

A new row begins as the mean of the rows of the tokens that its text was made of. So it stands for
about what the text stood for, and its logit is the mean of theirs, so it is never likelier than the
likeliest of them (Gee et al. 2022, arXiv:2402.09977). It depends on nothing but the base model, not
even on the seed.

Adapters train the new rows alone, as peft's trainable tokens: the rows of all others stay the base
model's, bit for bit. Called by `model`. Must not know about data.
"""

from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel
from peft.utils.other import TrainableTokensWrapper
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel

from tunesmith_api.result import UserErrorReason
from tunesmith_trainer.adapters import ADAPTER
from tunesmith_trainer.data.newtokens import NewTokens
from tunesmith_trainer.outcome import UserError

ROWS_NAME = "trainable_tokens_delta"
"""In the names of the weights that are trained rows."""


def embedding_rows(model: nn.Module) -> int:
    """Give how many tokens the model can read."""
    layer: Any = model.get_input_embeddings()  # type: ignore[operator]
    for wrapped in ("original_module", "base_layer"):
        layer = getattr(layer, wrapped, layer)
    return int(layer.num_embeddings)


def make_room(model: PreTrainedModel, rows: int) -> None:
    """Give embeddings and output layer `rows` rows where they have fewer; never fewer than now.

    Many models have more rows than their tokenizers have tokens: those are taken before any is
    added. Rows that are added begin as the mean of all.
    """
    before = embedding_rows(model)
    if rows <= before:
        return
    model.resize_token_embeddings(rows, mean_resizing=False)
    with torch.no_grad():
        for weight in _by_token(model):
            weight[before:] = weight[:before].mean(0, dtype=torch.float32).to(weight.dtype)


def begin(model: PreTrainedModel, tokens: NewTokens) -> None:
    """Make room for new tokens and let each begin as the mean of its pieces."""
    if not tokens:
        return
    make_room(model, tokens.rows)
    with torch.no_grad():
        for weight in _by_token(model):
            for number, pieces in zip(tokens.ids, tokens.pieces, strict=True):
                if pieces:
                    weight[number] = weight[list(pieces)].float().mean(0).to(weight.dtype)


def _by_token(model: PreTrainedModel) -> list[torch.Tensor]:
    """Give the weights with a row a token: of the embeddings, and of an output layer of its own."""
    output = model.get_output_embeddings()
    weights = [model.get_input_embeddings().weight]
    if not _is_tied(model):
        weights.append(output.weight)
    if getattr(output, "bias", None) is not None:
        weights.append(output.bias)
    return weights


def _is_tied(model: PreTrainedModel) -> bool:
    return model.get_output_embeddings().weight is model.get_input_embeddings().weight


def trained_rows(
    model: PreTrainedModel, tokens: NewTokens, targets: tuple[str, ...]
) -> dict[str, list[int]] | None:
    """Give peft's `trainable_token_indices`: by the layer's name, the rows that are trained.

    An output layer that shares the embeddings' weights follows them by itself. Raises UserError
    InvalidRun where an adapter of the layers `targets` cannot train the rows.
    """
    if not tokens:
        return None
    output = model.get_output_embeddings()
    if getattr(output, "bias", None) is not None:
        raise _refusal("the model's output layer has biases, which adapters cannot train")
    layers = [model.get_input_embeddings(), output]
    names = {id(module): name for name, module in model.named_modules()}
    found = [names[id(layer)] for layer in layers]
    both = [name for name in found if name.rpartition(".")[2] in targets]
    if both:
        raise _refusal(f"method.targetModules names {both[0]}, whose new rows are trained whole")
    return {name: list(tokens.ids) for name in (found[:1] if _is_tied(model) else found)}


def _refusal(why: str) -> UserError:
    return UserError(
        UserErrorReason.INVALID_RUN,
        f"dataset.addTokens: {why}. Use method.full, leave addTokens out, or change that.",
    )


def fuse_rows(model: nn.Module) -> None:
    """Make the trained rows of `model` cost what they are, the results being the same.

    peft writes them into a copy of all rows with each call, and takes the gradient of all. Layers
    with something of their own, such as embeddings that are scaled, stay as they are.
    """
    for module in model.modules():
        if not isinstance(module, TrainableTokensWrapper):
            continue
        layer = module.token_adapter
        forward = {nn.Embedding: _embed, nn.Linear: _predict}.get(type(layer.base_layer))
        if forward:
            layer.forward = partial(_unless_off, layer, forward, layer.forward)


def _unless_off(
    layer: Any, forward: Any, plain: Any, x: torch.Tensor, *args: Any, **options: Any
) -> torch.Tensor:
    if layer.disable_adapters or layer.merged or args or options:
        return torch.as_tensor(plain(x, *args, **options))
    rows = layer.trainable_tokens_delta[ADAPTER].to(layer.base_layer.weight.dtype)
    index = _index(tuple(layer.token_indices[ADAPTER]), x.device)
    return torch.as_tensor(forward(layer.base_layer, rows, index, x))


def _embed(
    base: nn.Embedding, rows: torch.Tensor, index: torch.Tensor, x: torch.Tensor
) -> torch.Tensor:
    place = torch.searchsorted(index, x).clamp_(max=len(index) - 1)
    is_new = (index[place] == x).unsqueeze(-1)
    return torch.where(is_new, functional.embedding(place, rows), base(x))


def _predict(
    base: nn.Linear, rows: torch.Tensor, index: torch.Tensor, x: torch.Tensor
) -> torch.Tensor:
    logits: torch.Tensor = base(x)
    return logits.index_copy_(-1, index, functional.linear(x, rows).to(logits.dtype))


@lru_cache(maxsize=8)
def _index(ids: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Give the ids, rising, on a device: copied there once, not with each call."""
    return torch.tensor(ids, device=device)


def load_adapter(base: PreTrainedModel, folder: Path) -> PeftModel:
    """Put a saved adapter onto its base model, which gets the rows that the adapter has values for.

    Raises what peft raises for files that are no adapter.
    """
    trained = getattr(PeftConfig.from_pretrained(folder), "trainable_token_indices", None) or []
    by_layer = trained.values() if isinstance(trained, dict) else [trained]
    make_room(base, 1 + max((number for rows in by_layer for number in rows), default=-1))
    return PeftModel.from_pretrained(base, folder)
