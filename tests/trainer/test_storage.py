"""S3 against a real server: what arrives, what is refused, and what an outage does."""

from __future__ import annotations

import json
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest

from tests.trainer.conftest import (
    ROOT_KEYS,
    STRANGER_KEYS,
    Bucket,
    S3Server,
    new_bucket,
    use_identity,
    write_credentials,
)
from tunesmith_trainer.outcome import Infrastructure, Interrupted, Superseded, UserError
from tunesmith_trainer.stopping import StopSignal
from tunesmith_trainer.storage import Conflict, NotFound, Storage
from tunesmith_trainer.storage.fence import Fence
from tunesmith_trainer.storage.locations import local_path, parse
from tunesmith_trainer.storage.manifest import (
    Damaged,
    commit_directory,
    fetch_committed,
    read_manifest,
)


@pytest.fixture
def storage(bucket: Bucket) -> Storage:
    return Storage.open(bucket.connection, "output")


def test_files_go_up_and_come_back(storage: Storage, bucket: Bucket, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "big").write_bytes(bytes(range(256)) * 150_000)
    (source / "sub/empty").touch()
    seen: list[int] = []
    storage.upload_all(
        [(source / name, bucket.uri(f"d/{name}")) for name in ("big", "sub/empty")], seen.append
    )
    assert sum(seen) == 256 * 150_000
    found = storage.download_prefix(bucket.uri("d"), tmp_path / "back")
    assert [info.relative for info, _ in found] == ["big", "sub/empty"]
    assert (tmp_path / "back/big").read_bytes() == (source / "big").read_bytes()
    assert (tmp_path / "back/sub/empty").read_bytes() == b""


