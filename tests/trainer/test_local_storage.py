"""A folder in the place of S3: what the trainer relies on holds there, too."""

from pathlib import Path

import pytest

from tunesmith_api.result import UserErrorReason
from tunesmith_api.run import S3Connection
from tunesmith_trainer.outcome import Superseded, UserError
from tunesmith_trainer.storage import Conflict, NotFound, Store, open_store
from tunesmith_trainer.storage.fence import Fence
from tunesmith_trainer.storage.manifest import (
    Damaged,
    commit_directory,
    fetch_committed,
    read_manifest,
)


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return f"file://{tmp_path}/out/"


@pytest.fixture
def store(uri: str) -> Store:
    return open_store(uri, S3Connection(), "output")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    folder = tmp_path / "made"
    (folder / "sub").mkdir(parents=True)
    (folder / "a").write_bytes(b"1" * 1000)
    (folder / "sub" / "b").write_bytes(b"2")
    return folder


def test_a_directory_is_committed_and_comes_back(
    store: Store, uri: str, directory: Path, tmp_path: Path
) -> None:
    seen: list[int] = []
    committed = commit_directory(store, directory, uri, attempt=3, on_bytes=seen.append)
    assert (sum(seen), committed.size_bytes, committed.uri) == (1001, 1001, f"{uri}attempt-3/")
    found = fetch_committed(store, uri, tmp_path / "back")
    assert found.digest == committed.digest
    assert (tmp_path / "back" / "sub" / "b").read_bytes() == b"2"


def test_what_is_written_on_later_does_not_change_what_was_committed(
    store: Store, uri: str, directory: Path, tmp_path: Path
) -> None:
    commit_directory(store, directory, uri, attempt=1)
    with (directory / "a").open("ab") as file:
        file.write(b"more")
    fetch_committed(store, uri, tmp_path / "back")
    assert (tmp_path / "back" / "a").stat().st_size == 1000


def test_damage_is_seen(store: Store, uri: str, directory: Path, tmp_path: Path) -> None:
    committed = commit_directory(store, directory, uri, attempt=1)
    (tmp_path / "out" / "attempt-1" / "a").write_bytes(b"3" * 1000)
    with pytest.raises(Damaged, match="sha256"):
        fetch_committed(store, committed.uri, tmp_path / "back")


def test_conditional_writes(store: Store, uri: str) -> None:
    first = store.put_bytes(uri + "x", b"1", only_if_absent=True)
    with pytest.raises(Conflict):
        store.put_bytes(uri + "x", b"2", only_if_absent=True)
    store.put_bytes(uri + "x", b"2", if_match=first)
    with pytest.raises(Conflict):
        store.put_bytes(uri + "x", b"3", if_match=first)
    assert store.get_bytes(uri + "x") == b"2"


def test_the_newest_attempt_holds_the_fence(store: Store, uri: str) -> None:
    Fence(store, uri, 2).claim()
    with pytest.raises(Superseded):
        Fence(store, uri, 1).claim()


def test_what_is_absent_is_said_to_be(store: Store, uri: str, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        store.get(uri + "x")
    with pytest.raises(NotFound):
        store.download(uri + "x", tmp_path / "x")
    with pytest.raises(NotFound):
        store.download_prefix(uri, tmp_path / "y")
    assert read_manifest(store, uri) is None
    assert store.list(uri) == []
    assert store.delete_prefix(uri) == 0


def test_a_place_that_is_no_folder_is_found_out(store: Store, uri: str, tmp_path: Path) -> None:
    store.check_writable(uri)
    assert store.list(uri) == []
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"Choose another output\.uri") as caught:
        store.check_writable(f"file://{tmp_path}/file/runs/")
    assert caught.value.reason == UserErrorReason.OUTPUT_NOT_WRITABLE


def test_a_relative_path_is_refused(store: Store) -> None:
    with pytest.raises(UserError, match="not a file:///PATH URI"):
        store.list("file://out/")
