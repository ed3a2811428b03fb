"""Task files from a bucket: what is taken, and what is said about what is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.trainer.conftest import Bucket
from tunesmith_trainer.outcome import UserError
from tunesmith_trainer.storage import Storage, open_store
from tunesmith_trainer.suites.taskfiles import fetch_task_files

TASK = """\
task: ours
dataset_path: json
dataset_kwargs:
  data_files: {test: data/rows.jsonl, train: [data/*.jsonl]}
doc_to_text: "{{ a }}"
"""


def fetch(bucket: Bucket, folder: Path, uri: str = "tasks/") -> str:
    store = Storage.open(bucket.connection, "dataset")
    return fetch_task_files(store, "h", bucket.uri(uri), folder)


def put(bucket: Bucket, **files: str) -> None:
    for name, text in files.items():
        bucket.put(f"tasks/{name.replace('__', '/').replace('_yaml', '.yaml')}", text)
    bucket.put("tasks/data/rows.jsonl", '{"a": 1}\n')


def test_data_files_are_those_beside_the_task_file(bucket: Bucket, tmp_path: Path) -> None:
    put(bucket, deep__a_yaml=TASK, group_yaml="group: all\ntask:\n  - {task: ours, num_fewshot: 1}")
    bucket.put("tasks/deep/data/rows.jsonl", '{"a": 2}\n')
    bucket.put("tasks/deep/code.py", "raise SystemExit")
    digest = fetch(bucket, tmp_path / "1")
    content = yaml.safe_load((tmp_path / "1/deep/a.yaml").read_text())
    beside = f"{tmp_path}/1/deep/data"
    assert content["dataset_kwargs"]["data_files"] == {
        "test": f"{beside}/rows.jsonl",
        "train": [f"{beside}/*.jsonl"],
    }
    assert content["doc_to_text"] == "{{ a }}"
    assert not list(tmp_path.rglob("*.py"))
    # The digest is of what was fetched, not of where it lies here.
    assert fetch(bucket, tmp_path / "2") == digest
    bucket.put("tasks/deep/data/rows.jsonl", '{"a": 3}\n')
    assert fetch(bucket, tmp_path / "3") != digest


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param(
            "task: ours\ndoc_to_text: !function code.run\n",
            r"tasks/a.yaml: line 2: .*!function.*put a task that needs code into the image",
            id="a function",
        ),
        pytest.param(
            "task: !!python/object/apply:os.system [ls]\n",
            "line 1: .*python/object",
            id="an object",
        ),
        pytest.param("task: [ours\nb: c\n", "line 2: not valid YAML", id="no YAML"),
        pytest.param("\x00\x01", "not valid YAML", id="no text"),
        pytest.param("- task: ours\n", "no mapping", id="a list"),
        pytest.param(
            TASK.replace("data/rows", "data/raws"),
            "data_files names 'data/raws.jsonl', which is not there",
            id="data that is not there",
        ),
        pytest.param(
            TASK.replace("data/rows.jsonl", "/etc/passwd"),
            "data_files names '/etc/passwd'; put the file beside the task file",
            id="a file of the pod",
        ),
        pytest.param(TASK.replace("data/rows", "../rows"), "without '..'", id="a file above"),
        pytest.param(
            TASK.replace("data/rows.jsonl", "'https://acme.dev/x.jsonl'"),
            "put the file",
            id="a URL",
        ),
        pytest.param(
            "task: ours\ninclude: other.yaml\n", "include names 'other.yaml'", id="include"
        ),
        pytest.param(
            "task: ours\ninclude: /x.yaml\n", "include names '/x.yaml'; put", id="absolute"
        ),
    ],
)
def test_what_a_task_file_may_not_say(
    bucket: Bucket, tmp_path: Path, text: str, words: str
) -> None:
    put(bucket, a_yaml=text)
    with pytest.raises(UserError, match=words) as refused:
        fetch(bucket, tmp_path)
    assert refused.value.message.startswith(f"Suite h: {bucket.uri('tasks/a.yaml')}: ")
    assert refused.value.reason == "InvalidRun"


def test_a_prefix_without_task_files(bucket: Bucket, tmp_path: Path) -> None:
    bucket.put("tasks/a.yml", "task: ours")
    with pytest.raises(UserError, match=r"no task file \(\.yaml\) below s3://.*/tasks/\. Correct"):
        fetch(bucket, tmp_path, "tasks")


def test_more_than_task_files_may_be(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(bucket, a_yaml=TASK)
    monkeypatch.setattr("tunesmith_trainer.suites.taskfiles._MOST_BYTES", 100)
    with pytest.raises(UserError, match=r"are 2 files with 0 MiB; .* Name a folder with less"):
        fetch(bucket, tmp_path / "tasks")
    assert not (tmp_path / "tasks").exists()


def test_task_files_of_this_machine(make_run: Any, tmp_path: Path) -> None:
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks/a.yaml").write_text("task: ours\n")
    uri = f"file://{tmp_path}/tasks/"
    store = open_store(uri, make_run().s3, "dataset")
    assert fetch_task_files(store, "h", uri, tmp_path / "work").startswith("sha256:")
    assert (tmp_path / "work/a.yaml").read_text() == "task: ours\n"
