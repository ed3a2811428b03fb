"""Rows worth annotating, out of logs as the sidecar writes them: on this machine and in S3."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.cli.conftest import FinishedRun, ask, run_here, write_job
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
from tunesmith_sidecar.conversations.lines import (
    Exchanged,
    Feedback,
    build_conversation,
    build_feedback,
)

__all__ = ["s3_server"]
MODEL = ("--model", "builtin://tiny")
WORDS = ("printer", "invoice", "password", "parcel", "garden", "train", "window", "kettle")

pytestmark = pytest.mark.timeout(600)


def logged(number: int, answer: str, feedback: Feedback | None = None) -> bytes:
    """Give a line as the sidecar writes it."""
    question = f"What about the {WORDS[number % len(WORDS)]} of room {number}?"
    request = {"messages": [{"role": "user", "content": question}]}
    said = {"choices": [{"message": {"content": answer}, "finish_reason": "stop"}]}
    exchanged = Exchanged(
        f"req-{number}", f"s-{number}", orjson.dumps(request), orjson.dumps(said), False
    )
    line = build_conversation(exchanged, feedback, "support-7f9c", "2026-11-20T10:00:00.000+00:00")
    assert line is not None
    return line


def write_logs(folder: Path, count: int = 24) -> Path:
    """Write logs as they lie in a bucket: by revision and day, feedback beside them."""
    bad = Feedback("bad", "wrong", "")
    for day in range(2):
        lines = [
            logged(n, f"It is fine, {WORDS[n % 3]}." * (1 + n % 4), bad if n == 5 else None)
            for n in range(day, count, 2)
        ]
        path = folder / f"conversations/support-7f9c/2026-11-2{day}/100000-aa-1.jsonl"
        path.parent.mkdir(parents=True)
        path.write_bytes(b"".join(lines) + (lines[0] if day else b'{"messages": 1}\n'))
    late = folder / "feedback/support-7f9c/2026-11-21/100000-aa-1.jsonl"
    late.parent.mkdir(parents=True)
    said = bad._replace(time="2026-11-21T10:00:00.000+00:00")
    late.write_bytes(build_feedback("req-3", "s-3", said, "support-7f9c"))
    return folder


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rows_of_a_folder_of_logs_are_picked(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    file = write_job(tmp_path / "run")
    finished = FinishedRun(file, run_here(file))
    logs, target = write_logs(tmp_path / "logs"), tmp_path / "worth.jsonl"
    told = ask("data", "select", logs, "--model", finished.folder, "--count", "6", "--out", target)
    assert told.returncode == 0, told.stderr
    counts = " ".join(told.stdout.split())
    for words in ("read 27", "malformed 1", "lines of feedback 1", "measured 24", "worth.jsonl 6"):
        assert words in counts, told.stdout
    rows = rows_of(target)
    assert [row["selection"]["rank"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert all(row["messages"][-1]["role"] == "assistant" for row in rows)
    first = rows[0]["selection"]
    assert first["loss"] == max(row["selection"]["loss"] for row in rows)
    assert first["id"].startswith("req-") and first["session"].startswith("s-")
    assert first["revision"] == "support-7f9c"
    # Its place is where the row is.
    line = Path(first["file"].removeprefix("file://")).read_text().splitlines()[first["line"] - 1]
    assert json.loads(line)["id"] == first["id"]
    checked = ask("data", "check", target, "--rows", "1")
    assert "Messages, 6 rows" in checked.stdout


@pytest.mark.parametrize("place", ["", "conversations"])
def test_what_was_said_later_stands_beside_what_was_picked(tmp_path: Path, place: str) -> None:
    logs, target = write_logs(tmp_path / "logs"), tmp_path / "worth.jsonl"
    more = logs / "feedback/support-8aaa/2026-11-22/090000-bb-1.jsonl"
    more.parent.mkdir(parents=True)
    good = Feedback("good", "", "It is late.", "2026-11-22T09:00:00.000+00:00")
    more.write_bytes(
        b"".join(build_feedback(f"req-{n}", "", good, "support-8aaa") for n in (5, 7, 99))
    )
    told = ask("data", "select", logs / place, *MODEL, "--count", "24", "--out", target)
    assert told.returncode == 0, told.stderr
    said = {row["selection"]["id"]: row["selection"].get("feedback") for row in rows_of(target)}
    assert said["req-3"]["rating"] == "bad"
    # Of each member what was said last: the comment is from the line itself.
    assert said["req-5"] == {
        "rating": "good",
        "comment": "wrong",
        "correction": "It is late.",
        "time": "2026-11-22T09:00:00.000+00:00",
    }
    assert said["req-7"]["correction"] == "It is late."
    assert [name for name, words in said.items() if words] == [
        name for name in said if name in ("req-3", "req-5", "req-7")
    ]


def test_the_same_seed_picks_the_same_rows(tmp_path: Path) -> None:
    logs = write_logs(tmp_path / "logs")

    def picked(name: str, *options: str) -> bytes:
        target = tmp_path / name
        told = ask("data", "select", logs, *MODEL, "--count", "4", "--out", target, *options)
        assert told.returncode == 0, told.stderr
        return target.read_bytes()

    some = ("--sample", "8", "--by", "Entropy")
    assert picked("a", *some) == picked("b", *some)
    assert picked("c", *some, "--seed", "1") != picked("d", *some, "--seed", "2")
    assert picked("e") != picked("f", "--by", "entropy", "--sample", "5")


def test_a_file_of_another_format_and_a_job_are_read(tmp_path: Path) -> None:
    job = write_job(tmp_path)
    for number, place in enumerate((tmp_path / "rows.jsonl", job)):
        target = tmp_path / f"out-{number}.jsonl"
        told = ask("data", "select", place, *MODEL, "--count", "3", "--out", target)
        assert told.returncode == 0, told.stderr
        assert len(rows_of(target)) == 3
        assert "id" not in rows_of(target)[0]["selection"]


@pytest.fixture
def bucket(s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    use_identity(monkeypatch, ROOT_KEYS)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.endpoint)
    made = new_bucket(s3_server, tmp_path / "keys")
    for path in write_logs(tmp_path / "logs").rglob("*.jsonl"):
        made.put(f"logs/{path.relative_to(tmp_path / 'logs')}", path.read_bytes())
    return made


def test_logs_in_s3_give_the_same_rows(bucket: Bucket, tmp_path: Path) -> None:
    for name, place in (("here", tmp_path / "logs"), ("there", bucket.uri("logs"))):
        told = ask("data", "select", place, *MODEL, "--count", "5", "--out", tmp_path / name)
        assert told.returncode == 0, told.stderr
    here, there = rows_of(tmp_path / "here"), rows_of(tmp_path / "there")
    assert [row["messages"] for row in there] == [row["messages"] for row in here]
    assert there[0]["selection"]["file"].startswith(bucket.uri("logs/conversations/"))


def test_what_is_wrong_is_said(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = tmp_path / "taken.jsonl"
    taken.write_text("work of a day")
    logs, target = tmp_path / "logs", tmp_path / "out.jsonl"

    def refused(words: str, place: str | Path = logs, *options: str | Path) -> None:
        given = options or (*MODEL, "--out", target)
        told = ask("data", "select", place, *given)
        assert told.returncode == ExitCode.USER_ERROR, told.stderr
        assert words in told.stderr, told.stderr
        assert "Secret" not in told.stderr
        assert not target.exists()

    refused("log does not exist (did you mean logs?)", tmp_path / "log")
    refused("is there already", logs, *MODEL, "--out", taken)
    refused("is not a folder", logs, *MODEL, "--out", tmp_path / "none" / "out.jsonl")
    refused("does not exist", logs, "--model", tmp_path / "none", "--out", target)
    refused("--by los: there are loss, entropy", logs, *MODEL, "--out", target, "--by", "los")
    refused("There is nothing at", bucket.uri("nothing"))
    (tmp_path / "empty.jsonl").write_text("")
    refused("none of 0 rows has an answer", tmp_path / "empty.jsonl")
    use_identity(monkeypatch, STRANGER_KEYS)
    refused("refused your credentials", bucket.uri("logs/"))
    assert taken.read_text() == "work of a day"
