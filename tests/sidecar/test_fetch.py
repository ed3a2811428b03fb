"""The fetcher against a real S3 server: what it brings, what it refuses, and what it says."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.conftest import (
    REGION,
    ROOT_KEYS,
    STRANGER_KEYS,
    Bucket,
    S3Server,
    new_bucket,
    use_identity,
)
from tunesmith_api.artifacts import FetchReason, FileEntry, Manifest, refusal
from tunesmith_api.run import S3Connection
from tunesmith_sidecar.fetch.__main__ import exit_code
from tunesmith_trainer.storage import Storage
from tunesmith_trainer.storage.manifest import commit_directory

ROOT = Path(__file__).parents[2]
FILES = {"config.json": b"{}", "model-Q8_0.gguf": os.urandom(3 << 20), "deep/er/x.bin": b"x" * 9}


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def put_model(bucket: Bucket, prefix: str, files: dict[str, bytes]) -> str:
    """Store a model by hand; gives the digest of its manifest."""
    entries = tuple(
        FileEntry(path=name, sha256=digest_of(data), size_bytes=len(data))
        for name, data in files.items()
    )
    for name, data in files.items():
        if ".." not in name:
            bucket.put(prefix + name, data)
    manifest = Manifest(attempt=1, files=entries).model_dump_json(by_alias=True).encode()
    bucket.put(prefix + "manifest.json", manifest)
    return digest_of(manifest)


@dataclass
class Done:
    code: int
    message: str
    log: str


@dataclass
class Pod:
    """A pod's volume, and the fetcher as the kubelet starts it."""

    folder: Path
    bucket: Bucket
    environment: dict[str, str]

    @property
    def digest_file(self) -> Path:
        return self.folder / "digest"

    def start(self, uri: str, digest: str, **more: str) -> subprocess.Popen[str]:
        given = {
            "uri": uri,
            "digest": digest,
            "folder": str(self.folder / "files"),
            "digest_file": str(self.digest_file),
            "endpoint": self.bucket.server.endpoint,
            "region": REGION,
            "path_style": "true",
            "termination_file": str(self.folder / "message"),
            "patience_seconds": "0",
            **more,
        }
        named = {f"TUNESMITH_FETCH_{name.upper()}": text for name, text in given.items()}
        self.folder.mkdir(exist_ok=True)
        return subprocess.Popen(
            [sys.executable, "-m", "tunesmith_sidecar.fetch"],
            env=self.environment | named,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, uri: str, digest: str, **more: str) -> Done:
        (self.folder / "message").unlink(missing_ok=True)
        process = self.start(uri, digest, **more)
        _, log = process.communicate(timeout=200)
        message = self.folder / "message"
        return Done(process.returncode, message.read_text() if message.exists() else "", log)

    def files(self) -> dict[str, bytes]:
        root = self.folder / "files"
        return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*.*")}


def identity(keys: tuple[str, str] | None) -> dict[str, str]:
    given = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "operator")}
    given["AWS_EC2_METADATA_DISABLED"] = "true"
    if keys:
        given |= {"AWS_ACCESS_KEY_ID": keys[0], "AWS_SECRET_ACCESS_KEY": keys[1]}
    return given


def wait_until_it_tries_again(process: subprocess.Popen[str]) -> None:
    assert process.stderr is not None
    assert any("trying again" in line for line in process.stderr)


@pytest.fixture
def pod(bucket: Bucket, tmp_path: Path) -> Pod:
    return Pod(tmp_path / "models", bucket, identity(ROOT_KEYS))


