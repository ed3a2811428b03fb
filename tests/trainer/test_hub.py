"""Downloads from the Hub: the real client against a small Hub of our own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from tests.trainer.conftest import jsonl, pairs
from tests.trainer.hub_server import Hub, Repository
from tunesmith_api.result import UserErrorReason
from tunesmith_trainer.data.finding import find_files
from tunesmith_trainer.hub import fetch_from_hub
from tunesmith_trainer.outcome import Infrastructure, UserError
from tunesmith_trainer.storage import Storage
from tunesmith_trainer.tiny import write_tiny

NO_TOKEN = Path("/nonexistent")
LIGHT = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A Hub with a model and a data set."""
    server = Hub()
    # Read from HF_ENDPOINT when the client is imported, which it is by now.
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace("https://huggingface.co", server.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    write_tiny(tmp_path / "made")
    files = {path.name: path.read_bytes() for path in (tmp_path / "made").iterdir()}
    files |= {"pytorch_model.bin": b"pickle", "code.py": b"import os", "onnx/m.onnx": b"x"}
    server.repositories["acme/tiny"] = Repository(files=files, commits=["0" * 40, "a" * 40])
    rows = {"data/train-0.jsonl": jsonl(*pairs(12)), "data/test-0.jsonl": jsonl(*pairs(3, 50))}
    files = {name: text.encode() for name, text in rows.items()} | {"README.md": b"# Rows"}
    server.repositories["datasets/acme/rows"] = Repository(files=files)
    yield server
    server.shutdown()
    server.server_close()


def names(folder: Path) -> set[str]:
    """Give the files of a folder, without the notes of the Hub's client."""
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return {name for name in found if not name.startswith(".cache/")}


def test_a_model_is_fetched_whole_or_light_and_nothing_that_runs(hub: Hub, tmp_path: Path) -> None:
    commit = fetch_from_hub("acme/tiny", "", tmp_path / "whole", True, NO_TOKEN)
    assert commit == "a" * 40
    assert names(tmp_path / "whole") == LIGHT | {"model.safetensors"}
    for path in (tmp_path / "made").iterdir():
        assert (tmp_path / "whole" / path.name).read_bytes() == path.read_bytes()
    assert not {"pytorch_model.bin", "code.py"} & set(hub.given)
    hub.given.clear()
    fetch_from_hub("acme/tiny", "main", tmp_path / "light", False, NO_TOKEN)
    assert names(tmp_path / "light") == LIGHT == set(hub.given)
    hub.given.clear()
    fetch_from_hub("acme/tiny", "", tmp_path / "whole", True, NO_TOKEN)
    assert hub.given == [], "what is there is not fetched again"


def no_storage() -> Storage:
    raise AssertionError("the Hub is no S3")


def test_a_data_set_gives_its_train_split_or_what_is_named(hub: Hub, tmp_path: Path) -> None:
    uri = "hf://datasets/acme/rows"
    for asked, name in ((uri, "data/train-0.jsonl"), (f"{uri}/data/test-0.jsonl",) * 2):
        (file,) = find_files(asked, no_storage, tmp_path / name, lambda _: None)
        assert file.uri == f"{uri}/{name.removeprefix(uri + '/')}"
        expected = hub.repositories["datasets/acme/rows"].files[file.uri.removeprefix(f"{uri}/")]
        assert file.path.read_bytes() == expected


@pytest.mark.parametrize(
    ("name", "revision", "reason", "words"),
    [
        pytest.param("acme/none", "", UserErrorReason.MODEL_NOT_FOUND, "does not exist", id="none"),
        pytest.param(
            "acme/tiny", "v9", UserErrorReason.MODEL_NOT_FOUND, "has no revision v9", id="revision"
        ),
        pytest.param(
            "acme/code", "", UserErrorReason.MODEL_INVALID, "lacks config.json", id="no model"
        ),
    ],
)
def test_what_the_hub_does_not_have_is_said(
    hub: Hub, tmp_path: Path, name: str, revision: str, reason: UserErrorReason, words: str
) -> None:
    hub.repositories["acme/code"] = Repository(files={"code.py": b"import os"})
    with pytest.raises(UserError) as caught:
        fetch_from_hub(name, revision, tmp_path / "m", True, NO_TOKEN)
    assert caught.value.reason == reason
    assert words in caught.value.message


def test_a_private_model_needs_a_token(hub: Hub, tmp_path: Path) -> None:
    hub.repositories["acme/tiny"].private = True
    with pytest.raises(UserError, match="put HF_TOKEN into the Secret"):
        fetch_from_hub("acme/tiny", "", tmp_path / "none", True, NO_TOKEN)
    token = tmp_path / "HF_TOKEN"
    token.write_text("hf_reader\n")
    fetch_from_hub("acme/tiny", "", tmp_path / "model", True, token)
    assert "model.safetensors" in names(tmp_path / "model")


def test_a_hub_that_is_away_may_come_back(hub: Hub, tmp_path: Path) -> None:
    hub.is_away = True
    with pytest.raises(Infrastructure, match="put it into S3"):
        fetch_from_hub("acme/tiny", "", tmp_path / "m", True, NO_TOKEN)