def test_an_object_that_changes_while_it_is_read_is_not_half_of_each(
    storage: Storage, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 17 << 20
    uri = bucket.put("data/large.jsonl", b"a" * size)
    listed = storage.list(uri)
    bucket.put("data/large.jsonl", b"b" * size)
    monkeypatch.setattr(storage, "list", lambda _: listed)
    with pytest.raises(Infrastructure) as caught:
        storage.download(uri, tmp_path / "large.jsonl")
    assert caught.value.reason == "ObjectChanged"
    assert "data/large.jsonl" in caught.value.message
    assert not (tmp_path / "large.jsonl").exists()


def test_a_prefix_does_not_stand_for_its_neighbour(storage: Storage, bucket: Bucket) -> None:
    bucket.put("data/a", "1")
    bucket.put("data2/b", "2")
    assert [info.key for info in storage.list(bucket.uri("data/"))] == ["data/a"]
    assert storage.list(bucket.uri("data")) == []
    assert storage.delete_prefix(bucket.uri("data")) == 1
    assert bucket.keys() == ["data2/b"]


def test_conditional_writes(storage: Storage, bucket: Bucket) -> None:
    uri = bucket.uri("x")
    etag = storage.put_bytes(uri, b"1", only_if_absent=True)
    with pytest.raises(Conflict):
        storage.put_bytes(uri, b"2", only_if_absent=True)
    newer = storage.put_bytes(uri, b"3", if_match=etag)
    with pytest.raises(Conflict):
        storage.put_bytes(uri, b"4", if_match=etag)
    assert storage.get(uri).data == b"3"
    assert storage.get(uri).etag == newer
    with pytest.raises(NotFound):
        storage.get_bytes(bucket.uri("y"))


def test_credentials_come_from_the_secret_of_the_role(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_identity(monkeypatch, None)
    storage = Storage.open(bucket.connection_with_secret, "output", bucket.credentials)
    storage.check_writable(bucket.uri("runs/"))
    assert bucket.keys() == []


@pytest.mark.parametrize(
    ("present", "missing"),
    [
        pytest.param(
            (),
            "does not exist or lacks AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
            id="an empty Secret, or none",
        ),
        pytest.param(
            ("AWS_ACCESS_KEY_ID",), "dataset, lacks AWS_SECRET_ACCESS_KEY", id="half a Secret"
        ),
    ],
)
def test_a_secret_without_its_keys_is_named(
    present: tuple[str, ...], missing: str, bucket: Bucket, tmp_path: Path
) -> None:
    write_credentials(tmp_path, ROOT_KEYS, ("dataset",))
    for file in (tmp_path / "dataset").iterdir():
        if file.name not in present:
            file.unlink()
    with pytest.raises(UserError) as caught:
        Storage.open(bucket.connection_with_secret, "dataset", tmp_path)
    assert caught.value.reason == "CredentialsMissing"
    assert "Secret keys" in caught.value.message and missing in caught.value.message


def test_no_secret_appears_in_a_message(bucket: Bucket, tmp_path: Path) -> None:
    write_credentials(tmp_path, ("nobody", "very-secret"), ("dataset",))
    storage = Storage.open(bucket.connection_with_secret, "dataset", tmp_path)
    with pytest.raises(UserError) as caught:
        storage.list(bucket.uri("data/"))
    assert caught.value.reason == "AccessDenied"
    assert "Secret keys" in caught.value.message
    assert "very-secret" not in caught.value.message and "nobody" not in caught.value.message


@pytest.mark.parametrize(
    "name",
    ["", "../up", "a/../../up", "/etc/passwd", "a//b", "a/./b", "nul\0", "back\\slash", ".."],
)
def test_a_hostile_key_reaches_no_path(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        local_path(tmp_path, name)
    assert caught.value.reason == "InvalidRun"


def test_a_link_does_not_lead_out(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/link").symlink_to(tmp_path)
    with pytest.raises(UserError):
        local_path(tmp_path / "in", "link/file")


@pytest.mark.parametrize("uri", ["http://b/k", "s3:///k", "s3://b/../k", "s3://b/a/../../k"])
def test_a_strange_uri_is_refused(uri: str) -> None:
    with pytest.raises(UserError):
        parse(uri)


def test_a_server_that_comes_back_is_waited_for(
    own_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_identity(monkeypatch, ROOT_KEYS)
    bucket = new_bucket(own_server, tmp_path / "keys")
    storage = Storage.open(bucket.connection, "output", patience=timedelta(seconds=200))
    file = tmp_path / "file"
    file.write_bytes(b"x" * 100_000)
    own_server.stop()
    back = threading.Timer(1.0, own_server.start)
    back.start()
    storage.upload(file, bucket.uri("late"))
    back.join()
    assert bucket.get("late") == file.read_bytes()


def test_a_server_that_stays_away_is_infrastructure(
    own_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_identity(monkeypatch, ROOT_KEYS)
    bucket = new_bucket(own_server, tmp_path / "keys")
    own_server.stop()
    storage = Storage.open(bucket.connection, "dataset", patience=timedelta(seconds=1))
    with pytest.raises(Infrastructure) as caught:
        storage.list(bucket.uri("data/"))
    assert caught.value.reason == "StorageUnavailable"
    assert bucket.server.endpoint in caught.value.message


def test_sigterm_ends_the_waiting(
    own_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_identity(monkeypatch, ROOT_KEYS)
    bucket = new_bucket(own_server, tmp_path / "keys")
    own_server.stop()
    stop = StopSignal()
    storage = Storage.open(bucket.connection, "dataset", stop=stop)
    threading.Timer(0.5, stop.request).start()
    began = time.monotonic()
    with pytest.raises(Interrupted):
        storage.list(bucket.uri("data/"))
    # It would be waited for for minutes.
    assert time.monotonic() - began < 100


class TestManifest:
    @pytest.fixture
    def directory(self, tmp_path: Path) -> Path:
        folder = tmp_path / "made"
        (folder / "sub").mkdir(parents=True)
        (folder / "weights").write_bytes(b"w" * 1000)
        (folder / "sub/config").write_text("c")
        return folder

    def test_a_committed_directory_comes_back_whole(
        self, storage: Storage, bucket: Bucket, directory: Path, tmp_path: Path
    ) -> None:
        done = commit_directory(
            storage, directory, bucket.uri("out/"), attempt=1, extra={"step": "5"}
        )
        assert done.size_bytes == 1001
        found = fetch_committed(storage, bucket.uri("out/"), tmp_path / "back")
        assert (found.uri, found.digest) == (done.uri, done.digest)
        assert found.manifest.extra == {"step": "5"}
        assert (tmp_path / "back/sub/config").read_text() == "c"
        # The folder itself works like the prefix above it.
        assert read_manifest(storage, done.uri) == found

    def test_without_its_manifest_it_was_never_there(
        self, storage: Storage, bucket: Bucket, directory: Path, tmp_path: Path
    ) -> None:
        done = commit_directory(storage, directory, bucket.uri("out/"), attempt=1)
        bucket.client.delete_object(Bucket=bucket.name, Key="out/attempt-1/manifest.json")
        assert read_manifest(storage, bucket.uri("out/")) is None
        with pytest.raises(NotFound):
            fetch_committed(storage, done.uri, tmp_path / "back")

    @pytest.mark.parametrize(
        "content",
        [
            pytest.param(b"v" + b"w" * 999, id="one byte flipped"),
            pytest.param(b"w" * 10, id="cut short"),
            pytest.param(None, id="gone"),
        ],
    )
    def test_a_damaged_file_is_found(
        self,
        content: bytes | None,
        storage: Storage,
        bucket: Bucket,
        directory: Path,
        tmp_path: Path,
    ) -> None:
        commit_directory(storage, directory, bucket.uri("out/"), attempt=1)
        key = "out/attempt-1/weights"
        if content is None:
            bucket.client.delete_object(Bucket=bucket.name, Key=key)
        else:
            bucket.put(key, content)
        with pytest.raises(Damaged):
            fetch_committed(storage, bucket.uri("out/"), tmp_path / "back")

    def test_a_broken_manifest_is_damage(self, storage: Storage, bucket: Bucket) -> None:
        bucket.put("out/attempt-1/manifest.json", "{")
        with pytest.raises(Damaged):
            read_manifest(storage, bucket.uri("out/"))

    def test_a_late_old_attempt_changes_nothing_for_readers(
        self, storage: Storage, bucket: Bucket, directory: Path
    ) -> None:
        newer = commit_directory(storage, directory, bucket.uri("out/"), attempt=10)
        (directory / "weights").write_bytes(b"old")
        commit_directory(storage, directory, bucket.uri("out/"), attempt=9)
        found = read_manifest(storage, bucket.uri("out/"))
        assert found is not None and found.digest == newer.digest

    def test_a_superseded_attempt_writes_no_manifest(
        self, storage: Storage, bucket: Bucket, directory: Path
    ) -> None:
        old = Fence(storage, bucket.uri("run/"), 1)
        old.claim()
        Fence(storage, bucket.uri("run/"), 2).claim()
        with pytest.raises(Superseded):
            commit_directory(storage, directory, bucket.uri("run/out/"), attempt=1, fence=old)
        assert read_manifest(storage, bucket.uri("run/out/")) is None


class TestFence:
    def test_the_newest_attempt_holds_it(self, storage: Storage, bucket: Bucket) -> None:
        first, second = (Fence(storage, bucket.uri("run"), n) for n in (1, 2))
        first.claim()
        first.claim()
        first.check()
        second.claim()
        second.check()
        with pytest.raises(Superseded, match="Attempt 2"):
            first.check()
        with pytest.raises(Superseded):
            first.claim()

    def test_a_broken_fence_is_taken_over(self, storage: Storage, bucket: Bucket) -> None:
        bucket.put("run/fence.json", "not json")
        Fence(storage, bucket.uri("run/"), 3).claim()
        assert b"3" in bucket.get("run/fence.json")

    def test_of_many_at_once_the_highest_wins(self, storage: Storage, bucket: Bucket) -> None:
        lost: list[int] = []

        def claim(attempt: int) -> None:
            try:
                Fence(storage, bucket.uri("run/"), attempt).claim()
            except Superseded:
                lost.append(attempt)

        threads = [threading.Thread(target=claim, args=(n,)) for n in range(1, 7)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert 6 not in lost
        assert b"6" in bucket.get("run/fence.json")


def test_a_refusal_in_the_middle_of_a_run_is_waited_for(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_identity(monkeypatch, STRANGER_KEYS)
    storage = Storage.open(bucket.connection, "output", patience=timedelta(seconds=200))
    allow_everything(bucket)
    storage.put_bytes(bucket.uri("one"), b"1")
    refuse_everything(bucket)
    back = threading.Timer(1.0, allow_everything, [bucket])
    back.start()
    storage.put_bytes(bucket.uri("two"), b"2")
    back.join()
    assert bucket.get("two") == b"2"


def test_a_listing_that_was_allowed_before_is_waited_for_and_another_is_not(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_identity(monkeypatch, STRANGER_KEYS)
    storage = Storage.open(bucket.connection, "output", patience=timedelta(seconds=200))
    allow_everything(bucket)
    storage.put_bytes(bucket.uri("checkpoints/step-1/weights"), b"1")
    assert len(storage.list(bucket.uri("checkpoints/"))) == 1
    refuse_everything(bucket)
    began = time.monotonic()
    with pytest.raises(UserError):
        storage.list(bucket.uri("elsewhere/"))
    assert time.monotonic() - began < 100
    back = threading.Timer(1.0, allow_everything, [bucket])
    back.start()
    assert len(storage.list(bucket.uri("checkpoints/step-1/"))) == 1
    back.join()


def test_a_refusal_that_stays_is_named_in_the_end(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    allow_everything(bucket)
    use_identity(monkeypatch, STRANGER_KEYS)
    storage = Storage.open(bucket.connection, "output", patience=timedelta(seconds=1))
    storage.put_bytes(bucket.uri("one"), b"1")
    refuse_everything(bucket)
    with pytest.raises(UserError) as caught:
        storage.put_bytes(bucket.uri("two"), b"2")
    assert caught.value.reason == "AccessDenied"


def allow_everything(bucket: Bucket) -> None:
    resources = [f"arn:aws:s3:::{bucket.name}", f"arn:aws:s3:::{bucket.name}/*"]
    rule = {"Effect": "Allow", "Principal": "*", "Action": "s3:*", "Resource": resources}
    policy = {"Version": "2012-10-17", "Statement": [rule]}
    bucket.client.put_bucket_policy(Bucket=bucket.name, Policy=json.dumps(policy))


def refuse_everything(bucket: Bucket) -> None:
    bucket.client.delete_bucket_policy(Bucket=bucket.name)