def test_what_the_trainer_committed_arrives_and_the_digest_last(pod: Pod, tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name, data in FILES.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(data)
    connection: S3Connection = pod.bucket.connection
    committed = commit_directory(
        Storage.open(connection, "output"), source, pod.bucket.uri("m/"), attempt=3
    )
    link = pod.folder / "model.gguf"
    done = pod.run(committed.uri, committed.digest, gguf_link=str(link))
    assert (done.code, done.message) == (0, ""), done.log
    assert pod.files() == FILES
    assert pod.digest_file.read_text() == committed.digest
    assert link.read_bytes() == FILES["model-Q8_0.gguf"]


def test_what_is_here_is_not_fetched_again_and_what_is_damaged_is(pod: Pod) -> None:
    digest = put_model(pod.bucket, "m/", FILES)
    assert pod.run(pod.bucket.uri("m/"), digest).code == 0
    whole, damaged = pod.folder / "files/config.json", pod.folder / "files/model-Q8_0.gguf"
    before = whole.stat().st_mtime_ns
    damaged.write_bytes(b"\0" * damaged.stat().st_size)
    done = pod.run(pod.bucket.uri("m/"), digest)
    assert done.code == 0
    assert '"here": 2' in done.log
    assert whole.stat().st_mtime_ns == before
    assert pod.files() == FILES


def test_another_manifest_is_refused_and_what_was_vouched_for_is_no_longer(pod: Pod) -> None:
    digest = put_model(pod.bucket, "m/", FILES)
    assert pod.run(pod.bucket.uri("m/"), digest).code == 0
    other = put_model(pod.bucket, "m/", {"config.json": b"[]"})
    done = pod.run(pod.bucket.uri("m/"), digest)
    assert done.code == exit_code(FetchReason.MODEL_REFUSED)
    assert f"is {other}, wanted is {digest}" in refusal(done.message)
    assert not pod.digest_file.exists()


def test_a_file_that_is_not_the_manifests_is_refused(pod: Pod) -> None:
    digest = put_model(pod.bucket, "m/", FILES)
    pod.bucket.put("m/deep/er/x.bin", b"y" * 9)
    done = pod.run(pod.bucket.uri("m/"), digest)
    assert done.code == exit_code(FetchReason.MODEL_REFUSED)
    assert "1 of 3 files" in refusal(done.message)
    assert "deep/er/x.bin" in done.message
    assert not pod.digest_file.exists()


REFUSED: list[Any] = [
    pytest.param({"a/../../up": b"x"}, {}, "names the file", id="a name that climbs out"),
    pytest.param({"/etc/x": b"x"}, {}, "names the file", id="an absolute name"),
    pytest.param({"a.gguf": b"x", "b.gguf": b"y"}, {"gguf": "1"}, "holds 2", id="two GGUF files"),
    pytest.param({"config.json": b"{}"}, {"gguf": "1"}, "holds 0", id="no GGUF file"),
]


@pytest.mark.parametrize(("files", "options", "words"), REFUSED)
def test_it_refuses(pod: Pod, files: dict[str, bytes], options: dict[str, str], words: str) -> None:
    digest = put_model(pod.bucket, "m/", files)
    more = {"gguf_link": str(pod.folder / "model.gguf")} if options else {}
    done = pod.run(pod.bucket.uri("m/"), digest, **more)
    assert done.code == exit_code(FetchReason.MODEL_REFUSED)
    assert words in refusal(done.message)
    assert not pod.digest_file.exists()


def test_a_projector_is_not_taken_for_the_model(pod: Pod) -> None:
    digest = put_model(pod.bucket, "m/", {"m.gguf": b"model", "mmproj-f16.gguf": b"eyes"})
    link = pod.folder / "model.gguf"
    assert pod.run(pod.bucket.uri("m/"), digest, gguf_link=str(link)).code == 0
    assert link.read_bytes() == b"model"


ABSENT = [
    pytest.param("s3://{bucket}/none/", FetchReason.MODEL_NOT_FOUND, "model's URI", id="no model"),
    pytest.param("s3://no-such-bucket/m/", FetchReason.BUCKET_NOT_FOUND, "bucket", id="no bucket"),
]


@pytest.mark.parametrize(("uri", "reason", "words"), ABSENT)
def test_what_is_missing_is_said(pod: Pod, uri: str, reason: FetchReason, words: str) -> None:
    done = pod.run(uri.format(bucket=pod.bucket.name), digest_of(b""))
    assert done.code == exit_code(reason)
    assert done.message.startswith(f"{reason}: ")
    assert words in done.message
    assert "\n" not in done.message
    assert refusal(done.message) == ""


def test_who_may_not_read_is_told_whose_keys_they_are(pod: Pod, tmp_path: Path) -> None:
    digest = put_model(pod.bucket, "m/", FILES)
    keys = tmp_path / "stranger"
    keys.mkdir()
    more = {"credentials_dir": str(keys), "secret": "s3-keys"}
    done = pod.run(pod.bucket.uri("m/"), digest, **more)
    assert done.message.startswith("CredentialsMissing: Secret s3-keys cannot be used")
    (keys / "AWS_ACCESS_KEY_ID").write_text(STRANGER_KEYS[0])
    (keys / "AWS_SECRET_ACCESS_KEY").write_text(STRANGER_KEYS[1] + "\n")
    done = pod.run(pod.bucket.uri("m/"), digest, **more)
    assert done.code == exit_code(FetchReason.ACCESS_DENIED)
    assert "AccessDenied: S3 refused the credentials of Secret s3-keys" in done.message
    assert STRANGER_KEYS[1] not in done.message + done.log


BASES = [
    pytest.param("base/", "", FetchReason.MODEL_REFUSED, "changed its files", id="another model"),
    pytest.param("none/", "", FetchReason.MODEL_NOT_FOUND, "no base model at", id="no model"),
    pytest.param("base/", "s", FetchReason.ACCESS_DENIED, "s3:ListBucket", id="no right to list"),
]


@pytest.mark.parametrize(("prefix", "keys", "reason", "words"), BASES)
def test_an_adapter_comes_only_with_its_base_model(
    pod: Pod, prefix: str, keys: str, reason: FetchReason, words: str
) -> None:
    digest = put_model(pod.bucket, "m/", {"adapter_config.json": b"{}"})
    put_model(pod.bucket, "base/", {"config.json": b"{}", "model.safetensors": b"weights"})
    if keys:
        pod.environment = identity(STRANGER_KEYS)
    base = {"base_uri": pod.bucket.uri(prefix), "base_digest": digest_of(b"of other files")}
    done = pod.run(pod.bucket.uri("m/"), digest, **base)
    assert (done.code, words in done.message) == (exit_code(reason), True), done.message
    assert base["base_uri"] in done.message
    assert not pod.digest_file.exists()


def test_without_any_identity_it_says_so(pod: Pod) -> None:
    pod.environment = identity(None)
    done = pod.run(pod.bucket.uri("m/"), digest_of(b""))
    assert done.code == exit_code(FetchReason.CREDENTIALS_MISSING)


def test_an_s3_that_comes_back_is_waited_for(
    own_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_identity(monkeypatch, ROOT_KEYS)
    bucket = new_bucket(own_server, tmp_path / "keys")
    digest = put_model(bucket, "m/", FILES)
    own_server.stop()
    pod = Pod(tmp_path / "models", bucket, identity(ROOT_KEYS))
    process = pod.start(bucket.uri("m/"), digest, patience_seconds="30")
    wait_until_it_tries_again(process)
    own_server.start()
    _, log = process.communicate(timeout=200)
    assert process.returncode == 0, log
    assert pod.files() == FILES


def test_an_s3_that_stays_away_is_given_up(pod: Pod) -> None:
    done = pod.run(pod.bucket.uri("m/"), digest_of(b""), endpoint="http://127.0.0.1:1")
    assert done.code == exit_code(FetchReason.STORAGE_UNAVAILABLE)
    assert "spec.s3.endpoint" in done.message


def test_a_disk_that_takes_nothing_is_named(pod: Pod) -> None:
    digest = put_model(pod.bucket, "m/", FILES)
    pod.folder.mkdir()
    (pod.folder / "files").write_text("no folder")
    done = pod.run(pod.bucket.uri("m/"), digest)
    assert done.code == exit_code(FetchReason.DISK_FAILED), done.log


def test_sigterm_ends_it_at_once(pod: Pod) -> None:
    process = pod.start(
        "s3://a-bucket/m/", digest_of(b""), patience_seconds="600", endpoint="http://127.0.0.1:1"
    )
    wait_until_it_tries_again(process)
    process.terminate()
    _, log = process.communicate(timeout=200)
    assert process.returncode == 143, log


def test_every_failure_has_an_exit_code() -> None:
    assert all(exit_code(reason) for reason in FetchReason)


def test_wrong_settings_are_named_in_one_line(pod: Pod) -> None:
    done = pod.run("http://x", digest_of(b""), fodler="/x")
    assert done.code == exit_code(FetchReason.SETTINGS_INVALID)
    (line,) = done.log.splitlines()
    assert line.startswith("SettingsInvalid: ")
    assert "TUNESMITH_FETCH_URI" in line
    assert "TUNESMITH_FETCH_FODLER" in line
