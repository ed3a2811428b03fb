"""Where a model comes from: made on the spot, S3, a volume, the Hub."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
from safetensors.numpy import load_file

from tests.trainer.conftest import Bucket
from tunesmith_api.modelfiles import wanted_file
from tunesmith_api.run import TrainingRun
from tunesmith_trainer import hub
from tunesmith_trainer.outcome import TrainerError, UserError
from tunesmith_trainer.sources import check_files, fetch_model, fetch_tokenizer
from tunesmith_trainer.tiny import write_tiny

MakeRun = Callable[..., TrainingRun]


def digests(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


def test_the_tiny_model_is_always_the_same(tmp_path: Path) -> None:
    write_tiny(tmp_path / "a")
    write_tiny(tmp_path / "b")
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    check_files(digests(tmp_path / "a"), "builtin://tiny")
    parameters = sum(w.size for w in load_file(tmp_path / "a/model.safetensors").values())
    assert 200_000 < parameters < 500_000


def put_model(bucket: Bucket, folder: Path) -> None:
    write_tiny(folder)
    for path in folder.iterdir():
        bucket.put(f"models/m/{path.name}", path.read_bytes())
    bucket.put("models/m/evil.bin", b"pickle")
    bucket.put("models/m/code.py", b"import os")


def test_a_model_in_s3(bucket: Bucket, make_run: MakeRun, tmp_path: Path) -> None:
    put_model(bucket, tmp_path / "made")
    run = make_run(model={"uri": bucket.uri("models/m/")})
    light = fetch_tokenizer(run, tmp_path / "light")
    whole = fetch_model(run, tmp_path / "whole")
    assert light.revision == whole.revision
    assert light.revision.startswith("sha256:")
    assert digests(whole.path) == digests(tmp_path / "made")
    assert not (light.path / "model.safetensors").exists()


def test_a_changed_model_has_another_revision(
    bucket: Bucket, make_run: MakeRun, tmp_path: Path
) -> None:
    put_model(bucket, tmp_path / "made")
    run = make_run(model={"uri": bucket.uri("models/m/")})
    before = fetch_tokenizer(run, tmp_path / "1").revision
    bucket.put("models/m/model.safetensors", b"other")
    assert fetch_tokenizer(run, tmp_path / "2").revision != before


def test_a_model_on_a_volume_is_used_where_it_is(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tunesmith_trainer.sources.PVC_PATH", str(tmp_path))
    write_tiny(tmp_path / "claim/models/m")
    fetched = fetch_model(make_run(model={"uri": "pvc://claim/models/m"}), tmp_path / "w")
    assert fetched.path == tmp_path / "claim/models/m"
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    ("names", "words"),
    [
        pytest.param(["config.json", "tokenizer.json"], ["weights"], id="no weights"),
        pytest.param(
            ["config.json", "tokenizer.json", "pytorch_model.bin"],
            ["pytorch_model.bin is a pickle", "convert"],
            id="only a pickle",
        ),
        pytest.param(["config.json", "model.safetensors"], ["tokenizer"], id="no tokenizer"),
        pytest.param(
            ["sub/config.json", "sub/model.safetensors", "sub/tokenizer.json"],
            ["config.json", "the folder"],
            id="one folder too high",
        ),
    ],
)
def test_what_a_model_lacks_is_named(names: list[str], words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        check_files(names, "s3://b/m/")
    assert caught.value.reason == "ModelInvalid"
    for word in words:
        assert word in caught.value.message


@pytest.mark.parametrize(
    ("name", "light", "whole"),
    [
        ("config.json", True, True),
        ("tokenizer.model", True, True),
        ("model-00001-of-00002.safetensors", False, True),
        ("model.safetensors.index.json", False, True),
        ("consolidated.safetensors", False, False),
        ("pytorch_model.bin", False, False),
        ("modeling_custom.py", False, False),
        ("onnx/model.safetensors", False, False),
        ("../config.json", False, False),
    ],
)
def test_only_safe_files_are_taken(name: str, light: bool, whole: bool) -> None:
    assert (wanted_file(name, whole=False), wanted_file(name, whole=True)) == (light, whole)


@pytest.mark.parametrize("content", ["{", "[]", "3"])
def test_a_strange_configuration_is_an_invalid_model(
    content: str, make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tunesmith_trainer.sources.PVC_PATH", str(tmp_path))
    write_tiny(tmp_path / "claim/m")
    (tmp_path / "claim/m/config.json").write_text(content)
    with pytest.raises(UserError) as caught:
        fetch_tokenizer(make_run(model={"uri": "pvc://claim/m"}), tmp_path / "w")
    assert caught.value.reason == "ModelInvalid"


RESPONSE = httpx2.Response(404, request=httpx2.Request("GET", "https://hub"))


@pytest.mark.parametrize(
    ("error", "reason", "words"),
    [
        pytest.param(
            RepositoryNotFoundError("x", response=RESPONSE),
            "ModelNotFound",
            ["hf://org/name", "HF_TOKEN", "spec.model"],
            id="an unknown or private model",
        ),
        pytest.param(
            GatedRepoError("x", response=RESPONSE), "ModelNotFound", ["licence"], id="a gated model"
        ),
        pytest.param(
            RevisionNotFoundError("x", response=RESPONSE),
            "ModelNotFound",
            ["v9", "spec.model.revision"],
            id="an unknown revision",
        ),
        pytest.param(
            httpx2.ConnectError("no route"),
            "HubUnavailable",
            ["no route", "S3"],
            id="no way to the Hub",
        ),
    ],
)
def test_what_the_hub_says(
    error: Exception,
    reason: str,
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(hub.HfApi, "model_info", fail)
    with pytest.raises(TrainerError) as caught:
        hub.fetch_from_hub("org/name", "v9", tmp_path, whole=True, token_file=tmp_path / "none")
    assert caught.value.reason == reason
    for word in words:
        assert word in caught.value.message


def test_a_data_set_of_the_hub_that_is_not_there_names_its_fields(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RepositoryNotFoundError("x", response=RESPONSE)

    monkeypatch.setattr(hub.HfApi, "dataset_info", fail)
    with pytest.raises(TrainerError) as caught:
        hub.fetch_dataset("org/name", "", tmp_path, list, tmp_path / "none")
    assert caught.value.reason == "DatasetNotFound"
    for word in ("hf://datasets/org/name", "spec.dataset.secretRef", "HF_TOKEN"):
        assert word in caught.value.message
