"""Which rows are trained on at which step, and how they become tensors.

Pure: the order is a function of (row lengths, seed, epoch, step, global batch size) and of
nothing else, so training goes on at any step without reading what came before, and a resumed
run sees exactly the batches of an undisturbed one. Called by `loop` and `evaluation`; must not
read files, clocks or global random state.

What stays the same when the number of ranks changes: the rows of every global batch, as long as
the global batch size (per-device batch size x accumulation steps x ranks) stays the same. Which
rank sees which of them changes, so sums of floats may differ in their last bits.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal

import numpy as np
import torch
from numpy.typing import NDArray

from tunesmith_trainer.data.prepared import Split
from tunesmith_trainer.packing import PackedRows, pack

Rows = NDArray[np.int64]

# Rows are sorted by length only inside windows of this many global batches: enough to keep
# padding low, few enough that a batch's neighbours differ from epoch to epoch.
WINDOW_BATCHES = 32


@dataclass(frozen=True)
class BatchPlan:
    """The batches of a whole run.

    `lengths` is int64[rows], tokens a row; `global_batch` is rows an optimizer step.
    """

    lengths: Rows
    seed: int
    global_batch: int

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps a pass over the rows takes; the last one may have fewer rows."""
        return math.ceil(len(self.lengths) / self.global_batch)

    def total_steps(self, epochs: str, max_steps: int) -> int:
        """Give the number of optimizer steps: `max_steps`, or as many as `epochs` gives if it is 0.

        A fraction of an epoch is rounded up to whole steps, so that the run has at least one.
        """
        return max_steps or math.ceil(Decimal(epochs) * self.steps_per_epoch)

    def epoch_batches(self, epoch: int) -> list[Rows]:
        """Give the global batches of an epoch, every row once.

        A Philox permutation keyed by (seed, epoch), cut into windows, sorted by length inside a
        window so that a batch holds rows of like length, and the full batches of a window
        shuffled again so that training does not see short rows first.
        """
        # Philox4x64 (Salmon et al. 2011): a counter-based generator, so a key is all its state.
        chance = np.random.Generator(
            np.random.Philox(key=np.array([self.seed, epoch], dtype=np.uint64))
        )
        order = chance.permutation(len(self.lengths)).astype(np.int64)
        window = WINDOW_BATCHES * self.global_batch
        batches: list[Rows] = []
        for start in range(0, len(order), window):
            rows = order[start : start + window]
            rows = rows[np.argsort(self.lengths[rows], kind="stable")]
            cuts = [rows[i : i + self.global_batch] for i in range(0, len(rows), self.global_batch)]
            full = [cut for cut in cuts if len(cut) == self.global_batch]
            batches += [full[i] for i in chance.permutation(len(full))]
            batches += cuts[len(full) :]
        return batches

    def rows_of(self, steps: int) -> Rows:
        """Give the rows that the first `steps` steps train on, each once, in ascending order."""
        return np.unique(np.concatenate(self.epoch_batches(0)[:steps]))

    def batches_from(self, step: int) -> Iterator[Rows]:
        """Give the global batches of optimizer steps `step`, `step + 1`, … without end."""
        epoch, position = divmod(step, self.steps_per_epoch)
        while True:
            yield from self.epoch_batches(epoch)[position:]
            epoch, position = epoch + 1, 0


def rank_share(rows: Rows, micro_batch: int, rank: int, ranks: int) -> list[Rows]:
    """Give the micro-batches of one rank out of a global batch.

    Every rank gets the same number of them, because ranks wait for each other in each; where
    rows run out a micro-batch is empty.
    """
    rounds = math.ceil(len(rows) / (micro_batch * ranks))
    return [
        rows[(turn * ranks + rank) * micro_batch : (turn * ranks + rank + 1) * micro_batch]
        for turn in range(rounds)
    ]


