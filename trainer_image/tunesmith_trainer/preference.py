"""Direct preference optimization: the loss of pairs, and what it compares with.

A pair is two neighbouring rows of a split, the better answer first; pair `i` is the rows `2i` and
`2i + 1`. The base model's log-probabilities are asked once, before the first step, and travel with
the checkpoints: no second model in memory, one pass over the pairs instead of one an epoch, and a
resumed run compares with the very same numbers. Losses that compare with no base model do without.
Called by `loop`, `recipe` and `evaluation`; must not know about steps, nor change weights but
through the gradient.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from tunesmith_api.objectives import Dpo, PreferenceLoss
from tunesmith_trainer.batches import (
    Batch,
    Rows,
    batches_by_length,
    collate,
    collate_packed,
    supervised_by_row,
)
from tunesmith_trainer.data.prepared import Split
from tunesmith_trainer.distributed import Ranks
from tunesmith_trainer.objective import SupervisedLoss
from tunesmith_trainer.outcome import Interrupted
from tunesmith_trainer.stopping import StopSignal

Reference = NDArray[np.float32]
"""[pairs, 2]: log-probability, in nats, of the better and the worse answer under the base model;
nan where nobody asked."""

REWARDS = ("chosen", "rejected", "accuracy", "margin")
"""What `PairLoss` gives besides the loss."""


@dataclass(frozen=True)
class Pairs:
    """What a run with objective DPO has besides its rows. `references` is filled by `recipe`."""

    settings: Dpo
    references: dict[str, Reference] = field(default_factory=dict)
    """By the name of the split; empty where the loss knows no base model."""

    def reference(self, split: str) -> Reference | None:
        """Give what the pairs of a split are compared with; None where that is nothing."""
        return self.references[split] if self.settings.loss.needs_base else None

    def held_out(self, split: str) -> "HeldOutPairs":
        """Give what the pairs of a split are judged by."""
        return HeldOutPairs(self.settings, self.reference(split))


class HeldOutPairs(NamedTuple):
    """What pairs that are not trained on are judged by."""

    settings: Dpo
    reference: Reference | None


@dataclass(frozen=True)
class PairBatch:
    """Pairs as tensors."""

    batch: Batch
    """The rows of all pairs, the better answer of each before the worse."""
    counts: tuple[int, ...]
    """[2 * pairs]: tokens to be predicted in each row, in the order of the batch's targets."""
    reference: torch.Tensor
    """float32[pairs, 2], as Reference."""

    @property
    def tokens(self) -> int:
        """Tokens of the rows, without padding."""
        return self.batch.tokens

    @property
    def computed(self) -> int:
        """Tokens that the model works on."""
        return self.batch.computed

    def to(self, device: torch.device) -> "PairBatch":
        """Give the same on `device`."""
        return PairBatch(self.batch.to(device), self.counts, self.reference.to(device))


