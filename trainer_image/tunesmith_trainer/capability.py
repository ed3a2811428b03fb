"""Which of the fast ways of computing a model's loss are right for this model, by trying them.

Architectures differ: some keep a state besides attention, some look back only so far, some do
things to their logits. Rather than a list of names that would be wrong for the next one, a few
made-up rows are computed both ways, and what does not say the same is not used. Called by
`recipe` before training, on every rank.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from tunesmith_trainer.batches import Batch, collate, collate_packed
from tunesmith_trainer.data.prepared import Split
from tunesmith_trainer.logs import log
from tunesmith_trainer.objective import Head, SupervisedLoss

# Largest relative distance of centred logits. Another order of adding moves them by
# 1e-6 in float32; a row that sees its neighbour by 0.1 and more.
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.05, torch.float16: 0.02}
_PROBE_TOKENS = 24


def settle(loss: SupervisedLoss, rows: Split, pad_id: int, attentions: Sequence[str]) -> None:
    """Set `loss.head` and `loss.can_pack`; leaves generators of chance and modes as they were.

    `attentions` are the kinds that may compute packed rows, the best first; without any they are
    padded.
    """
    was_training = loss.training
    loss.eval()
    probe = _probe(rows)
    with torch.no_grad():
        _settle_head(loss, collate(probe, range(len(probe)), pad_id).to(_device(loss)))
        if attentions:
            _settle_packing(loss, probe, pad_id, int(rows.lengths.max()), attentions)
    loss.train(was_training)


def _settle_head(loss: SupervisedLoss, batch: Batch) -> None:
    plain, head = loss.logits(batch), head_of(loss.model)
    hidden = loss.hidden(batch)
    if _is_same(head(hidden).float(), plain, _computed_dtype(loss)):
        loss.head = head
    else:
        log.info("the model does something of its own to its logits: they are kept whole")


def _settle_packing(
    loss: SupervisedLoss, probe: Split, pad_id: int, longest: int, attentions: Sequence[str]
) -> None:
    window = _window(loss.model)
    if window and longest > window:
        reason = f"a row has {longest} tokens, the model looks back {window}"
        log.info("rows are padded, not packed", because=reason)
        return
    for name in attentions:
        reason = _packing_fails(loss, probe, pad_id, name)
        loss.can_pack = not reason
        if not reason:
            return
        log.info("rows are not packed in this way", attention=name, because=reason)


def _packing_fails(loss: SupervisedLoss, probe: Split, pad_id: int, name: str) -> str:
    rows, device = range(len(probe)), _device(loss)
    plain = loss.logits(collate(probe, rows, pad_id).to(device))
    before = loss.model.config._attn_implementation  # type: ignore[union-attr]
    if before != "sdpa":
        return f"the model's attention is {before}, not sdpa"
    loss.model.set_attn_implementation(name)  # type: ignore[operator]
    try:
        packed = loss.logits(collate_packed(probe, rows, pad_id).to(device))
    except (TypeError, ValueError, RuntimeError, IndexError, KeyError) as error:
        reason = str(error)[:200]
    else:
        if _is_same(packed, plain, _computed_dtype(loss)):
            return ""
        reason = "packed rows would see each other in this architecture"
    loss.model.set_attn_implementation(before)  # type: ignore[operator]
    return reason


def head_of(model: nn.Module) -> Head:
    """Give the output layer and what the usual models do to its logits."""
    config = model.config.get_text_config()  # type: ignore[union-attr,operator]
    output: nn.Module = model.get_output_embeddings()  # type: ignore[operator]
    cap = getattr(config, "final_logit_softcapping", None)
    scale = getattr(config, "logit_scale", None) or 1.0
    scale /= getattr(config, "logits_scaling", None) or 1.0

    def head(hidden: torch.Tensor) -> torch.Tensor:
        logits = output(hidden)
        if scale != 1.0:
            logits = logits * scale
        return torch.tanh(logits / cap) * cap if cap else logits

    return head


def _window(model: nn.Module) -> int:
    """Give how many tokens back the shortest-sighted layer looks; 0 for all of them."""
    config = model.config.get_text_config()  # type: ignore[union-attr,operator]
    sights = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")]
    return min((int(sight) for sight in sights if sight), default=0)


def _probe(rows: Split) -> Split:
    """Make three rows out of the data's tokens; two of them begin alike and end otherwise."""
    text = np.resize(np.array(rows.tokens[:_PROBE_TOKENS]), _PROBE_TOKENS)
    parts: Sequence[np.ndarray] = (text[:12], np.concatenate([text[:5], text[12:19]]), text[15:])
    offsets = np.cumsum([0, *(len(part) for part in parts)])
    return Split(np.concatenate(parts), offsets, np.ones(offsets[-1], np.uint8))


def _is_same(found: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> bool:
    # What all logits have in common changes no probability, and would hide a difference.
    found, expected = (logits - logits.mean(-1, keepdim=True) for logits in (found, expected))
    return float((found - expected).norm() / expected.norm()) <= _TOLERANCE[dtype]


def _computed_dtype(loss: SupervisedLoss) -> torch.dtype:
    device = _device(loss).type
    if torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return loss.model.get_input_embeddings().weight.dtype  # type: ignore[operator]


def _device(loss: SupervisedLoss) -> torch.device:
    return next(loss.parameters()).device
