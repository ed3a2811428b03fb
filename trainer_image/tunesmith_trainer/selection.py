"""``python -m tunesmith_trainer.selection``: picks the rows that are worth a person's time.

Active learning over logged conversations: of the rows that the tuned model is least sure of, those
that differ most from each other. Reads a model and data from the local disk and writes one file;
needs no cluster. May be called by command lines.
"""

import argparse
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from tunesmith_api.dataset import Checks, Dataset, TooLong, Training
from tunesmith_process.logs import configure_logs
from tunesmith_trainer.data.compression import SourceFile
from tunesmith_trainer.data.reading import Reading, Row, read_rows
from tunesmith_trainer.data.rows import Reader
from tunesmith_trainer.data.shingles import mixed, shingles
from tunesmith_trainer.data.templates import load_tokenizer
from tunesmith_trainer.data.tokenizing import RowTokenizer
from tunesmith_trainer.data.values import Malformed
from tunesmith_trainer.logs import log
from tunesmith_trainer.outcome import TrainerError

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


def select(
    rows: Sequence[Row], doubts: Sequence[Doubt | None], count: int, by: By = By.LOSS
) -> list[Selected]:
    """Give at most `count` rows, the most unlike ones among the `5 * count` most uncertain.

    Greedy k-center (Gonzalez 1985; Sener and Savarese 2018, arXiv:1708.00489) from the most
    uncertain row on; the distance is 1 - the Jaccard similarity of runs of three words, as MinHash
    estimates it. Rows without a doubt have no answers and are left out. Equal rows count once.
    """
    scored: dict[bytes, Selected] = {}
    for row, doubt in zip(rows, doubts, strict=True):
        if doubt is not None:
            scored.setdefault(row.content, Selected(row, doubt))
    order = sorted(scored.values(), key=lambda s: (-getattr(s.doubt, by.value), s.row.content))
    pool = order[: POOL_FACTOR * count]
    signatures = _signatures([one.row.content for one in pool])
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


def _signatures(contents: Sequence[bytes]) -> NDArray[np.uint64]:
    """Give the MinHash of each row, [N, 128]; rows without words are all the same."""
    result = np.zeros((len(contents), _HASHES), np.uint64)
    hashes, owners = shingles(contents)
    if not len(hashes):
        return result
    starts = np.flatnonzero(np.diff(owners, prepend=-1))
    seeds = np.random.default_rng(0).integers(0, 2**63, _HASHES, np.uint64)
    for column, seed in enumerate(seeds):
        result[owners[starts], column] = np.minimum.reduceat(mixed(hashes ^ seed), starts)
    return result


def measure(directory: Path, rows: Sequence[Row], dataset: Dataset) -> list[Doubt | None]:
    """Ask the model in `directory` how sure it is of each row; None for rows without answers.

    Of longer rows the first 1024 tokens count. Raises UserError where the model cannot be loaded.
    """
    # Imported here: they take seconds to load.
    import torch
    from transformers import AutoModelForCausalLM

    tokenizer = load_tokenizer(directory, dataset)
    model = AutoModelForCausalLM.from_pretrained(directory, use_safetensors=True).eval()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)
    maker = RowTokenizer(tokenizer, _LONGEST, TooLong.TRUNCATE, Reading(dataset.checks))
    doubts: list[Doubt | None] = []
    for row in rows:
        doubts.append(_doubt(model, maker, row, device))
        if len(doubts) % 100 == 0:
            log.info("measured", rows=len(doubts), of=len(rows))
    return doubts


def _doubt(model: Any, maker: RowTokenizer, row: Row, device: Any) -> Doubt | None:
    import torch

    content = orjson.loads(row.content)
    if not isinstance(content, list):
        return None
    (encoded,) = maker.encode([content])
    if isinstance(encoded, Malformed):
        return None
    ids = torch.as_tensor(np.asarray(encoded.ids[:_LONGEST], np.int64), device=device)
    learned = torch.as_tensor(np.asarray(encoded.supervised[:_LONGEST], bool), device=device)[1:]
    if not bool(learned.any()):
        return None
    with torch.inference_mode():
        logits = model(input_ids=ids[None]).logits[0, :-1][learned].float()
    logs = logits.log_softmax(-1)
    loss = -logs.gather(1, ids[1:][learned][:, None]).mean()
    entropy = -(logs.exp() * logs).sum(-1).mean()
    return Doubt(loss.item(), entropy.item())


def read(path: Path) -> tuple[list[Row], Dataset]:
    """Read the rows of a local file in any format of docs/data.md; unreadable ones are left out."""
    uri = f"file://{path.resolve()}"
    checks = Checks(fail_on_malformed="1")
    dataset = Dataset(train=Training(uri=uri), checks=checks)
    reader = Reader(dataset.format, dataset)
    files = [SourceFile(uri, path)]
    return list(read_rows(files, reader, Reading(checks), lambda: None)), dataset


def write(selected: Sequence[Selected], path: Path) -> None:
    """Write the rows as Messages, best first, with their place and why they are there."""
    with path.open("wb") as file:
        for rank, (row, doubt) in enumerate(selected, 1):
            why = {
                "rank": rank,
                "loss": round(doubt.loss, 6),
                "entropy": round(doubt.entropy, 6),
                "line": row.line,
            }
            line = {"messages": orjson.loads(row.content), "selection": why}
            file.write(orjson.dumps(line) + b"\n")


def main(arguments: list[str] | None = None) -> int:
    """Pick rows; returns the exit code."""
    parser = argparse.ArgumentParser(prog="tunesmith_trainer.selection", description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="folder of a Merged artifact")
    parser.add_argument("--data", type=Path, required=True, help="file with conversations")
    parser.add_argument("--count", type=int, required=True, help="rows to pick")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines to write")
    parser.add_argument("--by", type=By, choices=list(By), default=By.LOSS, help="uncertainty")
    options = parser.parse_args(arguments)
    configure_logs("INFO", sys.stdout)
    try:
        rows, dataset = read(options.data)
        doubts = measure(options.model, rows, dataset)
        selected = select(rows, doubts, options.count, options.by)
        write(selected, options.out)
    except (TrainerError, OSError) as error:
        log.error("nothing selected", message=str(error))
        return 1
    log.info("selected", rows=len(selected), of=len(rows), without_answers=doubts.count(None))
    return 0


if __name__ == "__main__":
    sys.exit(main())
