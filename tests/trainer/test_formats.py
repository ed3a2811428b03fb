"""Rows of every format, in files of every kind: what comes out, and what bad ones are told."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pytest
from backports import zstd
from pyarrow import parquet

from tests.trainer.conftest import jsonl, pairs
from tests.trainer.scratch_room import SCRATCH
from tests.trainer.test_data import TURN
from tunesmith_api.dataset import Checks, DataFormat, Dataset
from tunesmith_trainer.data.compression import SourceFile
from tunesmith_trainer.data.finding import data_files, find_files, hub_selection, parse_hub_uri
from tunesmith_trainer.data.mixing import mix
from tunesmith_trainer.data.reading import Reading, Row, read_rows
from tunesmith_trainer.data.rows import Reader
from tunesmith_trainer.data.values import Malformed
from tunesmith_trainer.outcome import UserError


def reader(**settings: Any) -> Reader:
    dataset = Dataset.model_validate({"train": {"uri": "s3://bucket/train"}, **settings})
    return Reader(dataset.format, dataset)


def pair(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


HI = pair("Hi", "Hello")
SYSTEM = {"role": "system", "content": "Be kind."}
PREFERENCE = {"messages": HI[:1], "chosen": "Hello", "rejected": "What?"}


@pytest.mark.parametrize(
    ("value", "format_", "expected"),
    [
        pytest.param(
            {"instruction": "Hi", "input": "", "output": "Hello"}, "Alpaca", HI, id="Alpaca"
        ),
        pytest.param(
            {"instruction": "Greet", "input": "Ann", "output": "Hi Ann", "system": "Be kind."},
            "Alpaca",
            [SYSTEM, *pair("Greet\n\nAnn", "Hi Ann")],
            id="Alpaca with input and system",
        ),
        pytest.param(
            {
                "conversations": [
                    {"from": "human", "value": "Hi"},
                    {"from": "gpt", "value": "Hello"},
                ]
            },
            "ShareGPT",
            HI,
            id="ShareGPT",
        ),
        pytest.param(
            {
                "conversations": json.dumps(
                    [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
                ),
                "system": "Be kind.",
            },
            "ShareGPT",
            [SYSTEM, *HI],
            id="ShareGPT with OpenAI's names, as JSON in a cell of a table",
        ),
        pytest.param(
            {
                "query": "to Paris",
                "intent": "travel",
                "entities": [
                    {"value": "1", "entity": "day"},
                    {"value": "Paris", "entity": "city"},
                    {"text": "2", "label": "day"},
                ],
            },
            "Intent",
            pair(
                "to Paris",
                '{"intent":"travel","entities":{"city":"Paris","day":["1","2"]}}',
            ),
            id="an intent becomes canonical JSON",
        ),
        pytest.param(
            {"text": "to Paris", "intent": "travel"},
            "Intent",
            pair("to Paris", '{"intent":"travel","entities":{}}'),
            id="an intent with Rasa's name for the query",
        ),
        pytest.param(
            {"prompt": "Hi", "chosen": "Hello", "rejected": "What?"},
            "Preference",
            PREFERENCE,
            id="preference as text",
        ),
        pytest.param(
            {"system": "Be kind.", "prompt": "Hi", "chosen": "Hello", "rejected": "What?"},
            "Preference",
            {**PREFERENCE, "messages": [SYSTEM, *HI[:1]]},
            id="preference with a system message",
        ),
        pytest.param(
            {"system": "Be kind.", "prompt": "Hi", "response": "Hello"},
            "PromptResponse",
            [SYSTEM, *HI],
            id="a pair with a system message",
        ),
        pytest.param(
            {"messages": [{**SYSTEM, "content": None}, *HI], "tools": "[]", "images": []},
            "Messages",
            HI,
            id="a system message that is null",
        ),
        pytest.param(
            [
                {"role": "user", "content": [{"type": "input_text", "text": "H"}, "i"]},
                {"role": "assistant", "content": [{"type": "output_text", "text": "Hello"}]},
            ],
            "Messages",
            HI,
            id="parts of text by other names",
        ),
        pytest.param(
            {"conversations": [{"from": "system", "value": " "}, *HI], "system": "Be kind."},
            "ShareGPT",
            [SYSTEM, *HI],
            id="an empty system message among turns",
        ),
        pytest.param(
            {"prompt": [{**SYSTEM, "content": ""}, HI[0]], "chosen": "Hello", "rejected": "What?"},
            "Preference",
            PREFERENCE,
            id="an empty system message of a preference",
        ),
        pytest.param(
            {"prompt": HI[:1], "chosen": HI[1:], "rejected": pair("", "What?")[1:]},
            "Preference",
            PREFERENCE,
            id="preference as TRL's messages",
        ),
        pytest.param(
            {"chosen": HI, "rejected": pair("Hi", "What?")},
            "Preference",
            PREFERENCE,
            id="preference without a prompt of its own",
        ),
        pytest.param(
            {"prompt": "Hi", "chosen": [SYSTEM, *HI], "rejected": [SYSTEM, *pair("Hi", "What?")]},
            "Preference",
            {**PREFERENCE, "messages": [SYSTEM, *HI[:1]]},
            id="preference whose prompt stands below a system message too",
        ),
        pytest.param(
            {"prompt": "Hi", "chosen": [*HI, *HI], "rejected": [*HI, *pair("Hi", "What?")]},
            "Preference",
            {**PREFERENCE, "messages": [*HI, HI[0]]},
            id="preference whose prompt is the first of several questions",
        ),
        pytest.param(
            {"messages": [HI[0], {**HI[1], "weight": None, "tool_calls": None}], "tools": []},
            "Messages",
            HI,
            id="messages with empty fields, as Parquet has them",
        ),
        pytest.param({"text": "Hi\n"}, "Text", {"text": "Hi\n"}, id="plain text"),
        pytest.param(
            {"text": "\n12:30 User: Hi\nBot: Hello"}, "ChatLog", HI, id="a chat in a field of text"
        ),
        pytest.param(
            {"text": "From: a@x\nTo: b@x\n\nHi\n\nFrom: b@x\nTo: a@x\nSubject: Re:\n\nHello"},
            "EmailThread",
            HI,
            id="mails in a field of text",
        ),
        pytest.param(
            {"id": "1", "revision": "6", "feedback": None, "messages": HI, "response": {"id": "2"}},
            "Conversations",
            HI,
            id="a line of a ModelDeployment's log",
        ),
        pytest.param(
            {"id": "1", "revision": "6", "feedback": None, "messages": [HI[1], HI[0], *HI]},
            "Conversations",
            [HI[1], HI[0], *HI],
            id="a log has questions as clients ask them, also two in a row",
        ),
    ],
)
def test_auto_finds_the_format(value: Any, format_: str, expected: Any) -> None:
    made = reader()
    assert orjson.loads(made.convert(value) or b"") == expected
    assert made.format == format_


def test_text_that_is_no_text_is_malformed_not_a_chat() -> None:
    made = reader()
    with pytest.raises(Malformed, match="text is null"):
        made.convert({"text": None})
    assert made.format is DataFormat.TEXT


def test_columns_have_other_names() -> None:
    names = {"instruction": "task", "output": "result", "query": "utterance", "intent": "label"}
    made = reader(columns=names)
    assert orjson.loads(made.convert({"task": "Hi", "result": "Hello"}) or b"") == HI
    made = reader(columns=names, format="Intent")
    content = orjson.loads(made.convert({"utterance": "Hi", "label": "greet"}) or b"")
    assert json.loads(content[1]["content"]) == {"intent": "greet", "entities": {}}


@pytest.mark.parametrize(
    ("format_", "value", "what"),
    [
        pytest.param(
            "ShareGPT",
            {"conversations": [{"from": "robot", "value": "x"}]},
            "message 1 has the role 'robot'; known are human",
            id="an unknown speaker",
        ),
        pytest.param("ShareGPT", {"conversations": []}, "is an empty list", id="no turn"),
        pytest.param(
            "ShareGPT",
            {"system": "x", "conversations": [{"from": "human", "value": "x"}] * 2},
            "messages 1 and 2 are both the user's",
            id="a turn that got lost",
        ),
        pytest.param(
            "Alpaca",
            {"instruction": "x", "output": "y", "input": 3},
            "input is a number (3)",
            id="input",
        ),
        pytest.param(
            "Intent",
            {"query": "x", "intent": "y", "entities": 3},
            "entities is a number",
            id="entity",
        ),
        pytest.param(
            "Intent",
            {"query": "x", "intent": "y", "entities": [{"start": 1}]},
            "no name and value; it has the fields start",
            id="an entity without a name",
        ),
        pytest.param(
            "Preference", {"prompt": "x", "chosen": "y", "rejected": "y"}, "are equal", id="equal"
        ),
        pytest.param("Preference", {"chosen": "y", "rejected": "z"}, "no question", id="no prompt"),
        pytest.param(
            "Preference",
            {"chosen": HI, "rejected": pair("Bye", "x")},
            "different questions",
            id="answers to different questions",
        ),
        pytest.param(
            "Preference",
            {"prompt": [{"role": "robot", "content": "x"}], "chosen": "y", "rejected": "z"},
            "message 1 of prompt has the role 'robot'; known are system, user and assistant",
            id="a preference with an unknown role",
        ),
        pytest.param(
            "Preference",
            {"prompt": [*HI, HI[1], HI[0]], "chosen": "y", "rejected": "z"},
            "messages 2 and 3 of prompt are both the assistant's",
            id="two answers in a row before a preference",
        ),
        pytest.param(
            "Preference",
            {"prompt": "Why?", "chosen": HI, "rejected": pair("Hi", "x")},
            "messages 1 and 2 of the question are both the user's",
            id="a prompt and another question",
        ),
        pytest.param(
            "Preference",
            {"prompt": HI[::-1], "chosen": "y", "rejected": "z"},
            "the first message is the assistant's",
            id="a preference that begins with an answer",
        ),
        pytest.param(
            "Messages",
            {"messages": [HI[0], {**HI[1], "weight": "0"}]},
            "weight of message 2 is a text ('0'); known are 1 (learn the answer) and 0",
            id="a weight that would have been learned all the same",
        ),
        pytest.param(
            "Messages",
            {"messages": [HI[0], {**HI[1], "weight": 0.5}]},
            "weight of message 2 is a number (0.5); known are 1",
            id="half a weight",
        ),
        pytest.param(
            "Messages",
            {"messages": [HI[0], {**HI[1], "tool_calls": [{"id": "1", "type": "function"}]}]},
            "message 2 has tool_calls (a list ([{'id': '1', 'type': 'function'}])), and calls of",
            id="a call of a tool beside the answer",
        ),
        pytest.param(
            "Messages",
            {
                "messages": [
                    HI[0],
                    {"role": "assistant", "content": None, "function_call": {"n": 1}},
                ]
            },
            "message 2 has function_call",
            id="a call of a function in the place of the answer",
        ),
        pytest.param(
            "Messages",
            {"messages": HI, "tools": [{"type": "function"}]},
            "tools (a list ([{'type': 'function'}])) would not be shown to the model",
            id="tools that the template is not given",
        ),
        pytest.param(
            "Messages",
            {"messages": HI, "images": ["a.png"]},
            "images (a list (['a.png'])) would not be shown to the model; take the row out",
            id="images beside messages",
        ),
        pytest.param(
            "ShareGPT",
            {"conversations": HI, "image": "a.png"},
            "image (a text ('a.png')) would not be shown",
            id="an image beside turns",
        ),
        pytest.param(
            "ShareGPT",
            {"conversations": HI, "tools": '[{"name": "search"}]'},
            "tools (a text",
            id="tools in a cell of a table",
        ),
        pytest.param(
            "Messages",
            {"messages": str(HI)},
            "write it as JSON",
            id="as Python shows them",
        ),
        pytest.param(
            "Messages", [{**SYSTEM, "content": ""}], "only an empty system", id="only a null system"
        ),
        pytest.param("ChatLog", {"text": "nobody speaks"}, "names nobody", id="no speaker"),
        pytest.param("EmailThread", {"text": "no headers"}, "without From", id="no mail"),
        pytest.param("Text", {"text": " "}, "text is empty", id="no text"),
    ],
)
def test_a_malformed_row_says_what_is_wrong(format_: str, value: Any, what: str) -> None:
    with pytest.raises(Malformed) as caught:
        reader(format=format_).convert(value)
    assert what in str(caught.value)


@pytest.mark.parametrize(
    ("wanted", "kept"),
    [("Any", "gbn-"), ("Positive", "g"), ("NotNegative", "gn-")],
)
def test_feedback_decides_which_logged_rows_are_taken(wanted: str, kept: str) -> None:
    made = reader(feedback=wanted)
    ratings = {"g": "good", "b": "bad", "n": "neutral", "-": None}
    rows = {
        name: {"id": name, "revision": "1", "messages": HI, "feedback": r and {"rating": r}}
        for name, r in ratings.items()
    }
    assert "".join(n for n, row in rows.items() if made.convert(row) is not None) == kept
    assert made.convert({"id": "g", "revision": "1", "feedback": {"rating": "good"}}) is None


Write = Callable[[Path, list[dict[str, Any]]], bytes]


def table(rows: list[dict[str, Any]]) -> bytes:
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.Table.from_pylist(rows), sink, row_group_size=100)
    return sink.getvalue().to_pybytes()


KINDS: dict[str, Callable[[list[dict[str, Any]]], bytes]] = {
    "jsonl": lambda rows: jsonl(*rows).encode(),
    "json": lambda rows: json.dumps(rows, indent=1).encode(),
    "csv": lambda rows: "".join(
        f'"{row["prompt"]}";{row["response"]}\r\n'
        for row in [{"prompt": "prompt", "response": "response"}, *rows]
    ).encode("utf-8-sig"),
    "parquet": table,
}
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": zstd.compress,
}


def read(path: Path, share: str = "0", **settings: Any) -> tuple[list[Row], Reading, Reader]:
    reading, made = Reading(Checks(fail_on_malformed=share)), reader(**settings)
    rows = list(read_rows([SourceFile(path.name, path)], made, reading, lambda: None))
    return rows, reading, made


@pytest.mark.parametrize("packer", PACKERS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_gives_the_same_rows(kind: str, packer: str, tmp_path: Path) -> None:
    rows = [{**row, "prompt": row["prompt"] + " Größe, 🎵"} for row in pairs(1500)]
    path = tmp_path / f"a.{kind}{packer}"
    path.write_bytes(PACKERS[packer](KINDS[kind](rows)))
    found, _, made = read(path)
    assert made.format is DataFormat.PROMPT_RESPONSE
    assert [orjson.loads(row.content) for row in found] == [
        pair(row["prompt"], row["response"]) for row in rows
    ]


def test_a_long_list_is_read_in_parts(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    rows = [{"prompt": "ä" * 300_000, "response": str(n)} for n in range(12)]
    path.write_text(json.dumps(rows, ensure_ascii=False))
    found, _, _ = read(path)
    assert [orjson.loads(row.content)[1]["content"] for row in found] == list(map(str, range(12)))


GOOD_LINES = jsonl(*pairs(200)).encode()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        pytest.param(
            "a.jsonl.gz", gzip.compress(GOOD_LINES)[:-30], ["cut off"], id="half a gzip file"
        ),
        pytest.param(
            "a.jsonl.zst", zstd.compress(GOOD_LINES)[:-30], ["cut off"], id="half a zstd file"
        ),
        pytest.param(
            "a.jsonl.gz", gzip.compress(GOOD_LINES)[:40] + b"x" * 99, ["damaged"], id="bad gzip"
        ),
        pytest.param("a.jsonl.gz", GOOD_LINES, ["not packed", "take .gz off"], id="no gzip at all"),
        pytest.param("a.jsonl.zst", GOOD_LINES, ["not packed"], id="no zstd at all"),
        pytest.param("a.jsonl", gzip.compress(b"x"), [".gz"], id="gzip without saying so"),
        pytest.param("a.txt", b"PK\x03\x04....", ["ZIP"], id="a ZIP archive"),
        pytest.param("a.txt", b"\x7fELF\n\0\0", ["binary", "line 2"], id="a program"),
        pytest.param("a.csv", "a;b".encode("utf-16"), ["UTF-16", "UTF-8"], id="UTF-16"),
        pytest.param("a.csv", "a;b".encode("utf-32"), ["UTF-32", "UTF-8"], id="UTF-32"),
        pytest.param("a.jsonl", GOOD_LINES.decode().encode("utf-16-le"), ["UTF-16"], id="no mark"),
        pytest.param("a.jsonl", GOOD_LINES.decode().encode("utf-16-be"), ["UTF-16"], id="nor here"),
        pytest.param("a.csv", b'"a,b\nHi,Hello\n', ["header is not CSV"], id="an open quote above"),
        pytest.param("a.parquet", b"PAR1" + b"x" * 99, ["Parquet"], id="half a Parquet file"),
    ],
)
def test_a_file_that_is_wrong_as_a_whole_is_refused(
    name: str, content: bytes, words: list[str], tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        read(tmp_path / name, share="1")
    assert caught.value.reason == "DatasetMalformed"
    for word in [name, *words]:
        assert word in caught.value.message


@pytest.mark.parametrize("packer", [".gz", ".zst"])
def test_a_file_that_is_cut_off_tells_how_far_it_went(packer: str, tmp_path: Path) -> None:
    lines = "".join(f"{n * 7919 % 99991}\n" for n in range(300_000)).encode()
    path = tmp_path / f"a.jsonl{packer}"
    path.write_bytes(PACKERS[packer](lines)[:-1000])
    with pytest.raises(UserError, match=r"cut off after [1-9]\d{5,} unpacked bytes"):
        read(path, share="1")


@pytest.mark.parametrize("packer", [".gz", ".zst"])
def test_a_bomb_is_refused_before_it_goes_off(packer: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.jsonl{packer}"
    path.write_bytes(PACKERS[packer](b" " * (65 << 20)))
    with pytest.raises(UserError, match="unpack to more than"):
        read(path, share="1")


@pytest.mark.parametrize("encoded", [True, False], ids=["a dictionary", "compression"])
def test_a_bomb_of_parquet_is_refused(encoded: bool, tmp_path: Path) -> None:
    value = "x" * (1 << 20)
    rows = [{"prompt": value if encoded else f"{value}{n}", "response": "y"} for n in range(80)]
    path = tmp_path / "a.parquet"
    parquet.write_table(
        pa.Table.from_pylist(rows), path, compression="zstd", use_dictionary=encoded
    )
    with pytest.raises(UserError, match=r"a\.parquet is suspicious: .* JSON lines"):
        read(path, share="1")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        pytest.param(
            "a.csv",
            "prompt,response\nHi,Hello\nHi,Hello, Ann\n",
            "a.csv line 3: 3 values where the header has 2 columns",
            id="too many values",
        ),
        pytest.param(
            "a.csv", b"prompt,response\nHi,\xff\n", "a.csv line 2: not UTF-8", id="Latin-1"
        ),
        pytest.param(
            "a.jsonl",
            TURN + "\n" + jsonl({"user": "long " * 99, "bot": 3}),
            "a.jsonl line 2: bot is a number (3), not text: ",
            id="a value far from the beginning",
        ),
        pytest.param(
            "a.mbox",
            "From a@x 2026\nFrom: a@x\n\nHi\n\nFrom b@x 2026\nSubject: Re: Hi\n\nHo\n",
            "a.mbox line 6: a mail without From: Subject: Re: Hi Ho",
            id="a mail without a sender",
        ),
        pytest.param("a.txt", "User: Hi\nBot: H\xe4".encode("latin1"), "not UTF-8", id="text"),
    ],
)
def test_a_bad_row_is_named_and_may_be_left_out(
    name: str, content: str | bytes, message: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(UserError) as caught:
        read(path)
    assert message in caught.value.message
    rows, reading, _ = read(path, share="1")
    assert (reading.malformed, reading.rows) == (1, len(rows) + 1)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        pytest.param(
            "a.csv",
            'prompt,response\nHi,Hello\nHi,"Hello\nHi,Ann\nHi,Bob\n',
            'a.csv line 3: not CSV (a quote is not closed): Hi,"Hello.',
            id="an open quote",
        ),
        pytest.param(
            "a.json",
            f"[{TURN},\n{TURN},\n{{'user': 1}},\n{TURN}]",
            "a.json line 3: not JSON",
            id="an item of a list that is no JSON",
        ),
        pytest.param(
            "a.json", f"[{TURN},\n{TURN},\n{TURN[:-3]}", "a.json line 3: not JSON", id="half a list"
        ),
        pytest.param("a.json", f"[{TURN},\n{TURN}", "cut off", id="a list without end"),
    ],
)
def test_rows_that_nobody_can_count_are_never_left_out(
    name: str, content: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_text(content)
    for share in ("0", "1"):
        with pytest.raises(UserError) as caught:
            read(path, share=share)
        assert message in caught.value.message
    assert "All that follows in the file would be lost" in caught.value.message


def test_an_object_over_several_lines_is_told_what_rows_are(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"messages": HI}, indent=1))
    with pytest.raises(UserError, match=r"a.json line 1: .*; give each row a line of its own"):
        read(path)


def test_tabs_part_the_columns_of_a_tsv_file(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("prompt\tresponse\nHi, Ann\tHello\n")
    rows, _, _ = read(path)
    assert [orjson.loads(row.content) for row in rows] == [pair("Hi, Ann", "Hello")]


OVERLONG = "x" * (40 << 20)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param(
            "a.jsonl", f'{TURN}\n{{"user": "{OVERLONG}", "bot": "x"}}\n{TURN}\n', id="JSON lines"
        ),
        pytest.param("a.jsonl", f'{TURN}\n["{OVERLONG}"]\n{TURN}', id="JSON lines, a list"),
        pytest.param("a.csv", f"user,bot\r\n{OVERLONG},x\r\nHi,Hello\r\n", id="CSV"),
        pytest.param("a.csv", f'user,bot\n"{OVERLONG}",x\nHi,Hello\n', id="CSV in quotes"),
    ],
)
def test_a_line_that_is_too_long_is_one_bad_row(name: str, content: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(content, newline="")
    with pytest.raises(UserError, match=f"{name} line 2: .*longer than 16 MiB; part it"):
        read(path)
    rows, reading, _ = read(path, share="1")
    assert (reading.malformed, rows[-1].line) == (1, 3)


def test_a_long_list_on_one_line_is_a_list(tmp_path: Path) -> None:
    turns = [{"user": "x" * (1 << 20), "bot": str(n)} for n in range(20)]
    (tmp_path / "a.jsonl").write_text(json.dumps(turns))
    found, _, _ = read(tmp_path / "a.jsonl")
    assert [orjson.loads(row.content)[1]["content"] for row in found] == list(map(str, range(20)))


def test_a_column_named_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("prompt,prompt\nx,y\n")
    column = pa.array(["x"])
    table = pa.Table.from_arrays([column] * 3, names=["prompt", "response", "prompt"])
    parquet.write_table(table, tmp_path / "a.parquet")
    for name in ("a.csv", "a.parquet"):
        with pytest.raises(UserError, match=f"{name} names the column 'prompt' twice"):
            read(tmp_path / name)


@pytest.mark.parametrize(
    ("start", "row", "end"),
    [
        pytest.param("\ufeffprompt;response\r\n", "Hi;Hello\r\n", "", id="with a mark"),
        pytest.param("prompt;response;;\r\n", "Hi;Hello;;\r\n", "", id="columns without a name"),
        pytest.param("prompt;response\r\n", "Hi;Hello\r\n", ";\r\n;\r\n", id="empty rows below"),
        pytest.param("sep=;\r\nprompt;response\r\n", "Hi;Hello\r\n", "", id="its own first line"),
        pytest.param("sep=|\nprompt|response\n", "Hi|Hello\n", "", id="another delimiter"),
    ],
)
def test_tables_as_excel_writes_them(start: str, row: str, end: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(start + row + end, newline="")
    found, reading, _ = read(tmp_path / "a.csv")
    assert [orjson.loads(one.content) for one in found] == [HI]
    assert (reading.rows, found[0].line) == (1, 1 + start.count("\n"))


CHAT = """\
[2026-01-31 12:30:05] Customer: Hi
[2026-01-31 12:30:09] Agent: Hello,
how are you?
Note: this goes on.
---
<user>: One?
<bot>: Two.

