"""Models, rows and runs with tokens that their tokenizer did not have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.trainer.trials import split_of
from tunesmith_api.dataset import Dataset
from tunesmith_trainer.data.newtokens import NewTokens
from tunesmith_trainer.data.prepared import Split
from tunesmith_trainer.data.templates import load_extended, load_tokenizer

ADDED = {"addTokens": ["<order>", "Zürich"], "addSpecialTokens": ["<|note|>"]}
FIRST = 260
"""The tiny model's tokens are those below."""


def dataset(**given: Any) -> Dataset:
    return Dataset.model_validate({"train": {"uri": "s3://any/x.jsonl"}} | given)


def tagged_rows(count: int, seed: int, tokenizer: Any) -> Split:
    """Rows whose answers have a new token in them, which follows from the question."""
    extended = load_tokenizer(Path(tokenizer.name_or_path), dataset(**ADDED))
    chance = np.random.default_rng(seed)
    numbers = chance.integers(1, 9, count)
    rows = [
        (f"ship {n}", f"<order>{n}") if n % 2 else (f"where {n}", f"Zürich {n}") for n in numbers
    ]
    return split_of(rows, extended)


def settings_of(*, tied: bool, size: int = FIRST) -> dict[str, Any]:
    return {"tie_word_embeddings": tied, "vocab_size": size}


def tokens_of(folder: Path) -> NewTokens:
    return load_extended(folder, dataset(**ADDED))[1]
