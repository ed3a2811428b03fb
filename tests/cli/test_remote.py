"""Results in S3: shown and talked to like those of this machine, by a real S3 server."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.cli.conftest import ask, run_here, write_job
from tests.ports import refusing_port
from tests.trainer.conftest import (
    ROOT_KEYS,
    STRANGER_KEYS,
    Bucket,
    S3Server,
    new_bucket,
    s3_server,
    use_identity,
)
from tunesmith_api.result import ExitCode
from tunesmith_cli import mirror

__all__ = ["s3_server"]
ASKED = ("--prompt", "say a", "--max-tokens", "8")

pytestmark = pytest.mark.timeout(600)


class Stored(NamedTuple):
    """A run whose results are in S3."""

    bucket: Bucket
    file: Path
    uri: str


@pytest.fixture(scope="module")
def stored(s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Stored:
    """Made by the command line: the job says where S3 is, the environment has the keys."""
    with pytest.MonkeyPatch.context() as patch:
        use_identity(patch, ROOT_KEYS)
        bucket = new_bucket(s3_server, tmp_path_factory.mktemp("keys"))
        folder = tmp_path_factory.mktemp("stored")
        output = {"uri": bucket.uri("results/"), "artifacts": ["Adapter", "Merged", "GGUF"]}
        data = {"train": {"uri": "rows.jsonl"}, "prompt": {"system": "Be short."}}
        s3 = {"endpoint": s3_server.endpoint}
        file = write_job(folder, output=output, dataset=data, s3=s3)
        told = run_here(file, "--work", folder / "work")
        assert told.returncode == 0, told.stderr
    (report,) = (key for key in bucket.keys("results/") if key.endswith("report.json"))
    return Stored(bucket, file, bucket.uri(report.removesuffix("/report.json")))


@pytest.fixture
def cache(stored: Stored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, with keys and endpoint in the environment."""
    use_identity(monkeypatch, ROOT_KEYS)
    monkeypatch.setenv("AWS_ENDPOINT_URL", stored.bucket.server.endpoint)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_report_is_shown_by_prefix_output_or_job(stored: Stored, cache: Path) -> None:
    for place in (stored.uri, f"{stored.uri}/report.json", stored.bucket.uri("results/")):
        told = ask("report", place)
        assert told.returncode == 0, told.stderr
        assert "heldout/loss" in told.stdout
        assert f"{stored.uri}/merged/" in told.stdout
        page = Path(told.stdout.rpartition("The page with curves: ")[2].strip())
        assert page.is_relative_to(cache)
        assert "Learning curves" in page.read_text()


