"""Folders that look like a model and are none: what is said, before anything is trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.trainer.conftest import Bucket
from tests.trainer.preparing_in_s3 import MakeRun, do
from tunesmith_trainer.model import load_base
from tunesmith_trainer.outcome import UserError
from tunesmith_trainer.tiny import write_tiny

Break = Callable[[Path], None]


def configured(**settings: Any) -> Break:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | settings))

    return change


def halved(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        pytest.param(
            configured(hidden_size=256),
            ["model.embed_tokens.weight has the shape [260, 128]", "[260, 256]", "19 more"],
            id="a configuration of another size",
        ),
        pytest.param(
            configured(num_hidden_layers=3),
            ["model.layers.2.input_layernorm.weight is missing", "8 more", "config.json"],
            id="weights that are missing",
        ),
        pytest.param(halved, ["damaged or cut off", "upload it again"], id="half a file"),
        pytest.param(
            configured(model_type="own", auto_map={"AutoConfig": "own.Config"}),
            ["asks for code that comes with the model"],
            id="code of its own",
        ),
        pytest.param(configured(model_type="unheard"), ["unheard"], id="an unknown family"),
    ],
)
def test_what_is_no_whole_model_is_refused(
    spoil: Break, words: list[str], device: str, tmp_path: Path
) -> None:
    """`meta` is how ranks other than 0 load a model that is held in parts."""
    write_tiny(tmp_path / "m")
    spoil(tmp_path / "m")
    with pytest.raises(UserError) as refused:
        load_base(tmp_path / "m", torch.float32, torch.device(device))
    assert refused.value.reason == "ModelInvalid"
    for word in words:
        assert word in refused.value.message
    assert "trust_remote_code" not in refused.value.message


def test_weights_that_are_not_used_do_no_harm(tmp_path: Path) -> None:
    write_tiny(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    eyes = {"vision_tower.weight": torch.ones(2)}
    save_file(weights | eyes, tmp_path / "model.safetensors", {"format": "pt"})
    load_base(tmp_path, torch.float32, torch.device("cpu"))


def test_a_tokenizer_that_is_larger_than_the_model(
    bucket: Bucket, make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tunesmith_trainer.sources.PVC_PATH", str(tmp_path))
    write_tiny(tmp_path / "claim")
    rows = [{"prompt": f"what {n}?", "response": f"that {n}"} for n in range(20)]
    uri = bucket.put("data.jsonl", "\n".join(map(json.dumps, rows)))
    run = make_run(model={"uri": "pvc://claim/"}, dataset={"train": {"uri": uri}})
    # Its last tokens are marks that no row has: a surplus that is not used is none.
    configured(vocab_size=259)(tmp_path / "claim")
    do(run, tmp_path / "w")
    configured(vocab_size=100)(tmp_path / "claim")
    with pytest.raises(UserError, match=r"makes the token \d+ of the data, but .* 0 to 99") as no:
        do(run.model_copy(update={"run_uri": bucket.uri("runs/2/")}), tmp_path / "w2")
    assert no.value.reason == "ModelInvalid"
