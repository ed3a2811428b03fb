"""The prepare stage as a whole, on real S3: what it leaves, and what bad input gets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.trainer.conftest import STRANGER_KEYS, Bucket, jsonl, pairs, use_identity
from tunesmith_api.result import TrainerResult
from tunesmith_api.run import TrainingRun
from tunesmith_trainer.data.prepared import PreparedData
from tunesmith_trainer.data.templates import load_tokenizer
from tunesmith_trainer.outcome import Interrupted, Superseded, UserError
from tunesmith_trainer.prepare import prepare, prepared_uri
from tunesmith_trainer.progress import Progress
from tunesmith_trainer.stopping import StopSignal
from tunesmith_trainer.storage import Storage
from tunesmith_trainer.storage.manifest import fetch_committed
from tunesmith_trainer.tiny import write_tiny

MakeRun = Callable[..., TrainingRun]


def do(run: TrainingRun, work: Path) -> TrainerResult:
    return prepare(run, work, Progress.of(run), StopSignal())


def fetched(run: TrainingRun, bucket: Bucket, directory: Path) -> PreparedData:
    storage = Storage.open(bucket.connection, "output")
    fetch_committed(storage, prepared_uri(run), directory)
    return PreparedData.load(directory)


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


def test_several_sources_are_mixed_by_weight_and_said(
    bucket: Bucket, make_run: MakeRun, tmp_path: Path
) -> None:
    bucket.put("data/chat.jsonl", jsonl(*pairs(40)))
    bucket.put("data/alpaca.json", json.dumps([{"instruction": "Say it", "output": "It"}]))
    bucket.put("data/notes/a.txt", "One day.\n\nAnother day.\n")
    sources = [
        {"uri": bucket.uri("data/chat.jsonl"), "weight": "0.5"},
        {"uri": bucket.uri("data/alpaca.json"), "weight": "3"},
        {"uri": bucket.uri("data/notes/"), "format": "Text"},
    ]
    dataset = {"train": {"sources": sources}, "test": {"percent": "0"}}
    run = make_run(dataset={**dataset, "prompt": {"system": "Be brief.", "version": "v2"}})
    result = do(run, tmp_path / "work")
    assert result.data is not None
    seen = [(s.format, s.rows, s.weight) for s in result.data.sources]
    assert seen == [("PromptResponse", 40, "0.5"), ("Alpaca", 1, "3"), ("Text", 2, "1")]
    assert result.data.rows.train == 20 + 3 + 2
    assert result.data.format == "PromptResponse, Alpaca, Text"
    assert (result.data.prompt_version, result.data.template) == ("v2", "ChatTemplate")
    write_tiny(tmp_path / "tiny")
    tokenizer = load_tokenizer(tmp_path / "tiny", run.dataset)
    data = fetched(run, bucket, tmp_path / "back")
    texts = [tokenizer.decode(data.train.row(n)[0]) for n in range(25)]
    assert sum("Be brief." in text for text in texts) == 23
    assert texts[-2:] == ["One day.<|im_end|>", "Another day.<|im_end|>"]


@pytest.mark.parametrize("deduplicate", ["Exact", "Near"])
def test_rows_that_two_sources_share_are_the_first_ones(
    bucket: Bucket, make_run: MakeRun, tmp_path: Path, deduplicate: str
) -> None:
    bucket.put("data/a.jsonl", jsonl(*pairs(4)))
    bucket.put("data/b.jsonl", jsonl(*pairs(6)))
    names = {"a": "2", "b": "1"}
    sources = [{"uri": bucket.uri(f"data/{n}.jsonl"), "weight": w} for n, w in names.items()]
    # One file in two sources is as if its rows were there twice.
    sources.append({"uri": bucket.uri("data/a.jsonl"), "weight": "5"})
    clean = {"deduplicate": deduplicate, "similarity": "1"}
    dataset = {"train": {"sources": sources}, "test": {"percent": "0"}, "clean": clean}
    data = do(make_run(dataset=dataset), tmp_path).data
    assert data is not None
    assert (data.rows.read, data.rows.duplicates, data.rows.train) == (14, 8, 4 * 2 + 2)
    assert [source.rows for source in data.sources] == [4, 2, 0]


def test_a_file_in_two_sources_has_one_weight_where_repeats_stay(
    bucket: Bucket, make_run: MakeRun, tmp_path: Path
) -> None:
    uri = bucket.put("data/a.jsonl", jsonl(*pairs(4)))
    train = {"sources": [{"uri": uri}, {"uri": uri, "weight": "3"}]}
    run = make_run(dataset={"train": train, "clean": {"deduplicate": "Off"}})
    with pytest.raises(
        UserError, match=r"in two of dataset.train.sources, with weights of 1 and 3"
    ):
        do(run, tmp_path)


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


def test_a_column_of_one_source_may_be_missing_in_another(
    bucket: Bucket, make_run: MakeRun, tmp_path: Path
) -> None:
    alpaca = {"instruction": "Say it", "output": "It"}
    bucket.put("data/a.jsonl", jsonl(alpaca))
    bucket.put("data/b.jsonl", jsonl(alpaca | {"output": "That"}, alpaca | {"hint": "that"}))
    sources = [{"uri": bucket.uri(f"data/{name}.jsonl")} for name in "ab"]
    dataset = {"train": {"sources": sources}, "test": {"percent": "0"}}
    data = do(make_run(dataset={**dataset, "columns": {"input": "hint"}}), tmp_path).data
    assert data is not None and data.rows.train == 3


def test_held_out_rows_do_not_depend_on_weights_and_are_no_copies(
    bucket: Bucket, make_run: MakeRun, tmp_path: Path
) -> None:
    uri = bucket.put("data/chat.jsonl", jsonl(*pairs(60)))
    held_out = []
    for weight in ("1", "3"):
        train = {"sources": [{"uri": uri, "weight": weight}]}
        run = make_run(runUri=bucket.uri(f"runs/{weight}/"), dataset={"train": train})
        do(run, tmp_path / weight)
        held_out.append(fetched(run, bucket, tmp_path / f"back-{weight}").test)
    assert held_out[0].tokens.tolist() == held_out[1].tokens.tolist()


def test_a_conversation_log_gives_what_was_liked_also_later(
    bucket: Bucket, make_run: MakeRun, tmp_path: Path
) -> None:
    def line(name: str, rating: str | None) -> dict[str, Any]:
        messages = [
            {"role": "user", "content": f"Q {name}"},
            {"role": "assistant", "content": f"A {name}"},
        ]
        feedback = rating and {"rating": rating, "comment": "", "correction": ""}
        return {"id": name, "revision": "6", "messages": messages, "feedback": feedback}

    late = {"id": "2", "session": "", "revision": "6", "feedback": {"rating": "good"}}
    lines = [line("1", "good"), line("2", None), line("3", "bad"), line("4", None)]
    bucket.put("log/conversations/6/2026-01-31/a.jsonl", jsonl(*lines))
    bucket.put("log/feedback/6/2026-01-31/a.jsonl", jsonl(late))
    dataset = {"train": {"uri": bucket.uri("log/")}, "feedback": "Positive"}
    result = do(make_run(dataset={**dataset, "test": {"percent": "0"}}), tmp_path)
    assert result.data is not None
    assert (result.data.rows.train, result.data.rows.filtered) == (2, 3)
    assert result.data.format == "Conversations"
    back = fetched(make_run(), bucket, tmp_path / "back")
    assert [(d.reason, d.line, d.text) for d in back.meta.dropped] == [
        ("Feedback", 3, "rated bad ¶ Q 3 ¶ A 3"),
        ("Feedback", 4, "not rated ¶ Q 4 ¶ A 4"),
    ]


def rated(name: str, rating: str | None, time: str) -> dict[str, Any]:
    """A line of what was said of a conversation; without a rating only a comment."""
    feedback = {"rating": rating or "", "comment": "Hm.", "correction": "", "time": time}
    return {"id": name, "revision": "6", "time": time, "feedback": feedback}


def test_what_was_said_last_counts_wherever_it_was_written(
    bucket: Bucket, make_run: MakeRun, tmp_path: Path
) -> None:
    """Ratings come to any pod of any revision; the job names the folder of conversations alone."""

    def logged(name: str, rating: str | None) -> dict[str, Any]:
        messages = [
            {"role": "user", "content": f"Q {name}"},
            {"role": "assistant", "content": f"A {name}"},
        ]
        line = rated(name, rating, "2026-01-31T10:00:00.000+00:00")
        return line | {"messages": messages, "feedback": line["feedback"] if rating else None}

    first, last = "2026-01-31T09:00:00.000+00:00", "2026-01-31T11:00:00.000+00:00"
    lines = [logged("1", "good"), logged("2", "bad"), logged("3", None), logged("4", "good")]
    bucket.put("log/conversations/6/2026-01-31/a.jsonl", jsonl(*lines))
    # Of the names of files that of what was said last is the first.
    said_last = [rated("2", "good", last), rated("3", "bad", last), rated("4", None, last)]
    bucket.put("log/feedback/10/2026-01-31/110000-a-1.jsonl", jsonl(*said_last))
    said_first = [rated("1", "bad", first), rated("2", "neutral", first), rated("3", "good", first)]
    bucket.put("log/feedback/6/2026-01-31/090000-b-1.jsonl", jsonl(*said_first))
    kept = {}
    for uri in ("log/", "log/conversations/", "log/conversations/6/2026-01-31/a.jsonl"):
        dataset = {"train": {"uri": bucket.uri(uri)}, "feedback": "Positive"}
        run = make_run(
            dataset={**dataset, "test": {"percent": "0"}},
            runUri=bucket.uri(f"runs/{len(kept)}/"),
        )
        result = do(run, tmp_path / str(len(kept)))
        assert result.data is not None
        dropped = fetched(run, bucket, tmp_path / f"back-{len(kept)}").meta.dropped
        kept[uri] = (result.data.rows.train, [d.text for d in dropped])
    assert set(map(str, kept.values())) == {str((3, ["rated bad ¶ Q 3 ¶ A 3"]))}


@pytest.mark.parametrize("feedback", ["Any", "NotNegative", "Positive"])
def test_corrections_are_learned_in_place_of_answers(
    feedback: str, bucket: Bucket, make_run: MakeRun, tmp_path: Path
) -> None:
    def said(name: str, rating: str, correction: str, hour: int) -> dict[str, Any]:
        line = rated(name, rating, f"2026-01-31T{hour:02}:00:00.000+00:00")
        line["feedback"]["correction"] = correction
        return line

    def logged(name: str, rating: str = "", correction: str = "") -> dict[str, Any]:
        messages = [
            {"role": "user", "content": f"Q {name}"},
            {"role": "assistant", "content": f"A {name}"},
        ]
        return said(name, rating, correction, 10) | {"messages": messages}

    lines = [logged("1", "bad", "C 1"), logged("2", "bad", "old"), logged("3", "good")]
    lines += [logged("4"), logged("5", "bad")]
    bucket.put("log/conversations/6/2026-01-31/a.jsonl", jsonl(*lines))
    late = [said("2", "", "C 2", 12), said("2", "bad", "older", 9), said("4", "", "C 4", 11)]
    bucket.put("log/feedback/7/2026-01-31/a.jsonl", jsonl(*late, said("3", "", " ", 11)))
    dataset = {"train": {"uri": bucket.uri("log/conversations/")}, "test": {"percent": "0"}}
    run = make_run(dataset={**dataset, "feedback": feedback, "corrections": "Use"})
    do(run, tmp_path)
    train = fetched(run, bucket, tmp_path / "back").train
    write_tiny(tmp_path / "tiny")
    tokenizer = load_tokenizer(tmp_path / "tiny", run.dataset)
    rows = (train.row(number) for number in range(len(train)))
    texts = [tokenizer.decode(tokens[learned == 1]) for tokens, learned in rows]
    answers = sorted(text.removesuffix("<|im_end|>") for text in texts)
    assert answers == ["A 3", *(["A 5"] if feedback == "Any" else []), "C 1", "C 2", "C 4"]


def test_a_log_that_nobody_has_rated_late_needs_no_folder_for_it(
    bucket: Bucket, make_run: MakeRun, tmp_path: Path
) -> None:
    messages = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    line = {"id": "1", "revision": "6", "messages": messages, "feedback": None}
    bucket.put("log/conversations/6/a.jsonl", jsonl(line))
    dataset = {"train": {"uri": bucket.uri("log/conversations/")}, "feedback": "NotNegative"}
    result = do(make_run(dataset={**dataset, "test": {"percent": "0"}}), tmp_path)
    assert result.data is not None
    assert result.data.rows.train == 1


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


GOOD = jsonl(*pairs(20))

BAD_INPUT = [
    pytest.param(
        {}, None, "DatasetNotFound", ["data/train.jsonl", "dataset"], id="the key is not there"
    ),
    pytest.param(
        {"dataset": {"train": {"uri": "s3://no-such-bucket-x/train.jsonl"}}},
        GOOD,
        "BucketNotFound",
        ["no-such-bucket-x"],
        id="the data's bucket is not there",
    ),
    pytest.param(
        {"runUri": "s3://no-such-bucket-x/runs/"},
        GOOD,
        "BucketNotFound",
        ["no-such-bucket-x", "spec.output.uri"],
        id="the output's bucket is not there",
    ),
    pytest.param({}, "", "DatasetEmpty", ["No conversations to train on"], id="an empty file"),
    pytest.param(
        {}, "\n \n\n", "DatasetEmpty", ["No conversations to train on"], id="only blank lines"
    ),
    pytest.param({}, "[]", "DatasetMalformed", ["line 1"], id="an empty conversation on a line"),
    pytest.param(
        {"checks": {"minRows": 25}},
        GOOD,
        "DatasetTooSmall",
        ["20", "25", "minRows"],
        id="fewer rows than minRows",
    ),
    pytest.param(
        {"checks": {"maxRows": 10}}, GOOD, "DatasetTooLarge", ["10", "maxRows"], id="too many rows"
    ),
    pytest.param(
        {},
        GOOD + "{broken\n",
        "DatasetMalformed",
        ["line 21", "{broken", "failOnMalformed"],
        id="a malformed line, with its number and content",
    ),
    pytest.param(
        {"checks": {"failOnMalformed": "0.04"}},
        GOOD + "{broken\n",
        "DatasetMalformed",
        ["1 of 21", "line 21"],
        id="a larger share of malformed lines than is allowed",
    ),
    pytest.param(
        {},
        jsonl({"question": "a", "answer": "b"}),
        "WrongColumns",
        ["answer, question", "dataset.columns"],
        id="other field names",
    ),
    pytest.param(
        {"columns": {"prompt": "question", "response": "answer"}},
        GOOD,
        "WrongColumns",
        ["prompt, response", "dataset.columns holds for all sources"],
        id="field names of another source",
    ),
    pytest.param(
        {"columns": {"input": "contxt"}},
        jsonl({"instruction": "Greet", "context": "Ann", "output": "Hi Ann"}),
        "WrongColumns",
        ["dataset.columns.input is 'contxt'", "Alpaca", "Correct the name"],
        id="a misspelt name of an optional field",
    ),
    pytest.param(
        {"columns": {"output": "response"}},
        GOOD,
        "WrongColumns",
        ["dataset.columns.output is 'response'", "the format (PromptResponse) has no use for it"],
        id="a name for another format",
    ),
    pytest.param(
        {"format": "Messages"},
        GOOD,
        "WrongColumns",
        ["prompt, response", "dataset.format"],
        id="another format than was said",
    ),
    pytest.param(
        {},
        GOOD + jsonl({"prompt": "Why?", "response": " "}),
        "DatasetMalformed",
        ["line 21", "response is empty"],
        id="an empty response",
    ),
    pytest.param(
        {},
        GOOD + jsonl({"prompt": "Why?", "response": "So. " * 200}),
        "SequenceTooLong",
        ["line 21", "256", "tooLong"],
        id="a response longer than the context",
    ),
    pytest.param(
        {},
        jsonl(
            {"messages": [{"role": "user", "content": "Hi"}]},
            {"messages": [{"role": "user", "content": "Ho"}]},
        ),
        "NothingToTrainOn",
        ["answers of the assistant"],
        id="no answer in any row",
    ),
    pytest.param(
        {"checks": {"tooLong": "Truncate"}},
        jsonl(*({"prompt": f"{n} " * 200, "response": "Yes"} for n in range(100, 110))),
        "NothingToTrainOn",
        ["longer than hyperparameters.maxSequenceLength"],
        id="all answers cut away",
    ),
    pytest.param(
        {},
        jsonl({"prompt": "a", "chosen": "b", "rejected": "c"}),
        "WrongColumns",
        ["objective DPO", "train.jsonl"],
        id="preferences without an objective for them",
    ),
    pytest.param(
        {"prompt": {"template": "{{ prompt }"}},
        GOOD,
        "TemplateInvalid",
        ["dataset.prompt.template, line 1"],
        id="a prompt that is no Jinja",
    ),
    pytest.param(
        {}, jsonl(*pairs(1)), "DatasetTooSmall", ["distinct", "percent 0"], id="one row to split"
    ),
    pytest.param(
        {"test": {"uri": "s3://BUCKET/data/train.jsonl"}},
        GOOD,
        "DatasetEmpty",
        ["No conversations to train on", "20 that repeat held-out ones", "rows of their own"],
        id="all rows are held out",
    ),
    pytest.param(
        {"hyperparameters": {"maxSequenceLength": 1024}},
        GOOD,
        "SequenceTooLong",
        ["1024", "512"],
        id="a limit above the model's context",
    ),
    pytest.param(
        {"model": {"uri": "s3://BUCKET/models/none/"}},
        GOOD,
        "ModelNotFound",
        ["models/none", "spec.model.uri"],
        id="no model at the prefix",
    ),
    pytest.param(
        {"model": {"uri": "s3://BUCKET/data/"}},
        GOOD,
        "ModelInvalid",
        ["config.json", "safetensors", "tokenizer"],
        id="something else than a model at the prefix",
    ),
    pytest.param(
        {"model": {"uri": "pvc://claim/none"}},
        GOOD,
        "ModelNotFound",
        ["pvc://claim/none"],
        id="no model on the volume",
    ),
]


@pytest.mark.parametrize(("settings", "content", "reason", "words"), BAD_INPUT)
def test_bad_input_is_named_with_what_to_change(
    settings: dict[str, Any],
    content: str | None,
    reason: str,
    words: list[str],
    bucket: Bucket,
    make_run: MakeRun,
    tmp_path: Path,
) -> None:
    if content is not None:
        bucket.put("data/train.jsonl", content)
    settings = json.loads(json.dumps(settings).replace("BUCKET", bucket.name))
    sections = {
        k: settings.pop(k)
        for k in ("runUri", "model", "hyperparameters", "dataset")
        if k in settings
    }
    dataset = {"train": {"uri": bucket.uri("data/train.jsonl")}} | settings
    with pytest.raises(UserError) as caught:
        do(make_run(**({"dataset": dataset} | sections)), tmp_path)
    assert caught.value.reason == reason, caught.value.message
    for word in words:
        assert word in caught.value.message
    assert not [key for key in bucket.keys("runs/") if "prepared" in key or "probe" in key]


def test_no_permission_to_write_is_found_first(
    bucket: Bucket, make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_identity(monkeypatch, STRANGER_KEYS)
    with pytest.raises(UserError) as caught:
        do(make_run(), tmp_path)
    assert caught.value.reason == "OutputNotWritable"
    assert bucket.uri("runs/u-1/") in caught.value.message


@pytest.mark.parametrize(
    ("keys", "reason", "word"),
    [
        pytest.param(("nobody", "x"), "AccessDenied", "AWS_ACCESS_KEY_ID", id="an unknown key"),
        pytest.param(
            ("testkey", "wrong"), "AccessDenied", "AWS_SECRET_ACCESS_KEY", id="a wrong secret key"
        ),
        pytest.param(None, "CredentialsMissing", "secretRef", id="no credentials at all"),
    ],
)
def test_wrong_credentials_are_told_apart(
    keys: tuple[str, str] | None,
    reason: str,
    word: str,
    make_run: MakeRun,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use_identity(monkeypatch, keys)
    with pytest.raises(UserError) as caught:
        do(make_run(), tmp_path)
    assert caught.value.reason == reason
    assert word in caught.value.message