@dataclass(frozen=True)
class Batch:
    """Rows as tensors, either packed in one line or padded on the right.

    Padded rows have no attention mask: in a causal model a token never sees what comes after it,
    and padding comes after all, so real tokens are unaffected and the fast causal kernels are
    kept.
    """

    input_ids: torch.Tensor
    """int64[rows, longest], or int64[1, packed]."""
    positions: torch.Tensor
    """int64[supervised]: indices into the flattened outputs that predict one. Where packed rows
    share tokens, the same one may predict several."""
    targets: torch.Tensor
    """int64[supervised]: the token that is to be predicted there."""
    tokens: int
    """Tokens of the rows, without padding."""
    packed: PackedRows | None = None
    """Where rows are in the line; None if they are padded."""

    @property
    def computed(self) -> int:
        """Tokens that the model works on."""
        return self.input_ids.numel()

    def to(self, device: torch.device) -> "Batch":
        """Give the same batch on `device`."""
        return Batch(
            self.input_ids.to(device),
            self.positions.to(device),
            self.targets.to(device),
            self.tokens,
            self.packed and self.packed.to(device),
        )


def supervised_targets(split: Split, rows: Sequence[int] | Rows) -> int:
    """Count the tokens that rows are judged on; a row's first token is predicted by nothing."""
    return sum(supervised_by_row(split, rows))


def supervised_by_row(split: Split, rows: Sequence[int] | Rows) -> list[int]:
    """Count the tokens that each row is judged on."""
    offsets = split.offsets
    return [int(split.supervised[offsets[row] + 1 : offsets[row + 1]].sum()) for row in rows]


def collate(split: Split, rows: Sequence[int] | Rows, pad_id: int) -> Batch:
    """Make a batch of `rows`. No rows give one padding token and nothing to predict."""
    offsets = split.offsets
    longest = max((int(offsets[row + 1] - offsets[row]) for row in rows), default=1)
    input_ids = np.full((max(1, len(rows)), longest), pad_id, dtype=np.int64)
    positions, targets, tokens = [], [], 0
    for line, row in enumerate(rows):
        text = split.tokens[offsets[row] : offsets[row + 1]]
        learned = np.flatnonzero(split.supervised[offsets[row] + 1 : offsets[row + 1]])
        input_ids[line, : len(text)] = text
        positions.append(learned + line * longest)
        targets.append(text[learned + 1].astype(np.int64))
        tokens += len(text)
    return Batch(
        torch.from_numpy(input_ids),
        torch.from_numpy(np.concatenate([*positions, np.empty(0, np.int64)])),
        torch.from_numpy(np.concatenate([*targets, np.empty(0, np.int64)])),
        tokens,
    )


def collate_packed(
    split: Split, rows: Sequence[int] | Rows, pad_id: int, *, share: bool = True
) -> Batch:
    """Make a batch of `rows` in one line, each up to the last token that predicts something.

    No rows give one padding token and nothing to predict. `share` says whether what rows begin
    with in common is held once.
    """
    texts, learned, targets, tokens = [], [], [], 0
    for row in rows:
        text, marks = split.row(int(row))
        predicting = np.flatnonzero(marks[1:])
        learned.append(predicting)
        targets.append(text[predicting + 1].astype(np.int64))
        texts.append(text[: predicting[-1] + 1 if len(predicting) else 1])
        tokens += len(text)
    packed = pack(texts or [np.array([pad_id], np.int32)], share=share)
    positions = [place[at] for place, at in zip(packed.places, learned, strict=False)]
    return Batch(
        torch.from_numpy(packed.tokens.astype(np.int64))[None],
        torch.from_numpy(np.concatenate([*positions, np.empty(0, np.int64)])),
        torch.from_numpy(np.concatenate([*targets, np.empty(0, np.int64)])),
        tokens,
        packed.layout,
    )


def batches_by_length(lengths: Rows, batch_size: int, rank: int, ranks: int) -> list[Rows]:
    """Give one rank's batches for evaluation: all rows once, longest first, like lengths together.

    Longest first, so that running out of memory shows at once. Ranks may get different counts.
    """
    order = np.argsort(-lengths, kind="stable").astype(np.int64)
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    return batches[rank::ranks]
