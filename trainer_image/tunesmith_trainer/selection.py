"""Picks the rows that are worth a person's time: active learning over logged conversations.

Of the rows that a model is least sure of, those that differ most from each other. Called by the
command line; knows no files but the one of its rows.
"""

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from tunesmith_api.dataset import Dataset, TooLong
from tunesmith_trainer.data.keys import as_keys, grouped
from tunesmith_trainer.data.reading import Reading, Row
from tunesmith_trainer.data.rowfile import Picked, pick
from tunesmith_trainer.data.scratch import Scratch
from tunesmith_trainer.data.shingles import mixed, shingles
from tunesmith_trainer.data.tally import content_key
from tunesmith_trainer.data.tokenizing import RowTokenizer
from tunesmith_trainer.data.values import Malformed

# Variety is looked for among so many times the rows that are wanted.
POOL_FACTOR = 5
_HASHES = 128
_LONGEST = 1024


class By(StrEnum):
    """What uncertainty is, in nats per token of the answers."""

    LOSS = "loss"
    """Mean negative log-likelihood: answers that the model would not have given."""
    ENTROPY = "entropy"
    """Mean entropy of the next token: places where it sees several ways on."""


class Doubt(NamedTuple):
    """How unsure the model is of a row's answers, in nats per token."""

    loss: float
    entropy: float


class Selected(NamedTuple):
    """A row that was picked."""

    row: Row
    doubt: Doubt


def draw(rows: Sequence[Row], most: int, seed: int, scratch: Scratch) -> Picked:
    """Give each different row once, and of more than ``most`` as many, drawn by ``seed``.

    They stay in their order; ``most`` 0 takes all.
    """
    firsts = grouped(as_keys(map(content_key, rows), scratch), scratch).firsts
    if most and len(firsts) > most:
        firsts = np.sort(np.random.default_rng(seed).choice(firsts, most, replace=False))
    return pick(rows, firsts, scratch)


def select(
    rows: Sequence[Row],
    doubts: Sequence[Doubt | None],
    count: int,
    by: By = By.LOSS,
    seed: int = 0,
) -> list[Selected]:
    """Give at most `count` rows, the most unlike ones among the `5 * count` most uncertain.

    Greedy k-center (Gonzalez 1985; Sener and Savarese 2018, arXiv:1708.00489) from the most
    uncertain row on; the distance is 1 - the Jaccard similarity of runs of three words, as MinHash
    with hashes of `seed` estimates it. Rows without a doubt have no answers and are left out.
    Equal rows count once.
    """
    pool = _pool(rows, doubts, POOL_FACTOR * count, by)
    signatures = _signatures([one.row.content for one in pool], seed)
    chosen: list[Selected] = []
    # Above any real distance, so the first one is the most uncertain.
    nearest = np.full(len(pool), 2.0)
    for _ in range(min(count, len(pool))):
        # The first of the farthest ones, as the pool is in the order of uncertainty.
        place = int(nearest.argmax())
        chosen.append(pool[place])
        distance = (signatures != signatures[place]).mean(axis=1)
        nearest = np.minimum(nearest, distance)
        nearest[place] = -1.0
    return chosen


def _pool(rows: Sequence[Row], doubts: Sequence[Doubt | None], most: int, by: By) -> list[Selected]:
    """Give the most uncertain rows, each once: only they are held in memory."""
    known = [(place, doubt) for place, doubt in enumerate(doubts) if doubt is not None]
    # Sorting is stable: of equally uncertain ones the first is first.
    known.sort(key=lambda one: -float(getattr(one[1], by.value)))
    pool: dict[bytes, Selected] = {}
    for place, doubt in known:
        if len(pool) == most:
            break
        row = rows[place]
        pool.setdefault(row.content, Selected(row, doubt))
    return list(pool.values())


def _signatures(contents: Sequence[bytes], seed: int) -> NDArray[np.uint64]:
    """Give the MinHash of each row, [N, 128]; rows without words are all the same."""
    result = np.zeros((len(contents), _HASHES), np.uint64)
    hashes, owners = shingles(contents)
    if not len(hashes):
        return result
    starts = np.flatnonzero(np.diff(owners, prepend=-1))
    salts = np.random.default_rng(seed).integers(0, 2**63, _HASHES, np.uint64)
    for column, salt in enumerate(salts):
        result[owners[starts], column] = np.minimum.reduceat(mixed(hashes ^ salt), starts)
    return result


def measure(
    model: Any,
    tokenizer: Any,
    rows: Sequence[Row],
    dataset: Dataset,
    on_row: Callable[[], None] = lambda: None,
) -> list[Doubt | None]:
    """Ask a loaded model how sure it is of each row; None for rows without answers.

    Of longer rows the first 1024 tokens count, or as many as the model reads. ``on_row`` is called
    after each.
    """
    context = getattr(model.config, "max_position_embeddings", None)
    longest = min(_LONGEST, context) if isinstance(context, int) else _LONGEST
    maker = RowTokenizer(tokenizer, longest, TooLong.TRUNCATE, Reading(dataset.checks))
    doubts: list[Doubt | None] = []
    for row in rows:
        doubts.append(_doubt(model, maker, row, longest))
        on_row()
    return doubts


def _doubt(model: Any, maker: RowTokenizer, row: Row, longest: int) -> Doubt | None:
    import torch

    content = orjson.loads(row.content)
    if not isinstance(content, list):
        return None
    (encoded,) = maker.encode([content])
    if isinstance(encoded, Malformed):
        return None
    ids = torch.as_tensor(np.asarray(encoded.ids[:longest], np.int64), device=model.device)
    mask = np.asarray(encoded.supervised[1:longest], bool)
    learned = torch.as_tensor(mask, device=model.device)
    if not bool(learned.any()):
        return None
    with torch.inference_mode():
        logits = model(input_ids=ids[None]).logits[0, :-1][learned].float()
    logs = logits.log_softmax(-1)
    loss = -logs.gather(1, ids[1:][learned][:, None]).mean()
    entropy = -(logs.exp() * logs).sum(-1).mean()
    return Doubt(loss.item(), entropy.item())
