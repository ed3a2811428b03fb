"""Pushing to the Hub: the real client against a small Hub of our own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from tests.trainer.hub_server import Hub
from tunesmith_api.output import HuggingFace
from tunesmith_api.result import UserErrorReason
from tunesmith_trainer.outcome import Infrastructure, UserError
from tunesmith_trainer.pushing import check_hub, push

TARGET = HuggingFace(repository="acme/support")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    server = Hub()
    # Read from HF_ENDPOINT when the client is imported, which it is by now.
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "merged"
    (folder / "model").mkdir(parents=True)
    (folder / "README.md").write_text("---\nlibrary_name: transformers\n---\n# support\n")
    (folder / "model" / "model.safetensors").write_bytes(bytes(range(256)) * 10)
    return folder


def token(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "HF_TOKEN"
    path.write_text(text + "\n")
    return path


def test_a_folder_is_pushed_once(hub: Hub, folder: Path, tmp_path: Path) -> None:
    writer = token(tmp_path, "hf_writer")
    first = push(TARGET, folder, "FineTuneJob a/b", writer)
    found = hub.repositories["acme/support"]
    assert found.private
    assert found.files.keys() == {"README.md", "model/model.safetensors"}
    assert found.files["model/model.safetensors"] == bytes(range(256)) * 10
    assert (found.messages, first) == (
        ["FineTuneJob a/b"],
        f"{hub.url}/acme/support/commit/{1:040x}",
    )
    assert push(TARGET, folder, "FineTuneJob a/b", writer) == first
    assert len(found.commits) == 2
    (folder / "README.md").write_text("---\n---\n# changed\n")
    assert push(TARGET, folder, "again", writer) != first
    assert found.messages == ["FineTuneJob a/b", "again"]


def test_a_check_makes_the_repository_and_leaves_one_alone(hub: Hub, tmp_path: Path) -> None:
    writer = token(tmp_path, "hf_writer")
    check_hub(TARGET.model_copy(update={"private": False}), writer)
    check_hub(TARGET, writer)
    assert not hub.repositories["acme/support"].private
    assert hub.repositories["acme/support"].files == {}


@pytest.mark.parametrize(
    ("text", "repository", "reason", "words"),
    [
        pytest.param(
            "hf_wrong", "acme/support", UserErrorReason.ACCESS_DENIED, ["HF_TOKEN"], id="no token"
        ),
        pytest.param(
            "hf_reader",
            "acme/support",
            UserErrorReason.OUTPUT_NOT_WRITABLE,
            ["acme/support", "403", "write permission"],
            id="a token that only reads, no repository",
        ),
        pytest.param(
            "hf_reader",
            "acme/there",
            UserErrorReason.OUTPUT_NOT_WRITABLE,
            ["acme/there", "403"],
            id="a token that only reads, a repository",
        ),
        pytest.param(
            "hf_writer",
            "other/support",
            UserErrorReason.OUTPUT_NOT_WRITABLE,
            ["other/support", "output.huggingFace.repository"],
            id="somebody else's name",
        ),
        pytest.param(
            "", "acme/support", UserErrorReason.CREDENTIALS_MISSING, ["HF_TOKEN"], id="an empty one"
        ),
    ],
)
def test_what_would_stop_the_push_is_found_before_training(
    hub: Hub, tmp_path: Path, text: str, repository: str, reason: str, words: list[str]
) -> None:
    check_hub(HuggingFace(repository="acme/there"), token(tmp_path, "hf_writer"))
    with pytest.raises(UserError) as error:
        check_hub(HuggingFace(repository=repository), token(tmp_path, text))
    assert error.value.reason == reason
    for word in words:
        assert word in error.value.message
    assert "hf_" not in error.value.message


def test_a_hub_that_is_away_is_nobodys_fault(hub: Hub, tmp_path: Path) -> None:
    hub.is_away = True
    with pytest.raises(Infrastructure) as error:
        check_hub(TARGET, token(tmp_path, "hf_writer"))
    assert error.value.reason == "HubUnavailable"


def test_a_missing_secret_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        check_hub(TARGET, tmp_path / "nowhere")
    assert "spec.output.huggingFace.secretRef" in error.value.message
