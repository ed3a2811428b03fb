"""New tokens of a tokenizer: where they stand, what cannot be one, what preparation says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.trainer.conftest import Bucket, jsonl
from tests.trainer.gguf_models import byte_level as bytes_of
from tests.trainer.gguf_models import make_sentencepiece, make_tokenizer, words_of
from tests.trainer.token_models import (
    ADDED,
    FIRST,
    dataset,
)
from tunesmith_api.result import UserErrorReason
from tunesmith_api.run import TrainingRun
from tunesmith_trainer.data.newtokens import extend
from tunesmith_trainer.data.prepared import PreparedData
from tunesmith_trainer.data.templates import load_extended, load_tokenizer
from tunesmith_trainer.outcome import UserError
from tunesmith_trainer.prepare import prepare
from tunesmith_trainer.progress import Progress
from tunesmith_trainer.stopping import StopSignal
from tunesmith_trainer.tiny import write_tiny

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    write_tiny(tmp_path / "m")
    return tmp_path / "m"


def test_tokens_are_added_in_order_and_found_wherever_they_stand(tiny: Path) -> None:
    plain = load_tokenizer(tiny, dataset())
    tokenizer, tokens = load_extended(tiny, dataset(**ADDED))
    assert tokens.ids == (260, 261, 262)
    assert tokens.texts == ("<|note|>", "<order>", "Zürich")
    assert tokens.special == {"<|note|>"}
    assert tokens.rows == 263
    for text, pieces in zip(tokens.texts, tokens.pieces, strict=True):
        assert list(pieces) == plain(text, add_special_tokens=False)["input_ids"]
    ids = tokenizer("in Zürichs<order>7", add_special_tokens=False)["input_ids"]
    assert [i for i in ids if i >= FIRST] == [262, 261]
    assert tokenizer.decode(ids) == "in Zürichs<order>7"
    ids = tokenizer("a<|note|>b<order>", add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "ab<order>"


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: make_tokenizer(words_of(bytes_of(regex=True))), id="bytes"),
        pytest.param(make_sentencepiece, id="SentencePiece"),
    ],
)
def test_what_is_one_token_already_is_said_and_left_alone(make: Callable[[], Any]) -> None:
    tokenizer = make()
    before = tokenizer.backend_tokenizer.to_str()
    tokens = extend(tokenizer, dataset(addTokens=["<tool>"]))
    assert not tokens
    assert tokens.known == ("<tool>",)
    assert tokenizer.backend_tokenizer.to_str() == before
    assert tokens.sentences(np.zeros(0, np.int32)) == [
        "Not added, as the tokenizer has them as one token: '<tool>'."
    ]
    size = len(tokenizer)
    more = extend(tokenizer, dataset(addTokens=["<tool>", "<order>"]))
    assert (more.texts, more.ids, more.known) == (("<order>",), (size,), ("<tool>",))


def test_tokens_that_hold_others_are_made_of_old_ones(tiny: Path) -> None:
    _, tokens = load_extended(tiny, dataset(addTokens=["<a>", "<a><b>"]))
    assert max(max(pieces) for pieces in tokens.pieces) < FIRST


def test_rows_are_counted_by_token(tiny: Path) -> None:
    tokenizer, tokens = load_extended(tiny, dataset(**ADDED))
    row = np.array(tokenizer("<order><order>Zürich x")["input_ids"], np.int32)
    assert tokens.uses(row) == [0, 2, 1]
    assert tokens.saved(row) == 2 * (len("<order>") - 1) + len("Zürich".encode()) - 1
    assert tokens.sentences(row)[1:] == [
        "In no training row, so nothing is learned of them: '<|note|>'."
    ]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        pytest.param({"addTokens": ["Ġ"]}, "spelling for another text", id="a spelling of bytes"),
        pytest.param(
            {"addTokens": ["<|im_end|>"]}, "ends answers with", id="the end-of-turn token it has"
        ),
        pytest.param(
            {
                "addTokens": ["<end>"],
                "template": "Custom",
                "customTemplate": "{% for m in messages %}{{ m.content }}<end>{% endfor %}",
            },
            "Move it to dataset.addSpecialTokens",
            id="a new end-of-turn token",
        ),
    ],
)
def test_what_cannot_be_a_token_is_refused(tiny: Path, given: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as refused:
        load_tokenizer(tiny, dataset(**given))
    assert refused.value.reason == UserErrorReason.INVALID_RUN
    assert given["addTokens"][0] in str(refused.value)


def test_a_saved_tokenizer_needs_nothing_added(tiny: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(tiny, dataset(**ADDED))
    tokenizer.save_pretrained(tmp_path / "saved")
    again = load_tokenizer(tmp_path / "saved", dataset())
    assert again.get_vocab() == tokenizer.get_vocab()
    text = "<|note|>to Zürich<order>"
    ids = again(text)["input_ids"]
    assert ids == tokenizer(text)["input_ids"]
    assert again.decode(ids, skip_special_tokens=True) == "to Zürich<order>"


def test_preparation_says_what_was_added(
    bucket: Bucket, make_run: Callable[..., TrainingRun], tmp_path: Path
) -> None:
    rows = [{"prompt": f"Ship {n}", "response": f"<order>{n}"} for n in range(30)]
    bucket.put("data/train.jsonl", jsonl(*rows))
    given = {"train": {"uri": bucket.uri("data/train.jsonl")}}
    gguf = {"uri": "s3://any/", "artifacts": ["GGUF"]}
    longest = {}
    for name, added in (("without", {}), ("with", ADDED | {"addTokens": ["<order>", "A"]})):
        run = make_run(dataset=given | added, output=gguf, runUri=bucket.uri(f"runs/{name}/"))
        result = prepare(run, tmp_path / name, Progress.of(run), StopSignal())
        assert result.data is not None
        longest[name] = result.data.tokens.longest
    assert longest["with"] == longest["without"] - len("<order>") + 1
    assert "Added 2 tokens to the tokenizer." in result.message
    assert "Not added, as the tokenizer has them as one token: 'A'." in result.message
    assert "nothing is learned of them: '<|note|>'" in result.message
    tokens = PreparedData.load(tmp_path / "with" / "prepared").train.tokens
    assert int((tokens == 261).sum()) == result.data.rows.train
