"""The prepare stage as a whole, on real S3: what it leaves, and what bad input gets."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.trainer.conftest import Bucket, jsonl, pairs
from tests.trainer.preparing_in_s3 import MakeRun, do, fetched
from tunesmith_trainer.data.templates import load_tokenizer
from tunesmith_trainer.outcome import Interrupted, Superseded, UserError
from tunesmith_trainer.prepare import prepare
from tunesmith_trainer.progress import Progress
from tunesmith_trainer.stopping import StopSignal
from tunesmith_trainer.tiny import write_tiny


def test_rows_come_out_as_tokens_with_the_answers_marked(
    bucket: Bucket, make_run: MakeRun, tmp_path: Path
) -> None:
    bucket.put("data/train.jsonl", jsonl(*pairs(50), *pairs(5)))
    run = make_run()
    result = do(run, tmp_path / "work")
    assert result.data is not None
    rows = result.data.rows
    assert (rows.read, rows.duplicates, rows.train + rows.test) == (55, 5, 50)
    assert rows.test > 0
    assert result.data.format == "PromptResponse"
    data = fetched(run, bucket, tmp_path / "back")
    write_tiny(tmp_path / "tiny")
    tokenizer = load_tokenizer(tmp_path / "tiny", run.dataset)
    tokens, supervised = data.train.row(0)
    answer = tokenizer.decode(tokens[supervised == 1])
    assert answer.startswith("It is ") and answer.endswith(".<|im_end|>")
    assert data.meta.dataset_digest == result.dataset_digest
    assert len(data.test) == rows.test and len(data.validation) == 0
    assert data.test.tokens.dtype == np.int32


def test_held_out_rows_that_cleaning_drops_are_said_to_be(
    bucket: Bucket, make_run: MakeRun, tmp_path: Path
) -> None:
    train, test = (
        bucket.put("a.jsonl", jsonl(*pairs(4))),
        bucket.put("b.jsonl", jsonl(*pairs(3, 9))),
    )
    dataset = {"train": {"uri": train}, "test": {"uri": test}, "clean": {"minCharacters": 99}}
    with pytest.raises(UserError, match=r"of 3 rows so far 0 are malformed and 3 dropped by"):
        do(make_run(dataset=dataset), tmp_path)


def test_the_same_inputs_give_the_same_digest_and_another_seed_another_split(
    bucket: Bucket, make_run: MakeRun, tmp_path: Path
) -> None:
    bucket.put("data/train.jsonl", jsonl(*pairs(60)))
    results = [
        do(make_run(runUri=bucket.uri(f"runs/{n}/"), hyperparameters=values), tmp_path / str(n))
        for n, values in enumerate(
            [
                {"maxSequenceLength": 256},
                {"maxSequenceLength": 128},
                {"maxSequenceLength": 256, "seed": 3},
            ]
        )
    ]
    first, second, third = (result.dataset_digest for result in results)
    assert first == second != third


def test_a_second_attempt_uses_what_the_first_has_finished(
    bucket: Bucket, make_run: MakeRun, tmp_path: Path
) -> None:
    bucket.put("data/train.jsonl", jsonl(*pairs(30)))
    first = do(make_run(), tmp_path / "1")
    bucket.client.delete_object(Bucket=bucket.name, Key="data/train.jsonl")
    second = do(make_run(attempt=2), tmp_path / "2")
    assert second.dataset_digest == first.dataset_digest
    assert second.data == first.data
    assert "earlier attempt" in second.message


def test_a_second_attempt_makes_again_what_is_damaged(
    bucket: Bucket, make_run: MakeRun, tmp_path: Path
) -> None:
    bucket.put("data/train.jsonl", jsonl(*pairs(30)))
    do(make_run(), tmp_path / "1")
    bucket.put("runs/u-1/prepared/attempt-1/train.tokens.npy", b"short")
    run = make_run(attempt=2)
    do(run, tmp_path / "2")
    assert len(fetched(run, bucket, tmp_path / "back").train) > 0


def test_an_old_attempt_that_wakes_up_writes_nothing(
    bucket: Bucket, make_run: MakeRun, tmp_path: Path
) -> None:
    bucket.put("data/train.jsonl", jsonl(*pairs(30)))
    do(make_run(attempt=2), tmp_path / "2")
    before = bucket.keys()
    with pytest.raises(Superseded):
        do(make_run(attempt=1), tmp_path / "1")
    assert bucket.keys() == before


def test_sigterm_ends_a_long_read(bucket: Bucket, make_run: MakeRun, tmp_path: Path) -> None:
    bucket.put("data/train.jsonl", jsonl(*pairs(30)))
    stop = StopSignal()
    stop.request()
    run = make_run()
    with pytest.raises(Interrupted):
        prepare(run, tmp_path, Progress.of(run), stop)


def test_held_out_files_keep_their_rows_out_of_training(
    bucket: Bucket, make_run: MakeRun, tmp_path: Path
) -> None:
    bucket.put("data/train.jsonl", jsonl(*pairs(20)))
    bucket.put("data/test.jsonl", jsonl(*pairs(5), *pairs(2, start=100)))
    dataset = {
        "train": {"uri": bucket.uri("data/train.jsonl")},
        "test": {"uri": bucket.uri("data/test.jsonl")},
        "validation": {"percent": "10"},
    }
    rows = do(make_run(dataset=dataset), tmp_path).data.rows  # type: ignore[union-attr]
    assert (rows.test, rows.duplicates) == (7, 5)
    assert rows.train + rows.validation == 15 and rows.validation > 0


LONG = " ".join(str(n) for n in range(45))


def test_what_cleaning_did_is_counted_and_sampled(
    bucket: Bucket, make_run: MakeRun, tmp_path: Path
) -> None:
    odd = [
        {"prompt": "Who are you?", "response": "Write to me@example.org."},
        {"prompt": "What?", "response": "?"},
        {"prompt": LONG, "response": "Yes."},
        {"prompt": LONG + " end", "response": "Yes."},
    ]
    bucket.put("data/train.jsonl", jsonl(*pairs(20), *pairs(1), *odd))
    clean = {"pii": "Mask", "minCharacters": 10, "deduplicate": "Near"}
    run = make_run(dataset={"train": {"uri": bucket.uri("data/train.jsonl")}, "clean": clean})
    data = do(run, tmp_path / "work").data
    assert data is not None
    assert {d.reason: d.rows for d in data.dropped} == {
        "Duplicate": 1,
        "NearDuplicate": 1,
        "TooFewCharacters": 1,
    }
    assert [(m.kind, m.pieces) for m in data.masked] == [("EMAIL", 1)]
    rows = data.rows
    assert (rows.read, rows.duplicates, rows.cleaned) == (25, 2, 1)
    assert rows.train + rows.test == 22
    samples = fetched(run, bucket, tmp_path / "back").meta.dropped
    assert sorted((s.reason, s.line) for s in samples) == [
        ("Duplicate", 21),
        ("NearDuplicate", 25),
        ("TooFewCharacters", 23),
    ]


def test_other_rows_that_are_left_out_are_sampled_too(
    bucket: Bucket, make_run: MakeRun, tmp_path: Path
) -> None:
    odd = [
        {"prompt": "Who?", "response": ["me@example.org"]},
        {"prompt": "Write to me@example.org.", "response": "So. " * 200},
        {"messages": [{"role": "user", "content": "Hi"}]},
    ]
    bucket.put("data/train.jsonl", jsonl(*pairs(20), *odd[:2]))
    bucket.put("data/more.jsonl", jsonl(odd[2]))
    sources = [{"uri": bucket.uri(f"data/{name}.jsonl")} for name in ("train", "more")]
    dataset = {
        "train": {"sources": sources},
        "test": {"percent": "0"},
        "clean": {"pii": "Mask"},
        "checks": {"failOnMalformed": "0.1", "tooLong": "Drop"},
    }
    run = make_run(dataset=dataset)
    rows = do(run, tmp_path / "work").data.rows  # type: ignore[union-attr]
    assert (rows.malformed, rows.too_long, rows.unsupervised, rows.train) == (1, 1, 1, 20)
    meta = fetched(run, bucket, tmp_path / "back").meta
    bad, long, bare = meta.dropped
    what = 'response is a list ([\'[EMAIL]\']), not text: {"prompt": "Who?", "response":'
    assert (bad.reason, bad.line) == ("Malformed", 21) and bad.text.startswith(what)
    assert (long.reason, long.line) == ("TooLong", 22)
    assert long.text.startswith("Write to [EMAIL]. ¶ So. So.")
    assert (bare.reason, bare.text) == ("Unsupervised", "Hi")
    assert not any("@" in sample.text for sample in meta.dropped)


def test_an_overlap_with_a_test_file_is_refused_if_asked(
    bucket: Bucket, make_run: MakeRun, tmp_path: Path
) -> None:
    bucket.put("data/train.jsonl", jsonl(*pairs(20), {"prompt": LONG, "response": "Yes."}))
    likewise = {"prompt": LONG.replace(" ", ", ") + " x", "response": "Yes."}
    bucket.put("data/test.jsonl", jsonl(likewise))
    dataset = {
        "train": {"uri": bucket.uri("data/train.jsonl")},
        "test": {"uri": bucket.uri("data/test.jsonl")},
    }
    rows = do(make_run(dataset=dataset), tmp_path / "1").data.rows  # type: ignore[union-attr]
    assert (rows.train, rows.duplicates, rows.test) == (20, 1, 1)
    run = make_run(dataset=dataset | {"checks": {"onOverlap": "Fail"}}, attempt=2)
    with pytest.raises(UserError) as caught:
        do(run, tmp_path / "2")
    assert caught.value.reason == "DatasetOverlaps"
    for word in ("1 rows", "train.jsonl line 21", "test.jsonl line 1", "onOverlap"):
        assert word in caught.value.message


def test_a_prefix_stands_for_all_json_files_below_it(
    bucket: Bucket, make_run: MakeRun, tmp_path: Path
) -> None:
    bucket.put("many/b/two.jsonl", jsonl(*pairs(5, start=10)))
    bucket.put("many/one.json", json.dumps([{"user": "Hi", "bot": "Hello"}]))
    bucket.put("many/readme.txt", "not data")
    dataset = {
        "train": {"uri": bucket.uri("many/")},
        "test": {"percent": "0"},
        "checks": {"failOnMalformed": "0.5"},
    }
    rows = do(make_run(dataset=dataset), tmp_path).data.rows  # type: ignore[union-attr]
    assert (rows.read, rows.train, rows.malformed) == (6, 5, 1)
