"""An S3 whose certificate nobody knows but the owner of the cluster: trainer and fetcher."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from deploy.native.pki import Authority
from tests.ports import free_port
from tests.sidecar.test_fetch import FILES, Pod, identity, put_model
from tests.trainer.conftest import ROOT_KEYS, Bucket, S3Server, new_bucket, use_identity
from tunesmith_api.artifacts import FetchReason
from tunesmith_operator.resources.surroundings import CA_VARIABLES
from tunesmith_sidecar.fetch.__main__ import exit_code
from tunesmith_trainer.outcome import Infrastructure, UserError
from tunesmith_trainer.storage import Storage

MOMENT = timedelta(seconds=1)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = Authority(tmp_path_factory.mktemp("pki"))
    made.issue("s3", "s3", "s3", ["IP:127.0.0.1"])
    return made


@pytest.fixture
def tls_bucket(
    s3_server: S3Server, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Bucket]:
    """A bucket of a server with TLS; the process trusts it."""
    certificate = (authority.cert("s3"), authority.key("s3"))
    server = S3Server(s3_server.binary, tmp_path / "tls-s3", free_port(), certificate=certificate)
    server.start()
    use_identity(monkeypatch, ROOT_KEYS)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(authority.certificate))
    yield new_bucket(server, tmp_path / "keys")
    server.stop()


def test_the_trainer_trusts_whom_it_is_told_to_and_nobody_else(
    tls_bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = tls_bucket.put("data/rows.jsonl", "{}")
    storage = Storage.open(tls_bucket.connection, "dataset", patience=MOMENT)
    assert [info.uri for info in storage.list(uri)] == [uri]

    monkeypatch.delenv("AWS_CA_BUNDLE")
    with pytest.raises(Infrastructure, match="not trusted: set the chart's caBundle"):
        Storage.open(tls_bucket.connection, "dataset", patience=MOMENT).list(uri)

    missing = tmp_path / "ca.crt"
    monkeypatch.setenv("AWS_CA_BUNDLE", str(missing))
    with pytest.raises(UserError, match="caBundle") as caught:
        Storage.open(tls_bucket.connection, "dataset")
    assert caught.value.reason == "CredentialsMissing"
    assert str(missing) in caught.value.message


def test_the_fetcher_trusts_whom_it_is_told_to_and_nobody_else(
    tls_bucket: Bucket, authority: Authority, tmp_path: Path
) -> None:
    digest = put_model(tls_bucket, "m/", FILES)
    told = {name: str(authority.certificate) for name in CA_VARIABLES}
    pod = Pod(tmp_path / "models", tls_bucket, identity(ROOT_KEYS) | told)
    done = pod.run(tls_bucket.uri("m/"), digest)
    assert done.code == 0, done.log
    assert pod.files() == FILES

    pod = Pod(tmp_path / "strangers", tls_bucket, identity(ROOT_KEYS))
    done = pod.run(tls_bucket.uri("m/"), digest, patience_seconds="1")
    assert done.code == exit_code(FetchReason.STORAGE_UNAVAILABLE), done.log
    assert "caBundle" in done.message

    lost = {name: str(tmp_path / "ca.crt") for name in CA_VARIABLES}
    pod = Pod(tmp_path / "lost", tls_bucket, identity(ROOT_KEYS) | lost)
    done = pod.run(tls_bucket.uri("m/"), digest)
    assert done.code == exit_code(FetchReason.CREDENTIALS_MISSING), done.log
    assert "caBundle" in done.message
