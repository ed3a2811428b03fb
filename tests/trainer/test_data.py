"""Rows: their shapes, where they stand in a file, which are dropped, and on which side they go."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orjson
import pytest

from tunesmith_api.dataset import Checks, Columns, DataFormat, Dataset
from tunesmith_trainer.data.compression import SourceFile
from tunesmith_trainer.data.finding import find_files
from tunesmith_trainer.data.reading import Reading, read_rows
from tunesmith_trainer.data.rows import Reader
from tunesmith_trainer.data.values import Malformed
from tunesmith_trainer.outcome import UserError

HI = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
SYSTEM = {"role": "system", "content": "Be kind."}


def make_reader(wanted: DataFormat = DataFormat.AUTO, columns: Columns | None = None) -> Reader:
    given = {"train": {"uri": "s3://bucket/train.jsonl"}, "columns": columns or Columns()}
    return Reader(wanted, Dataset.model_validate(given))


def parse(
    value: Any, wanted: DataFormat = DataFormat.AUTO, columns: Columns | None = None
) -> tuple[DataFormat | None, list[dict[str, Any]]]:
    reader = make_reader(wanted, columns)
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    messages = orjson.loads(reader.parse(raw) or b"")
    return reader.format, messages


@pytest.mark.parametrize(
    ("value", "format_", "messages"),
    [
        pytest.param(
            {"prompt": "Hi", "response": "Hello", "id": 3},
            DataFormat.PROMPT_RESPONSE,
            HI,
            id="prompt and response",
        ),
        pytest.param(
            {"user": "Hi", "bot": "Hello"}, DataFormat.USER_BOT, HI, id="one turn of user and bot"
        ),
        pytest.param(
            [{"user": "Hi", "bot": "Hello"}] * 2, DataFormat.USER_BOT, HI * 2, id="several turns"
        ),
        pytest.param(
            {"messages": [SYSTEM, *HI]},
            DataFormat.MESSAGES,
            [SYSTEM, *HI],
            id="messages with a system message",
        ),
        pytest.param(HI, DataFormat.MESSAGES, HI, id="a bare list of messages"),
        pytest.param(
            {"messages": [*HI, {"role": "user", "content": "Bye"}]},
            DataFormat.MESSAGES,
            HI,
            id="a question without an answer at the end is left out",
        ),
        pytest.param(
            {
                "messages": [
                    {"role": "user", "content": [{"type": "text", "text": "H"}] * 2},
                    {"role": "assistant", "content": "Hello", "weight": 0},
                ]
            },
            DataFormat.MESSAGES,
            [
                {"role": "user", "content": "HH"},
                {"role": "assistant", "content": "Hello", "weight": 0},
            ],
            id="text in parts, and an answer that is not to be learned",
        ),
    ],
)
def test_auto_finds_the_format(
    value: Any, format_: DataFormat, messages: list[dict[str, Any]]
) -> None:
    assert parse(value) == (format_, messages)


def test_columns_may_have_other_names() -> None:
    columns = Columns(prompt="question", response="answer")
    assert parse({"question": "Hi", "answer": "Hello"}, columns=columns) == (
        DataFormat.PROMPT_RESPONSE,
        HI,
    )


@pytest.mark.parametrize(
    ("value", "what"),
    [
        pytest.param(b"{no", "not JSON", id="not JSON"),
        pytest.param(b'{"prompt": "\xff"}', "not UTF-8 (byte 0xff at 12)", id="not UTF-8"),
        pytest.param(b"3", "a number, not", id="a number"),
        pytest.param(b"[" * 5000, "not JSON", id="nested without end"),
        pytest.param({"prompt": "Hi", "response": ""}, "response is empty", id="no response"),
        pytest.param({"prompt": "\n", "response": "x"}, "prompt is empty", id="no prompt"),
        pytest.param(
            {"prompt": 3, "response": "x"}, "prompt is a number (3), not text", id="a number"
        ),
        pytest.param({"messages": []}, "messages is an empty list", id="no messages"),
        pytest.param(
            {"messages": "Hi"}, "messages is a text ('Hi'), not a list", id="a text as messages"
        ),
        pytest.param(
            {"messages": [{"role": ["user"], "content": "x"}]}, "role ['user']", id="roles"
        ),
        pytest.param({"messages": [HI[0], "x"]}, "message 2 is a text ('x')", id="a bare answer"),
        pytest.param(
            {"messages": [{"role": "robot", "content": "x"}]}, "'robot'", id="an unknown role"
        ),
        pytest.param(
            {"messages": [HI[0], {"role": "assistant", "content": None}]},
            "content of message 2",
            id="a tool call without text",
        ),
        pytest.param({"prompt": None, "response": "x"}, "prompt is null", id="no value"),
        pytest.param({"messages": HI[::-1]}, "the first message is the assist", id="swapped roles"),
        pytest.param(
            {"messages": [*HI, SYSTEM]},
            "message 3 is a system message that is not the first; move it",
            id="a late system message",
        ),
        pytest.param(
            {"messages": [SYSTEM, HI[0], *HI]},
            "messages 2 and 3 are both the user's; correct the role of one",
            id="two questions in a row",
        ),
        pytest.param(
            {"messages": [*HI, HI[1], *HI]},
            "messages 2 and 3 are both the assistant's",
            id="two answers in a row",
        ),
        pytest.param(
            [{"user": "Hi", "bot": "x"}, {"user": "Hi"}], "no field bot of turn 2", id="half a turn"
        ),
        pytest.param([{"user": "Hi", "bot": "x"}, 3], "turn 2 is a number (3)", id="no turn"),
    ],
)
def test_a_malformed_row_says_what_is_wrong(value: Any, what: str) -> None:
    with pytest.raises(Malformed) as caught:
        parse(value)
    assert what in str(caught.value)


@pytest.mark.parametrize(
    ("value", "wanted", "words"),
    [
        pytest.param(
            {"task": "a", "result": "b"},
            DataFormat.AUTO,
            ["result, task", "dataset.columns", "dataset.format"],
            id="names of nobody",
        ),
        pytest.param(
            {"user": "a", "bot": "b"},
            DataFormat.PROMPT_RESPONSE,
            ["bot, user", "PromptResponse", "prompt and response"],
            id="user and bot where a prompt was said",
        ),
        pytest.param({}, DataFormat.AUTO, ["no fields"], id="an empty object"),
    ],
)
def test_other_fields_are_named(value: Any, wanted: DataFormat, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        parse(value, wanted)
    assert caught.value.reason == "WrongColumns"
    for word in words:
        assert word in caught.value.message


def test_a_later_row_with_other_fields_is_malformed_not_the_setting() -> None:
    reader = make_reader()
    reader.parse(b'{"prompt": "a", "response": "b"}')
    with pytest.raises(Malformed, match="no field prompt; it has the fields question"):
        reader.parse(b'{"question": "a"}')


def read(tmp_path: Path, name: str, content: bytes | str, share: str = "0") -> list[int]:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    reading = Reading(Checks(fail_on_malformed=share))
    reader = make_reader()
    rows = read_rows([SourceFile(name, path)], reader, reading, lambda: None)
    lines = [row.line for row in rows]
    assert reading.rows == len(lines) + reading.malformed
    return lines


TURN = '{"user": "Hi", "bot": "Hello"}'


@pytest.mark.parametrize(
    ("name", "content", "lines"),
    [
        pytest.param("a.jsonl", f"{TURN}\n\n{TURN}", [1, 3], id="lines, with an empty one"),
        pytest.param("a.jsonl", b"\xef\xbb\xbf" + TURN.encode(), [1], id="a byte order mark"),
        pytest.param("a.jsonl", f"{TURN}\r\n{TURN}\r\n", [1, 2], id="Windows' line ends"),
        pytest.param("a.json", f"[\n{TURN},\n\n {TURN}]", [2, 4], id="a list over several lines"),
        pytest.param("a.json", f"[{TURN}, {TURN}]", [1, 1], id="a list on one line"),
        pytest.param("a.jsonl", f"[\n  {TURN}\n]\n", [2], id="a list in a file called jsonl"),
        pytest.param("a.jsonl", f"[{TURN}, {TURN}]\n", [1], id="one conversation of two turns"),
        pytest.param("a.json", f"[{TURN}]\n[{TURN}]\n", [1, 2], id="lines in a file called json"),
        pytest.param("a.json", f"[[{TURN}, {TURN}],\n[{TURN}]]", [1, 2], id="a list of lists"),
        pytest.param("a.json", "[]", [], id="an empty list"),
        pytest.param("a.jsonl", "", [], id="an empty file"),
    ],
)
def test_rows_know_their_line(
    name: str, content: bytes | str, lines: list[int], tmp_path: Path
) -> None:
    assert read(tmp_path, name, content) == lines


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        pytest.param("a.jsonl", f"{TURN}\n{{x\n{TURN}", "a.jsonl line 2", id="a broken line"),
        pytest.param("a.json", f"[{TURN},\n{{x}},\n{TURN}]", "a.json line 2", id="a broken item"),
        pytest.param("a.jsonl", TURN + "\n" + "x" * 999, "x…", id="the content is shortened"),
        pytest.param("a.jsonl", b"\xff\xfe\x00" * 3, "UTF-16", id="another encoding"),
    ],
)
def test_a_malformed_row_is_named(
    name: str, content: bytes | str, place: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        read(tmp_path, name, content)
    assert caught.value.reason == "DatasetMalformed"
    assert place in caught.value.message
    assert len(caught.value.message) < 400


def test_malformed_rows_within_the_share_are_left_out(tmp_path: Path) -> None:
    assert read(tmp_path, "a.jsonl", f"{TURN}\n{{x\n{TURN}", share="0.4") == [1, 3]


def test_files_of_a_volume_come_in_the_order_of_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tunesmith_trainer.data.finding.PVC_PATH", str(tmp_path))
    (tmp_path / "claim/data/sub").mkdir(parents=True)
    for name in ("b.jsonl", "a.json", "sub/c.jsonl", "notes.txt"):
        (tmp_path / "claim/data" / name).write_text(TURN)

    def no_storage() -> Any:
        raise AssertionError("a volume needs no S3")

    def names(uri: str) -> list[str]:
        return [f.uri for f in find_files(uri, no_storage, tmp_path / "w", lambda _: None)]

    assert names("pvc://claim/data/") == [
        "pvc://claim/data/a.json",
        "pvc://claim/data/b.jsonl",
        "pvc://claim/data/sub/c.jsonl",
    ]
    assert names("pvc://claim/data/b.jsonl") == ["pvc://claim/data/b.jsonl"]
    for bad, reason in (("pvc://claim/none/", "DatasetNotFound"), ("pvc://claim/../x", "Invalid")):
        with pytest.raises(UserError) as caught:
            names(bad)
        assert caught.value.reason.startswith(reason)
