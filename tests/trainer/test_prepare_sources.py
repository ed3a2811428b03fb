"""Several sources in one preparation: mixed, weighed, deduplicated; conversation logs too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.conftest import Bucket, jsonl, pairs
from tests.trainer.preparing_in_s3 import MakeRun, do, fetched
from tunesmith_trainer.data.templates import load_tokenizer
from tunesmith_trainer.outcome import UserError
from tunesmith_trainer.tiny import write_tiny


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
