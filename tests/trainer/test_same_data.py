"""Prepared data is the same, byte for byte, as earlier versions made it.

The digests are those of the version that kept everything in memory; an experiment that is done
again with another version must train on the same rows. Where duplicates are dropped, that version
made them of sources without common rows: of common ones it took the second source's weight.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from tests.trainer.preparing import make_local_run
from tests.trainer.test_repeats import variants
from tunesmith_trainer.data import keys, near, scratch
from tunesmith_trainer.prepare import prepare
from tunesmith_trainer.progress import Progress
from tunesmith_trainer.stopping import StopSignal


def write(path: Path, texts: list[str], *, are_preferences: bool) -> str:
    with path.open("w") as file:
        for text in texts:
            half = len(text) // 2
            row = {"prompt": text[:half], "response": text[half:]}
            if are_preferences:
                question = hashlib.sha256(text.encode()).hexdigest()[:3]
                row = {"prompt": question, "chosen": text, "rejected": text[::-1]}
            file.write(json.dumps(row) + "\n")
    return f"file://{path}"


@pytest.mark.parametrize("is_in_small_pieces", [False, True])
@pytest.mark.parametrize(
    ("deduplicate", "objective", "digest", "arrays"),
    [
        pytest.param(
            "Near", "SFT", "ff91eaa1d82b59d7", "c668055fdc3d84d2", id="near duplicates dropped"
        ),
        pytest.param("Exact", "DPO", "dece0ed9b148f646", "ed78c50a7f4c4b4f", id="preferences"),
        pytest.param("Off", "SFT", "8af8685c56ac6313", "8ac9528018868117", id="all rows stay"),
    ],
)
def test_prepared_data_is_the_same_as_ever(
    deduplicate: str,
    objective: str,
    digest: str,
    arrays: str,
    is_in_small_pieces: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if is_in_small_pieces:
        for module in (scratch, keys, near):
            monkeypatch.setattr(module, "CHUNK", 100)
        monkeypatch.setattr(scratch, "_IN_MEMORY_BYTES", 64)
    texts = variants(11, 900)
    is_dpo = objective == "DPO"
    parts = {"a": texts[:500] + texts[:40], "b": texts[450:800], "test": texts[760:]}
    uris = {
        name: write(tmp_path / f"{name}.jsonl", some, are_preferences=is_dpo)
        for name, some in parts.items()
    }
    run = make_local_run(tmp_path / "a.jsonl", tmp_path / "out").model_dump(by_alias=True)
    run["objective"] = objective
    run["dataset"] = {
        "train": {
            "sources": [{"uri": uris["a"], "weight": "1.5"}, {"uri": uris["b"], "weight": "0.7"}]
        },
        "test": {"uri": uris["test"]},
        "validation": {"percent": "7"},
        "clean": {"deduplicate": deduplicate},
        "checks": {"tooLong": "Truncate"},
    }
    asked = make_local_run(tmp_path / "a.jsonl", tmp_path / "out").model_validate(run)
    result = prepare(asked, tmp_path / "work", Progress.of(asked), StopSignal())
    found = hashlib.sha256()
    for path in sorted((tmp_path / "work/prepared").glob("*.npy")):
        found.update(path.read_bytes())
    assert (result.dataset_digest[7:23], found.hexdigest()[:16]) == (digest, arrays)
