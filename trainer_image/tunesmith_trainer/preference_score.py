"""How well a model tells better from worse answers, on pairs that it has not seen.

Called by `evaluation`, in place of scoring tokens, where the objective is DPO. Must not change
weights or the state of random generators.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from tunesmith_trainer.batches import supervised_by_row
from tunesmith_trainer.data.prepared import Split
from tunesmith_trainer.distributed import Ranks
from tunesmith_trainer.intervals import Observed, Statistic, mean, observe
from tunesmith_trainer.objective import SupervisedLoss
from tunesmith_trainer.preference import HeldOutPairs, ask, pair_losses
from tunesmith_trainer.stopping import StopSignal

Column = NDArray[np.float64]


@dataclass(frozen=True)
class PairScore:
    """What was found about each pair of a split, of all ranks; [pairs] each."""

    losses: Column
    """Of the objective. Where that compares with the base model, this one's own loss is that of no
    margin."""
    preferred: Column
    """1 where the better answer is the likelier one (ranking accuracy, Chen et al. 2024,
    arXiv:2405.19534), else 0."""
    margin: Column
    """Log-probability of the better answer minus that of the worse, in nats."""
    nats: Column
    """Negative log-likelihood of the better answer."""
    targets: Column
    """Tokens of the better answer."""

    @property
    def loss(self) -> float:
        """Mean loss of the objective."""
        return float(self.losses.mean())

    def observed(self, suite: str) -> tuple[Observed, ...]:
        """Give the suite's metrics."""
        return (
            mean(f"{suite}/loss", self.losses),
            mean(f"{suite}/preference_accuracy", self.preferred),
            mean(f"{suite}/preference_margin", self.margin),
            observe(f"{suite}/chosen_loss", Statistic.RATIO, self.nats, self.targets),
        )


def judge_pairs(
    loss: SupervisedLoss,
    rows: Split,
    ranks: Ranks,
    stop: StopSignal,
    held_out: HeldOutPairs,
    *,
    batch_size: int,
    pad_id: int,
) -> PairScore:
    """Judge a model on the pairs of `rows`; all ranks must call this and get the same.

    Leaves the model in evaluation mode. Raises Interrupted, on all ranks, after SIGTERM.
    """
    policy = ask(loss, rows, ranks, stop, batch_size=batch_size, pad_id=pad_id)
    lengths = np.array(supervised_by_row(rows, range(len(rows)))).reshape(-1, 2)
    reference = np.full_like(policy, np.nan) if held_out.reference is None else held_out.reference
    losses, _ = pair_losses(
        torch.from_numpy(policy),
        torch.from_numpy(np.array(reference)),
        torch.from_numpy(lengths),
        held_out.settings,
    )
    chosen, rejected = policy.astype(np.float64).T
    return PairScore(
        losses=losses.double().numpy(),
        preferred=(chosen > rejected).astype(np.float64),
        margin=chosen - rejected,
        nats=-chosen,
        targets=lengths[:, 0].astype(np.float64),
    )