User: Next?
Bot: Yes.
"""
SPACED = "User: Hi\n\nBot: Hello\n\nUser: Bye\n\nBot: See you\n"
TIMED = (
    "2026-01-31T12:30 User: Hi\n2026-01-31T12:31 Bot: Hello\n"
    "2026-01-31T12:32 User: Bye\n2026-01-31T12:33 Bot: See you\n"
    "2026-01-31T14:00 User: Hi\n2026-01-31T14:01 Bot: Hello\n"
)
PHONE = "31.01.26, 12:30 - User: Hi\n31.01.26, 12:31 - Bot: Hel\n31.01.26, 12:31 - Bot: lo\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(
            CHAT,
            [
                (1, pair("Hi", "Hello,\nhow are you?\nNote: this goes on.")),
                (6, pair("One?", "Two.")),
                (9, pair("Next?", "Yes.")),
            ],
            id="time stamps, a rule, a blank line",
        ),
        pytest.param(
            SPACED,
            [(1, [*HI, *pair("Bye", "See you")])],
            id="blank lines between all turns part nothing",
        ),
        pytest.param(
            TIMED, [(1, [*HI, *pair("Bye", "See you")]), (5, HI)], id="an hour of silence"
        ),
        pytest.param(PHONE, [(1, pair("Hi", "Hel\nlo"))], id="a telephone's export"),
    ],
)
def test_chat_logs(text: str, expected: Any, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(text)
    rows, _, made = read(tmp_path / "a.txt")
    assert made.format is DataFormat.CHAT_LOG
    assert [(row.line, orjson.loads(row.content)) for row in rows] == expected


def test_speakers_have_other_names(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text("ann: Hi\nBob: Hello\n")
    speakers = {"user": ["Ann"], "assistant": ["Bob"]}
    rows, _, _ = read(tmp_path / "a.log", speakers=speakers)
    assert [orjson.loads(row.content) for row in rows] == [HI]


MBOX = """\
From ann@x Sat Jan 31 12:30:05 2026
From: Ann <ann@x.org>
Subject: Printer
Message-ID: <1@x>

