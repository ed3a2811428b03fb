"""How near an answer is to the expected one in meaning, by the base model's own hidden states.

A text's embedding is the mean of the last hidden states over its tokens; a row's similarity is the
cosine of both embeddings, after the mean embedding of all expected answers is taken off: hidden
states of a language model share one large direction that says nothing about the text
(Ethayarajh 2019; Mu and Viswanath 2018). Always the base model's, so that all models are measured
with one yardstick. No model for embeddings has to be fetched. Called by `evaluation`.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedTokenizerBase

from tunesmith_trainer.intervals import Observed, mean
from tunesmith_trainer.model import padding_id
from tunesmith_trainer.stopping import StopSignal
from tunesmith_trainer.suites.answering import context_of

_ROWS = 16
_MOST_TOKENS = 512


def embed(
    base: nn.Module, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], stop: StopSignal
) -> torch.Tensor:
    """Give float32[texts, hidden] on the CPU. Texts are cut after 512 tokens; an empty one is 0.

    Raises Interrupted after SIGTERM.
    """
    most = min(_MOST_TOKENS, context_of(base))
    tokens = [tokenizer(text, add_special_tokens=False)["input_ids"][:most] for text in texts]
    order = sorted(range(len(texts)), key=lambda i: len(tokens[i]))
    found: dict[int, torch.Tensor] = {}
    base.eval()
    for start in range(0, len(order), _ROWS):
        stop.check()
        places = order[start : start + _ROWS]
        states = _mean_states(base, [tokens[i] for i in places], padding_id(tokenizer))
        found |= zip(places, states, strict=True)
    return torch.stack([found[i] for i in range(len(texts))])


def similarity(metric: str, replies: torch.Tensor, expected: torch.Tensor) -> Observed:
    """Compare embeddings row by row, float32[rows, hidden] each; the metric is the mean cosine."""
    centre = expected.mean(dim=0) if len(expected) > 1 else torch.zeros(())
    return mean(metric, functional.cosine_similarity(replies - centre, expected - centre).tolist())


def _mean_states(base: nn.Module, rows: list[list[int]], pad: int) -> torch.Tensor:
    longest = max(1, *map(len, rows))
    ids = torch.tensor([row + [pad] * (longest - len(row)) for row in rows])
    # Padding stands behind the text, which in a causal model never sees it.
    mask = torch.tensor([[1.0] * len(row) + [0.0] * (longest - len(row)) for row in rows])
    device = base.device
    with torch.no_grad():
        states = base.get_decoder()(input_ids=ids.to(device), use_cache=False).last_hidden_state  # type: ignore[operator,arg-type]
    weights = mask.unsqueeze(-1)
    return (states.float().cpu() * weights).sum(dim=1) / weights.sum(dim=1).clamp_min(1.0)
