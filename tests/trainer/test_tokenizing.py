"""Tokenizing with the help of other processes: what one process makes, to the byte."""

from __future__ import annotations

import multiprocessing
import random
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.trainer.spread_jobs import Started
from tests.trainer.test_templates import chat, dataset, rows_of
from tunesmith_api.dataset import Checks, TooLong
from tunesmith_api.objectives import Objective
from tunesmith_trainer.data import tokenizing
from tunesmith_trainer.data.prepared import write_split
from tunesmith_trainer.data.reading import Reading, Row
from tunesmith_trainer.data.templates import load_tokenizer
from tunesmith_trainer.data.tokenizing import RowTokenizer
from tunesmith_trainer.outcome import Interrupted, UserError
from tunesmith_trainer.stopping import StopSignal
from tunesmith_trainer.tiny import write_tiny


def mixed_rows(count: int) -> list[Row]:
    """Rows of all kinds: some too long, some with nothing to learn, some that are refused."""
    rng = random.Random(11)
    words = [f"{letter}{number}" for letter in "abcdé" for number in range(40)]

    def said(most: int) -> str:
        return " ".join(rng.choices(words, k=rng.randint(1, most)))

    contents: list[Any] = []
    for number in range(count):
        kinds: list[Any] = [
            chat(said(20), said(20)),
            [*chat(said(5), said(5)), *chat(said(5), said(80))],
            [{"role": "user", "content": said(9)}],
            {"text": said(300)},
            {
                "messages": [{"role": "user", "content": said(9)}],
                **{"chosen": said(9), "rejected": said(90)},
            },
            [{"role": "assistant", "content": "odd"}, {"role": "assistant", "content": said(4)}],
        ]
        contents.append(kinds[number % len(kinds)])
    return [
        Row(orjson.dumps(content), f"file-{number % 3}", number)
        for number, content in enumerate(contents, 1)
    ]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("tiny")
    write_tiny(folder)
    tokenizer = load_tokenizer(folder, dataset())
    tokenizer.chat_template = (
        "{% if messages[0]['role'] == 'assistant' %}{{ raise_exception('no question') }}{% endif %}"
        + tokenizer.chat_template
    )
    return tokenizer


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of a few rows, for workers that are up."""
    monkeypatch.setattr(tokenizing, "_BATCH_ROWS", 20)
    monkeypatch.setattr(tokenizing, "_ROWS_FOR_WORKERS", 40)
    monkeypatch.setattr(tokenizing, "Spread", Started)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("objective", "policy"),
    [(Objective.SFT, TooLong.TRUNCATE), (Objective.PRETRAIN, TooLong.DROP)],
)
def test_any_number_of_workers_writes_the_same_bytes_and_counts(
    tokenizer: Any, objective: Objective, policy: TooLong, tmp_path: Path
) -> None:
    rows = mixed_rows(600)
    seen = []
    for workers in range(4):
        reading = Reading(Checks(fail_on_malformed="1"))
        maker = RowTokenizer(tokenizer, 200, policy, reading, objective=objective, workers=workers)
        counted: list[int] = []
        done = write_split(tmp_path, "train", maker.tokenize(rows, counted.append))
        files = {path.name: path.read_bytes() for path in sorted(tmp_path.iterdir())}
        counts = asdict(maker.counts)
        seen.append((done, files, counts, reading.malformed, reading.examples, counted))
    assert seen[0][3] == 100 and "file-0 line 6" in seen[0][4][0]
    if objective is Objective.SFT:
        assert seen[0][2]["too_long"] > 100 and seen[0][2]["unsupervised"] == 100
    assert seen[1:] == seen[:1] * 3


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("refused", [True, False])
def test_the_first_row_that_is_wrong_is_named_whoever_encoded_it(
    tokenizer: Any, refused: bool
) -> None:
    rows = rows_of(*(chat(f"question {n}", f"answer {n}") for n in range(200)))
    wrong = chat("q", "a" * 900)
    rows[110:110] = [Row(orjson.dumps(wrong[1:] if refused else wrong), "f", 7)] * 40
    messages = []
    for workers in (0, 2):
        reading = Reading(Checks(fail_on_malformed="0"))
        maker = RowTokenizer(tokenizer, 200, TooLong.FAIL, reading, workers=workers)
        made: list[Any] = []
        with pytest.raises(UserError) as caught:
            made.extend(maker.tokenize(rows, lambda _: None))
        messages.append((caught.value.reason, caught.value.message, len(made)))
    assert messages[0] == messages[1]
    assert "f line 7" in messages[0][1] and messages[0][2] == 110


@pytest.mark.usefixtures("small")
def test_a_stop_ends_it_between_batches_and_leaves_no_process(tokenizer: Any) -> None:
    stop = StopSignal()
    done: list[int] = []

    def on_rows(count: int) -> None:
        done.append(count)
        if len(done) == 3:
            assert len(multiprocessing.active_children()) == 2
            stop.request()
        stop.check()

    maker = RowTokenizer(tokenizer, 200, TooLong.FAIL, Reading(Checks()), workers=2)
    rows = rows_of(*(chat(f"question {n}", f"answer {n}") for n in range(2000)))
    with pytest.raises(Interrupted):
        list(maker.tokenize(rows, on_rows))
    assert len(done) == 3
    assert not multiprocessing.active_children()


def test_few_rows_need_no_other_process(tokenizer: Any) -> None:
    maker = RowTokenizer(tokenizer, 200, TooLong.FAIL, Reading(Checks()), workers=2)
    rows = rows_of(*(chat(f"question {n}", f"answer {n}") for n in range(600)))
    running: list[int] = []
    list(maker.tokenize(rows, lambda _: running.append(len(multiprocessing.active_children()))))
    assert running == [0, 0]


def test_rows_under_way_are_few_bytes_however_long_they_are(tokenizer: Any) -> None:
    rows = rows_of(*(chat("q", "word " * 20_000) for _ in range(12)))
    counted: list[int] = []
    maker = RowTokenizer(tokenizer, 200, TooLong.TRUNCATE, Reading(Checks()))
    list(maker.tokenize(rows, counted.append))
    assert counted == [6, 6]
