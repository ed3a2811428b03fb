"""Which logged conversations are picked for people to look at."""

from __future__ import annotations

import math
from pathlib import Path

import orjson
import pytest
from transformers import AutoModelForCausalLM

from tests.trainer.scratch_room import SCRATCH
from tunesmith_api.dataset import Dataset, Training
from tunesmith_trainer.data.reading import Row
from tunesmith_trainer.data.templates import load_tokenizer
from tunesmith_trainer.selection import By, Doubt, draw, measure, select
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


def test_each_different_row_is_drawn_once_and_by_the_seed() -> None:
    rows = [row(f"Question {n % 40}?", n) for n in range(80)]
    assert [one.line for one in draw(rows, 0, 0, SCRATCH)] == list(range(40))
    drawn = [one.line for one in draw(rows, 10, 1, SCRATCH)]
    assert len(set(drawn)) == 10 and drawn == sorted(drawn)
    assert drawn == [one.line for one in draw(rows, 10, 1, SCRATCH)]
    assert drawn != [one.line for one in draw(rows, 10, 2, SCRATCH)]


def test_a_model_is_less_sure_of_noise(tmp_path: Path) -> None:
    write_tiny(tmp_path)
    data = Dataset(train=Training(uri="file:///-"))
    tokenizer, model = (
        load_tokenizer(tmp_path, data),
        AutoModelForCausalLM.from_pretrained(tmp_path),
    )
    asked = [row("Why?"), row("Why? " * 400), Row(b'{"text": "No question."}', "file", 3)]
    told: list[int] = []
    short, long, text = measure(model, tokenizer, asked, data, lambda: told.append(1))
    assert len(told) == 3
    assert text is None, "it has no answer"
    assert long is None, "its answer is behind what the model reads"
    assert short is not None
    # One byte a token, and nothing learned.
    assert short.loss == pytest.approx(math.log(260), abs=1)
    assert short.entropy == pytest.approx(math.log(260), abs=0.5)
