"""Which logged conversations are picked for people to look at."""

from __future__ import annotations

import json
import math
from pathlib import Path

import orjson
import pytest

from tests.trainer.conftest import jsonl, pairs
from tunesmith_trainer.data.reading import Row
from tunesmith_trainer.selection import By, Doubt, main, measure, read, select
from tunesmith_trainer.tiny import write_tiny


def row(text: str, line: int = 1) -> Row:
    turns = [{"role": "user", "content": text}, {"role": "assistant", "content": "Yes."}]
    return Row(orjson.dumps(turns), "file", line)


ALIKE = [f"How do I reset the password of my account on page {n}?" for n in range(4)]
OTHERS = ["The printer in the hall shows a red light.", "Where is the invoice for last May?"]


def test_of_rows_alike_one_is_picked_before_any_second_one() -> None:
    rows = [row(text) for text in [*ALIKE, *OTHERS]]
    doubts = [Doubt(9.0 - n, 0.0) for n in range(6)]
    texts = [orjson.loads(s.row.content)[0]["content"] for s in select(rows, doubts, 3)]
    assert texts[0] == ALIKE[0], "the most uncertain one is first"
    assert set(texts[1:]) == set(OTHERS)


def test_what_the_model_is_sure_of_is_not_in_the_pool() -> None:
    rows = [row(text) for text in [*OTHERS, *(f"{ALIKE[0]} And {n}?" for n in range(10))]]
    doubts = [Doubt(float(n), 1.0) for n in range(len(rows))]
    picked = select(rows, doubts, 2)
    assert picked[0].row is rows[-1]
    assert picked[1].row not in rows[:2], "however unlike the rest they are"


def test_the_kind_of_uncertainty_decides() -> None:
    rows = [row(text) for text in OTHERS]
    doubts = [Doubt(2.0, 0.1), Doubt(1.0, 3.0)]
    assert select(rows, doubts, 1, By.LOSS)[0].row is rows[0]
    assert select(rows, doubts, 1, By.ENTROPY)[0].row is rows[1]


def test_equal_rows_and_rows_without_answers_do_not_count() -> None:
    rows = [row("Same.", 1), row("Same.", 2), row("None.", 3)]
    picked = select(rows, [Doubt(1.0, 1.0), Doubt(1.0, 1.0), None], 5)
    assert [one.row.line for one in picked] == [1]


# The import of transformers alone may take half a minute.
@pytest.mark.timeout(180)
def test_the_command_reads_a_log_and_writes_rows_that_can_be_read_again(tmp_path: Path) -> None:
    write_tiny(tmp_path / "model")
    data, out = tmp_path / "log.jsonl", tmp_path / "out.jsonl"
    data.write_text(jsonl(*pairs(12)) + '{"prompt": 1}\n')
    options = ["--model", str(tmp_path / "model"), "--data", str(data)]
    assert main([*options, "--count", "4", "--out", str(out)]) == 0
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["selection"]["rank"] for line in lines] == [1, 2, 3, 4]
    again, dataset = read(out)
    assert len(again) == 4
    doubts = measure(tmp_path / "model", again, dataset)
    for line, doubt in zip(lines, doubts, strict=True):
        assert doubt is not None
        assert line["selection"]["loss"] == pytest.approx(doubt.loss, abs=1e-4)
        assert 0 < doubt.entropy <= math.log(100_000)


def test_a_model_that_is_not_there_is_said(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text(jsonl(*pairs(2)))
    options = ["--model", str(tmp_path / "none"), "--data", str(tmp_path / "log.jsonl")]
    assert main([*options, "--count", "1", "--out", str(tmp_path / "out")]) == 1