class PairLoss(nn.Module):
    """The loss and the rewards of pairs, each summed up over a batch."""

    def __init__(self, loss: SupervisedLoss, settings: Dpo) -> None:
        super().__init__()
        self.loss = loss
        self.settings = settings

    def forward(self, batch: PairBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Give the summed loss (float32[]) and the summed REWARDS (float32[4])."""
        policy = log_probabilities(self.loss, batch)
        lengths = torch.tensor(batch.counts, device=policy.device).reshape(-1, 2)
        losses, rewards = pair_losses(policy, batch.reference, lengths, self.settings)
        chosen, rejected = rewards.unbind(-1)
        margin = chosen - rejected
        found = torch.stack([chosen, rejected, (margin > 0).to(margin.dtype), margin])
        return losses.sum(), found.sum(-1).detach()


def pair_losses(
    policy: torch.Tensor, reference: torch.Tensor, lengths: torch.Tensor, settings: Dpo
) -> tuple[torch.Tensor, torch.Tensor]:
    """Give the loss of each pair, [pairs], and both answers' rewards, [pairs, 2].

    `policy` and `reference` are log-probabilities [pairs, 2] in nats, `lengths` int64[pairs, 2]
    the tokens they are sums over. IPO takes means instead of sums, as its authors advise: sums
    would ask long answers to differ less a token. CPO, SimPO and ORPO do not look at `reference`.
    """
    kind, beta, smoothing = settings.loss, float(settings.beta), float(settings.label_smoothing)
    ratios = policy - reference if kind.needs_base else policy
    if kind.is_by_token:
        ratios = ratios / lengths
    margin = ratios[:, 0] - ratios[:, 1]
    if kind is PreferenceLoss.SIMPO:
        margin = margin - float(settings.gamma_beta_ratio)
    right, wrong = (-functional.logsigmoid(sign * beta * margin) for sign in (1, -1))
    match kind:
        case PreferenceLoss.SIGMOID | PreferenceLoss.CPO | PreferenceLoss.SIMPO:
            losses = right * (1 - smoothing) + wrong * smoothing
        case PreferenceLoss.ROBUST:
            losses = (right * (1 - smoothing) - wrong * smoothing) / (1 - 2 * smoothing)
        case PreferenceLoss.HINGE:
            losses = torch.relu(1 - beta * margin)
        case PreferenceLoss.IPO:
            losses = (margin - 1 / (2 * beta)) ** 2
        case PreferenceLoss.ORPO:
            odds = log_odds(ratios)
            losses = -beta * functional.logsigmoid(odds[:, 0] - odds[:, 1]) - ratios[:, 0]
    if weight := float(settings.sft_weight):
        losses = losses - weight * policy[:, 0] / lengths[:, 0]
    return losses, beta * ratios.detach()


def log_odds(nats: torch.Tensor) -> torch.Tensor:
    """Give log(p / (1 - p)) of the logarithms of probabilities, of any shape.

    Of what is all but certain as well: 1 - p is not rounded to 0, which would have no gradient.
    """
    below = nats.clamp(max=-torch.finfo(nats.dtype).eps)
    return below - torch.log(-torch.expm1(below))


def log_probabilities(loss: SupervisedLoss, batch: PairBatch) -> torch.Tensor:
    """Give float32[pairs, 2]: the log-probability of each answer, summed over its tokens."""
    nats = loss.token_nats(batch.batch)
    # One sum a row: index_add would add in another order on each run of a GPU.
    sums = [part.sum() for part in nats.split(list(batch.counts))]
    # Without pairs it is empty, with its graph: all ranks have to go the way back.
    return -(torch.stack(sums) if sums else nats).reshape(-1, 2)


def collate_pairs(
    split: Split,
    pairs: Rows,
    reference: Reference | None,
    pad_id: int,
    *,
    packed: bool,
    share: bool = True,
) -> PairBatch:
    """Make a batch of pairs; `share` as in `collate_packed`. Without `reference` it is all nan."""
    rows = (2 * pairs[:, None] + np.arange(2)).ravel()
    made = (
        collate_packed(split, rows, pad_id, share=share) if packed else collate(split, rows, pad_id)
    )
    unknown = np.full((len(pairs), 2), math.nan, np.float32)
    known = unknown if reference is None else reference[pairs]
    return PairBatch(made, tuple(supervised_by_row(split, rows)), torch.from_numpy(known))


def pair_lengths(split: Split) -> Rows:
    """Give int64[pairs]: tokens of both rows of each pair."""
    return split.lengths.reshape(-1, 2).sum(axis=1)


def ask(
    loss: SupervisedLoss,
    split: Split,
    ranks: Ranks,
    stop: StopSignal,
    *,
    batch_size: int,
    pad_id: int,
    pairs: Rows | None = None,
    on_pairs: Callable[[int], None] | None = None,
) -> Reference:
    """Give the model's log-probabilities of `pairs`, of all of them by default.

    Shared out over the ranks, all of which must call this; `on_pairs` gets the count of each batch.
    Leaves the model in evaluation mode.
    Raises Interrupted, on all ranks, after SIGTERM.
    """
    wanted = np.arange(len(split) // 2) if pairs is None else pairs
    found = np.zeros((len(split) // 2, 2), np.float32)
    loss.eval()
    for places in _turns(pair_lengths(split)[wanted], batch_size, ranks, stop):
        chosen = wanted[places]
        batch = collate_pairs(split, chosen, None, pad_id, packed=loss.can_pack).to(ranks.device)
        # Inference mode would leave tensors behind that training must not touch.
        with torch.no_grad(), ranks.accelerator.autocast():
            found[chosen] = log_probabilities(loss, batch).cpu().numpy()
        if on_pairs:
            on_pairs(len(chosen))
    # Each pair was asked on one rank and is 0 on the others, so the sum is exact.
    total = np.sum(ranks.gather(found), axis=0)
    unasked = np.ones(len(total), bool)
    unasked[wanted] = False
    total[unasked] = math.nan
    return total


def _turns(
    lengths: Rows, batch_size: int, ranks: Ranks, stop: StopSignal
) -> Iterator[NDArray[np.int64]]:
    """Give this rank's batches, empty ones at the end; raise Interrupted on all ranks together."""
    batches = batches_by_length(lengths, batch_size, ranks.rank, ranks.size)
    for turn in range(math.ceil(len(lengths) / batch_size / ranks.size)):
        if ranks.any(stop.requested):
            raise Interrupted
        # A model in parts is computed by all ranks or by none.
        yield batches[turn] if turn < len(batches) else np.zeros(0, np.int64)
