"""Which files are data, where they may be, and how often their rows are taken."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from tests.trainer.scratch_room import SCRATCH
from tests.trainer.test_data import TURN
from tunesmith_api.dataset import DataFormat
from tunesmith_trainer.data.finding import data_files, find_files, hub_selection, parse_hub_uri
from tunesmith_trainer.data.mixing import mix
from tunesmith_trainer.data.reading import Row


@pytest.mark.parametrize(
    ("names", "wanted", "expected"),
    [
        (["b.csv.gz", "a.jsonl", "README.txt", "x.py"], "Auto", ["a.jsonl", "b.csv.gz"]),
        (["b.txt", "a.log.zst", "x.py"], "Auto", ["a.log.zst", "b.txt"]),
        (["a.jsonl", "b.txt"], "Text", ["a.jsonl", "b.txt"]),
        (["a.txt"], "Messages", []),
        (["a.parquet", "dataset_info.json"], "Auto", ["a.parquet"]),
        (
            ["a.csv", ".ipynb_checkpoints/a-checkpoint.csv", "x/._a.csv", "~$a.csv"],
            "Auto",
            ["a.csv"],
        ),
        (["__MACOSX/a.csv", "b/a.csv"], "Auto", ["b/a.csv"]),
    ],
)
def test_which_files_of_a_folder_are_data(
    names: list[str], wanted: str, expected: list[str]
) -> None:
    assert data_files(names, DataFormat(wanted)) == expected


def test_files_of_this_disk(tmp_path: Path) -> None:
    # Hidden is what a folder has in it, not the folder that was asked for.
    folder = tmp_path / ".data"
    for name in ("a b.jsonl", ".ipynb_checkpoints/a b-checkpoint.jsonl"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(TURN)

    def names(uri: str) -> list[str]:
        return [f.uri for f in find_files(uri, pytest.fail, tmp_path, print)]

    assert names(f"file://{folder}/") == names(f"file://{folder}") == [f"file://{folder}/a b.jsonl"]
    assert names(f"file://{folder}/a b.jsonl") == [f"file://{folder}/a b.jsonl"]


@pytest.mark.parametrize(
    ("uri", "parts"),
    [
        ("hf://datasets/org/name", ("org/name", "", "")),
        ("hf://datasets/org/name/data/a.csv", ("org/name", "", "data/a.csv")),
        ("hf://datasets/org/name@v1.0/data", ("org/name", "v1.0", "data")),
        (
            "hf://datasets/org/name@refs/convert/parquet/default/train",
            ("org/name", "refs/convert/parquet", "default/train"),
        ),
    ],
)
def test_uris_of_the_hub(uri: str, parts: tuple[str, str, str]) -> None:
    assert parse_hub_uri(uri) == parts


HUB_FILES = [
    "README.md",
    "data/train-00000-of-00001.parquet",
    "data/test-00000-of-00001.parquet",
    "extra/train.jsonl",
]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("", ["data/train-00000-of-00001.parquet", "extra/train.jsonl"]),
        ("extra", ["extra/train.jsonl"]),
        ("data/test-00000-of-00001.parquet", ["data/test-00000-of-00001.parquet"]),
        ("none", []),
    ],
)
def test_test_rows_of_the_hub_are_not_trained_on(path: str, expected: list[str]) -> None:
    assert hub_selection(HUB_FILES, path, DataFormat.AUTO) == expected


def test_weights_say_how_often_rows_are_taken() -> None:
    rows = [Row(f"{file}{n}".encode(), file, n) for file in "ab" for n in range(100)]

    def counts(weights: dict[str, str], seed: int = 1) -> dict[Row, int]:
        mixed = mix(rows, {file: Decimal(w) for file, w in weights.items()}, seed, SCRATCH)
        return {row: mixed.count(row) for row in rows}

    once = counts({"a": "1", "b": "0.25"})
    assert all(once[row] == 1 for row in rows[:100])
    assert sum(once[row] for row in rows[100:]) == 25
    more = counts({"a": "2.5", "b": "0.001"})
    assert sorted(more[row] for row in rows[:100]) == [2] * 50 + [3] * 50
    assert sum(more[row] for row in rows[100:]) == 1
    # More weight keeps what less weight had, so results can be compared.
    half = counts({"a": "1", "b": "0.5"})
    assert all(half[row] >= once[row] for row in rows)
    assert counts({"a": "1", "b": "0.5"}, seed=2) != half