It does not print.

--\x20
Ann
From eve@x Sat Jan 31 12:31:05 2026
From: eve@x.org
Subject: Printer
Message-ID: <2@x>
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: quoted-printable

Mine burns. Gr=C3=BC=C3=9Fe

From bob@y Sat Jan 31 12:32:05 2026
From: bob@y.org
Subject: Re: Printer
In-Reply-To: <1@x>

Switch it on.

On Saturday Ann wrote:
> It does not print.
"""
PLAIN_MAILS = """\
From: ann@x.org
Subject: Printer

It does not print.

Subject: RE: Printer
From: bob@y.org

Switch it on.

From: ann@x.org
Subject: Re: Printer

Thanks.

"""


def test_mail_threads(tmp_path: Path) -> None:
    (tmp_path / "a.mbox").write_text(MBOX.replace("\nFrom ", "\n\nFrom "))
    rows, _, made = read(tmp_path / "a.mbox")
    assert made.format is DataFormat.EMAIL_THREAD
    assert [(row.line, orjson.loads(row.content)) for row in rows] == [
        (2 - 1, pair("It does not print.", "Switch it on.")),
        (11, [{"role": "user", "content": "Mine burns. Grüße"}]),
    ]
    (tmp_path / "b.txt").write_text(PLAIN_MAILS)
    rows, _, _ = read(tmp_path / "b.txt")
    assert [orjson.loads(row.content) for row in rows] == [
        pair("It does not print.", "Switch it on.")
    ]


def test_documents_of_a_text_file_are_parted_by_blank_lines(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\ufeffOne\ntwo\n\n\nThree: four\n")
    rows, _, made = read(tmp_path / "a.txt")
    assert made.format is DataFormat.TEXT
    assert [(row.line, orjson.loads(row.content)["text"]) for row in rows] == [
        (1, "One\ntwo"),
        (5, "Three: four"),
    ]


def test_line_ends_of_windows_are_not_learned(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"One\r\nand on\r\n\r\nTwo\r\n")
    found, _, _ = read(tmp_path / "a.txt")
    assert [orjson.loads(row.content)["text"] for row in found] == ["One\nand on", "Two"]


def test_a_text_file_where_rows_were_said_names_both(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("One")
    with pytest.raises(UserError, match="format Alpaca cannot read"):
        read(tmp_path / "a.txt", format="Alpaca")


@pytest.mark.parametrize(
    ("names", "wanted", "expected"),
    [
        (["b.csv.gz", "a.jsonl", "README.txt", "x.py"], "Auto", ["a.jsonl", "b.csv.gz"]),
        (["b.txt", "a.log.zst", "x.py"], "Auto", ["a.log.zst", "b.txt"]),
        (["a.jsonl", "b.txt"], "Text", ["a.jsonl", "b.txt"]),
        (["a.txt"], "Messages", []),
        (["a.parquet", "dataset_info.json"], "Auto", ["a.parquet"]),
        (
            ["a.csv", ".ipynb_checkpoints/a-checkpoint.csv", "x/._a.csv", "~$a.csv"],
            "Auto",
            ["a.csv"],
        ),
        (["__MACOSX/a.csv", "b/a.csv"], "Auto", ["b/a.csv"]),
    ],
)
def test_which_files_of_a_folder_are_data(
    names: list[str], wanted: str, expected: list[str]
) -> None:
    assert data_files(names, DataFormat(wanted)) == expected


def test_files_of_this_disk(tmp_path: Path) -> None:
    # Hidden is what a folder has in it, not the folder that was asked for.
    folder = tmp_path / ".data"
    for name in ("a b.jsonl", ".ipynb_checkpoints/a b-checkpoint.jsonl"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(TURN)

    def names(uri: str) -> list[str]:
        return [f.uri for f in find_files(uri, pytest.fail, tmp_path, print)]

    assert names(f"file://{folder}/") == names(f"file://{folder}") == [f"file://{folder}/a b.jsonl"]
    assert names(f"file://{folder}/a b.jsonl") == [f"file://{folder}/a b.jsonl"]


@pytest.mark.parametrize(
    ("uri", "parts"),
    [
        ("hf://datasets/org/name", ("org/name", "", "")),
        ("hf://datasets/org/name/data/a.csv", ("org/name", "", "data/a.csv")),
        ("hf://datasets/org/name@v1.0/data", ("org/name", "v1.0", "data")),
        (
            "hf://datasets/org/name@refs/convert/parquet/default/train",
            ("org/name", "refs/convert/parquet", "default/train"),
        ),
    ],
)
def test_uris_of_the_hub(uri: str, parts: tuple[str, str, str]) -> None:
    assert parse_hub_uri(uri) == parts


HUB_FILES = [
    "README.md",
    "data/train-00000-of-00001.parquet",
    "data/test-00000-of-00001.parquet",
    "extra/train.jsonl",
]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("", ["data/train-00000-of-00001.parquet", "extra/train.jsonl"]),
        ("extra", ["extra/train.jsonl"]),
        ("data/test-00000-of-00001.parquet", ["data/test-00000-of-00001.parquet"]),
        ("none", []),
    ],
)
def test_test_rows_of_the_hub_are_not_trained_on(path: str, expected: list[str]) -> None:
    assert hub_selection(HUB_FILES, path, DataFormat.AUTO) == expected


def test_weights_say_how_often_rows_are_taken() -> None:
    rows = [Row(f"{file}{n}".encode(), file, n) for file in "ab" for n in range(100)]

    def counts(weights: dict[str, str], seed: int = 1) -> dict[Row, int]:
        mixed = mix(rows, {file: Decimal(w) for file, w in weights.items()}, seed, SCRATCH)
        return {row: mixed.count(row) for row in rows}

    once = counts({"a": "1", "b": "0.25"})
    assert all(once[row] == 1 for row in rows[:100])
    assert sum(once[row] for row in rows[100:]) == 25
    more = counts({"a": "2.5", "b": "0.001"})
    assert sorted(more[row] for row in rows[:100]) == [2] * 50 + [3] * 50
    assert sum(more[row] for row in rows[100:]) == 1
    # More weight keeps what less weight had, so results can be compared.
    half = counts({"a": "1", "b": "0.5"})
    assert all(half[row] >= once[row] for row in rows)
    assert counts({"a": "1", "b": "0.5"}, seed=2) != half
