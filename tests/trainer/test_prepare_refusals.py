"""Preparation that cannot succeed: bad input and missing rights are named, with what to change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.conftest import STRANGER_KEYS, Bucket, jsonl, pairs, use_identity
from tests.trainer.preparing_in_s3 import MakeRun, do
from tunesmith_trainer.outcome import UserError

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