def test_a_job_says_where_its_s3_is(
    stored: Stored, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    told = ask("report", stored.file, "--no-open")
    assert told.returncode == 0, told.stderr
    assert f"{stored.uri}/merged/" in told.stdout


def test_the_newest_run_is_shown(stored: Stored, cache: Path) -> None:
    bucket = stored.bucket
    report = bucket.get(stored.uri.removeprefix(bucket.uri()) + "/report.json")
    bucket.put("several/a/report.json", report.replace(b'"tiny"', b'"newer-a"'))
    bucket.put("several/b/report.json", b"no report")
    told = ask("report", bucket.uri("several"), "--no-open")
    assert told.returncode == ExitCode.USER_ERROR
    assert "b/report.json is not the report of a run" in told.stderr


def test_what_was_fetched_is_not_fetched_again(stored: Stored, cache: Path) -> None:
    first = ask("chat", stored.uri, *ASKED)
    assert first.returncode == 0, first.stderr
    assert f"Fetching {stored.uri}/merged/attempt-2/ (" in first.stderr
    assert len(first.stdout) > 1
    again = ask("chat", f"{stored.uri}/merged", *ASKED)
    assert (again.stdout, again.stderr) == (first.stdout, "")
    (weights,) = cache.rglob("merged/*/model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1])
    third = ask("chat", f"{stored.uri}/merged/attempt-2/", *ASKED)
    assert third.stdout == first.stdout
    assert "Fetching" in third.stderr


def test_adapter_and_gguf_answer_from_s3(
    stored: Stored, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = cache.parent / "examples.jsonl"
    examples.write_text('{"user": "say b", "bot": "bbb"}\n')
    asked = (*ASKED, "--examples", examples)
    merged = ask("chat", stored.uri, *asked)
    adapter = ask("chat", f"{stored.uri}/adapter", *asked)
    assert (adapter.returncode, adapter.stdout) == (0, merged.stdout), adapter.stderr
    monkeypatch.delenv("LLAMA_SERVER", raising=False)
    monkeypatch.setenv("PATH", "/nonexistent")
    for place in ("gguf", "gguf/attempt-2/model-Q8_0.gguf"):
        told = ask("chat", f"{stored.uri}/{place}", *asked)
        assert told.returncode == 0, told.stderr
        # Only with the run's report beside it can it be read without llama.cpp.
        assert "transformers reads the file" in told.stderr


def test_what_is_damaged_is_refused(stored: Stored, cache: Path) -> None:
    bucket = stored.bucket
    prefix = stored.uri.removeprefix(bucket.uri()) + "/merged/attempt-2/"
    for key in bucket.keys(prefix):
        data = bucket.get(key)
        if key.endswith("model.safetensors"):
            data = data[:-1] + bytes([data[-1] ^ 1])
        bucket.put(f"damaged/attempt-2/{key.removeprefix(prefix)}", data)
    for _ in range(2):
        told = ask("chat", bucket.uri("damaged"), *ASKED)
        assert told.returncode == ExitCode.USER_ERROR
        assert "does not have the sha256 of its manifest" in told.stderr
        assert "take another artifact" in told.stderr


def test_a_model_without_a_manifest_is_taken_as_it_is(stored: Stored, cache: Path) -> None:
    bucket = stored.bucket
    prefix = stored.uri.removeprefix(bucket.uri()) + "/merged/attempt-2/"
    for key in bucket.keys(prefix):
        if not key.endswith("manifest.json"):
            bucket.put(f"models/m/{key.removeprefix(prefix)}", bucket.get(key))
    first = ask("chat", bucket.uri("models/m"), *ASKED)
    assert first.returncode == 0, first.stderr
    again = ask("chat", bucket.uri("models/m/"), *ASKED)
    assert (again.stdout, again.stderr) == (first.stdout, "")
    bucket.put("models/m/generation_config.json", b"{}")
    assert "Fetching" in ask("chat", bucket.uri("models/m"), *ASKED).stderr


@pytest.mark.parametrize("command", ["report", "chat"])
def test_what_is_wrong_with_a_place_is_said(
    stored: Stored, cache: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = stored.bucket

    def refused(uri: str, *words: str) -> None:
        told = ask(command, uri, *(ASKED if command == "chat" else ()))
        assert told.returncode == ExitCode.USER_ERROR
        for word in words:
            assert word in told.stderr, told.stderr
        assert "Secret" not in told.stderr and "Traceback" not in told.stderr

    refused(bucket.uri("nothing/here"), "nothing/here")
    refused("s3://", "is not an s3:// URI")
    refused("s3://no-such-bucket-here/x", "There is no such bucket", "AWS_ENDPOINT_URL")
    use_identity(monkeypatch, STRANGER_KEYS)
    refused(stored.uri, "refused your credentials", "AWS_ACCESS_KEY_ID")
    use_identity(monkeypatch, ("unknown", "unknownsecret"))
    refused(stored.uri, "refused your credentials")
    use_identity(monkeypatch, None)
    refused(stored.uri, "There are no S3 credentials", "AWS_PROFILE")


def test_a_server_that_is_away_is_named(
    stored: Stored, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A person waits longer; what is said in the end is the same.
    monkeypatch.setattr(mirror, "_PATIENCE", timedelta(seconds=1))
    with refusing_port() as port:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        told = ask("report", stored.uri)
    assert told.returncode == ExitCode.USER_ERROR
    assert "does not answer" in told.stderr and "AWS_ENDPOINT_URL" in told.stderr


def test_a_model_of_the_hub_has_no_report() -> None:
    told = ask("report", "hf://acme/support")
    assert told.returncode == ExitCode.USER_ERROR
    assert "hf://acme/support: give a folder, s3://BUCKET/PREFIX or a job's YAML" in told.stderr


def test_a_run_of_a_cluster_is_asked_as_it_was_taught(stored: Stored, cache: Path) -> None:
    bucket = stored.bucket
    prefix = stored.uri.removeprefix(bucket.uri())
    for key in bucket.keys(f"{prefix}/merged/"):
        bucket.put(f"cluster{key.removeprefix(prefix)}", bucket.get(key))
    # Pods leave no run.json: what the model was taught with stands in the report.
    report = json.loads(bucket.get(f"{prefix}/report.json"))
    assert report["prompt"]["system"] == "Be short."
    report["prompt"]["system"] = "Be very short. " * 99
    bucket.put("cluster/report.json", json.dumps(report))
    told = ask("chat", bucket.uri("cluster"), *ASKED)
    assert told.returncode == ExitCode.USER_ERROR
    assert "the model reads at most 512" in told.stderr
    assert ask("chat", bucket.uri("cluster"), "--system", "Be.", *ASKED).returncode == 0
