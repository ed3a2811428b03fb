"""Objectives Pretrain and DPO from files to a result: what is learned, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from accelerate.state import AcceleratorState

from tests.trainer.conftest import Bucket, jsonl, pairs
from tests.trainer.preparing_in_s3 import do, fetched
from tunesmith_api.result import Outcome, TrainerResult
from tunesmith_api.run import TrainingRun
from tunesmith_trainer.data.templates import load_tokenizer
from tunesmith_trainer.inputs import digest_of, inputs_parts
from tunesmith_trainer.outcome import UserError
from tunesmith_trainer.prepare import inputs_digest as digest_of_rows
from tunesmith_trainer.progress import Progress
from tunesmith_trainer.recipe import fine_tune
from tunesmith_trainer.stopping import StopSignal
from tunesmith_trainer.tiny import write_tiny

MakeRun = Callable[..., TrainingRun]
NO_TEST = {"percent": "0"}
SETTINGS = {"maxSequenceLength": 64, "learningRate": "5e-3", "epochs": "3"}


def preferences(count: int) -> list[dict[str, Any]]:
    """A polite and a curt answer to each question."""
    return [
        {"prompt": f"Is it {n}?", "chosen": f"Yes, it is {n}.", "rejected": "No."}
        for n in range(count)
    ]


def train(run: TrainingRun, work: Path) -> TrainerResult:
    AcceleratorState._reset_state(reset_partial_state=True)
    work.mkdir()
    return fine_tune(run, work, Progress.of(run), StopSignal())


def test_a_tiny_model_is_pretrained_on_text(
    bucket: Bucket, make_run: MakeRun, tmp_path: Path
) -> None:
    """Files of text, whole books among them: all weights, from random ones."""
    for n in range(12):
        bucket.put(f"data/{n}.txt", f"Chapter {n}. " + "The smith tunes a model. " * (n + 1))
    given = {
        "objective": "Pretrain",
        "method": {"full": {}},
        "dataset": {"train": {"uri": bucket.uri("data/")}, "test": {"percent": "10"}},
        "hyperparameters": SETTINGS,
        "output": {"uri": bucket.uri("runs/"), "artifacts": ["Merged"]},
    }
    prepared = do(make_run(**given), tmp_path / "prepare").data
    assert prepared is not None
    assert prepared.format == "Text"
    assert prepared.tokens.supervised == prepared.tokens.train
    assert prepared.tokens.longest == 64
    assert prepared.rows.train > 11

    result = train(make_run(**given, stage="train"), tmp_path / "train")
    assert result.outcome is Outcome.SUCCEEDED
    loss = next(m for m in result.measurements if m.metric == "heldout/loss")
    assert float(loss.value) < float(loss.base_value) - 1


def test_a_conversation_is_text_to_pretraining(
    bucket: Bucket, make_run: MakeRun, tmp_path: Path
) -> None:
    long = {"prompt": "Count", "response": " ".join(map(str, range(100)))}
    bucket.put("data/train.jsonl", jsonl({"text": "Once."}))
    bucket.put("data/chat.jsonl", jsonl(*pairs(1), long))
    sources = [{"uri": bucket.uri(f"data/{name}.jsonl")} for name in ("train", "chat")]
    run = make_run(
        objective="Pretrain",
        dataset={"train": {"sources": sources}, "test": NO_TEST},
        hyperparameters=SETTINGS,
    )
    do(run, tmp_path / "work")
    data = fetched(run, bucket, tmp_path / "back").train
    assert data.supervised.all()
    write_tiny(tmp_path / "tiny")
    tokenizer = load_tokenizer(tmp_path / "tiny", run.dataset)
    rows = [tokenizer.decode(data.row(n)[0]) for n in range(len(data))]
    assert rows[0] == "Once.<|im_end|>"
    assert rows[1].startswith("<|bos|><|im_start|>user\nWhat is 0 and one?<|im_end|>")
    assert rows[1].count("<|im_end|>") == 2
    assert rows[1].endswith("It is 1.<|im_end|>")
    assert rows[-1].endswith(f"{long['response'][-2:]}<|im_end|>")
    # Too long for a row, and nothing of it is lost.
    assert len(rows) > 3
    assert long["response"] in "".join(rows[2:])


def test_a_preference_is_prepared_as_two_rows_and_learned(
    bucket: Bucket, make_run: MakeRun, tmp_path: Path
) -> None:
    bucket.put("data/train.jsonl", jsonl(*preferences(40), *preferences(3)))
    given = {
        "objective": "DPO",
        "dpo": {"beta": "0.5"},
        "dataset": {"train": {"uri": bucket.uri("data/train.jsonl")}, "test": {"percent": "20"}},
        "hyperparameters": {**SETTINGS, "perDeviceBatchSize": 4},
        "output": {"uri": bucket.uri("runs/"), "artifacts": ["Adapter"]},
    }
    run = make_run(**given)
    prepared = do(run, tmp_path / "prepare").data
    assert prepared is not None
    assert (prepared.format, prepared.rows.duplicates) == ("Preference", 3)
    assert prepared.rows.train + prepared.rows.test == 40
    data = fetched(run, bucket, tmp_path / "back").train
    assert len(data) == 2 * prepared.rows.train
    write_tiny(tmp_path / "tiny")
    tokenizer = load_tokenizer(tmp_path / "tiny", run.dataset)
    answers = [tokenizer.decode(t[s == 1]) for t, s in map(data.row, range(4))]
    assert [answer[:4] for answer in answers] == ["Yes,", "No.<", "Yes,", "No.<"]

    result = train(make_run(**given, stage="train"), tmp_path / "train")
    found = {m.metric: m for m in result.measurements}
    assert float(found["heldout/loss"].base_value) == pytest.approx(math.log(2))
    assert float(found["heldout/loss"].value) < 0.6
    assert "Held-out loss" in result.message


def test_pairs_about_one_question_are_on_one_side(
    bucket: Bucket, make_run: MakeRun, tmp_path: Path
) -> None:
    rows = [
        {"prompt": f"Question {n}?", "chosen": f"Good {k}", "rejected": f"Bad {k}"}
        for n in range(12)
        for k in range(5)
    ]
    bucket.put("data/train.jsonl", jsonl(*rows))
    run = make_run(objective="DPO")
    do(run, tmp_path / "work")
    data = fetched(run, bucket, tmp_path / "back")
    assert len(data.test) % 10 == 0 and len(data.train) % 10 == 0
    assert len(data.test) >= 10


@pytest.mark.parametrize(
    ("rows", "dataset", "objective", "words"),
    [
        pytest.param(pairs(9), {}, "DPO", ["chosen and rejected", "response"], id="answers"),
        pytest.param(
            pairs(9),
            {"format": "PromptResponse"},
            "DPO",
            ["PromptResponse", "Set it to Preference"],
            id="answers that are said to be some",
        ),
        pytest.param(preferences(9), {}, "Pretrain", ["objective DPO"], id="pairs to pretrain on"),
        pytest.param(preferences(9), {}, "SFT", ["objective DPO"], id="pairs to tune on"),
    ],
)
def test_rows_of_another_objective_are_refused(
    rows: list[dict[str, Any]],
    dataset: dict[str, Any],
    objective: str,
    words: list[str],
    bucket: Bucket,
    make_run: MakeRun,
    tmp_path: Path,
) -> None:
    bucket.put("data/train.jsonl", jsonl(*rows))
    given = {"train": {"uri": bucket.uri("data/train.jsonl")}, **dataset}
    with pytest.raises(UserError) as caught:
        do(make_run(objective=objective, dataset=given), tmp_path)
    assert caught.value.reason == "WrongColumns"
    for word in words:
        assert word in caught.value.message


@pytest.mark.parametrize("policy", ["Fail", "Drop", "Truncate"])
def test_a_pair_is_as_long_as_its_longer_side(
    policy: str, bucket: Bucket, make_run: MakeRun, tmp_path: Path
) -> None:
    endless = {"prompt": "Why?", "chosen": "So.", "rejected": "well " * 200}
    bucket.put("data/train.jsonl", jsonl(*preferences(5), endless))
    run = make_run(
        objective="DPO",
        dataset={
            "train": {"uri": bucket.uri("data/train.jsonl")},
            "test": NO_TEST,
            "checks": {"tooLong": policy},
        },
        hyperparameters=SETTINGS,
    )
    if policy == "Fail":
        with pytest.raises(UserError, match=r"line 6 has \d+ tokens"):
            do(run, tmp_path / "work")
        return
    rows = do(run, tmp_path / "work").data
    assert rows is not None
    assert rows.rows.too_long == 1
    assert rows.rows.train == (6 if policy == "Truncate" else 5)


def test_the_objective_is_an_input(make_run: MakeRun) -> None:
    runs = [
        make_run(),
        make_run(objective="Pretrain"),
        make_run(objective="DPO"),
        make_run(objective="DPO", dpo={"beta": "0.2"}),
    ]
    digest = "sha256:" + "0" * 64
    assert len({digest_of(inputs_parts(run, digest, "", 1)) for run in runs}) == 4
    # What pairs are weighed by is no matter of their tokens.
    assert len({digest_of_rows(run) for run in runs}) == 3
