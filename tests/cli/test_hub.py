"""Models and data of the Hub: run, asked and cached, against a small Hub of our own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from tests.cli.conftest import ask, run_here, tell, write_job
from tests.trainer.conftest import jsonl, pairs
from tests.trainer.hub_server import Hub, Repository
from tunesmith_api.result import ExitCode
from tunesmith_trainer.tiny import write_tiny

COMMIT = "a" * 40
ASKED = ("--prompt", "What is 3 and one?", "--max-tokens", "6")

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    server = Hub()
    # For what is done in this process: read from HF_ENDPOINT when the client is imported.
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace("https://huggingface.co", server.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    write_tiny(tmp_path / "made")
    files = {path.name: path.read_bytes() for path in (tmp_path / "made").iterdir()}
    server.repositories["acme/tiny"] = Repository(files=files, commits=["0" * 40, COMMIT])
    rows = {"data/train.jsonl": jsonl(*pairs(12)).encode()}
    server.repositories["datasets/acme/rows"] = Repository(private=True, files=rows)
    yield server
    server.shutdown()
    server.server_close()


def test_a_run_takes_model_and_rows_from_the_hub(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": "hf_reader",
        "HF_HOME": str(tmp_path / "hf"),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
    file = write_job(
        tmp_path,
        model={"uri": "hf://acme/tiny"},
        dataset={"train": {"uri": "hf://datasets/acme/rows"}},
        output={"uri": "out/", "artifacts": ["Adapter"]},
    )
    monkeypatch.setenv("HF_TOKEN", "hf_reader")
    told = run_here(file)
    assert told.returncode == 0, told.stderr
    (folder,) = (tmp_path / "out").iterdir()
    report = json.loads((folder / "report.json").read_text())
    assert report["modelRevision"] == COMMIT
    assert report["data"]["rows"]["read"] == 12
    # An adapter's base comes from the Hub again, once.
    hub.given.clear()
    first = tell("chat", folder, *ASKED, **environment)
    assert first.returncode == 0, first.stderr
    assert "model.safetensors" in hub.given
    hub.given.clear()
    monkeypatch.setenv("XDG_CACHE_HOME", environment["XDG_CACHE_HOME"])
    again = ask("chat", folder, *ASKED)
    assert (again.returncode, again.stdout, hub.given) == (0, first.stdout, [])


def test_a_private_data_set_without_a_token_is_said(hub: Hub, tmp_path: Path) -> None:
    file = write_job(tmp_path, dataset={"train": {"uri": "hf://datasets/acme/rows"}})
    told = tell("run", file, HF_ENDPOINT=hub.url, HF_TOKEN="", HF_HOME=str(tmp_path / "hf"))
    assert told.returncode == ExitCode.USER_ERROR
    assert "hf://datasets/acme/rows does not exist or is private" in told.stderr
