"""Files of rows: every kind, packed or not, cut off, wrong, hostile; bad rows and long lines."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import orjson
import pyarrow as pa
import pytest
from backports import zstd
from pyarrow import parquet

from tests.trainer.conftest import jsonl, pairs
from tests.trainer.reading_rows import HI, KINDS, PACKERS, pair, read
from tests.trainer.test_data import TURN
from tunesmith_api.dataset import DataFormat
from tunesmith_trainer.outcome import UserError


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
            "a.jsonl.gz",
            gzip.compress(GOOD_LINES)[:40] + b"x" * 99,
            ["damaged", "upload it again"],
            id="bad gzip",
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
        pytest.param(
            "a.csv",
            b'"a,b\nHi,Hello\n',
            ["header is not CSV", "correct its"],
            id="an open quote above",
        ),
        pytest.param(
            "a.parquet",
            b"PAR1" + b"x" * 99,
            ["Parquet", "upload it again"],
            id="half a Parquet file",
        ),
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
