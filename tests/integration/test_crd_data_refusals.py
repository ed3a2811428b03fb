"""Data of a job that the real API server refuses, and why: where rows are, what becomes of them."""

import pytest

from deploy.native.apiserver import ControlPlane
from deploy.shell import StepError
from tests.integration.calls import try_to_create
from tests.integration.manifests import JOB, TRAIN, changed, synthetic

pytestmark = pytest.mark.integration


REFUSED = [
    pytest.param(
        "spec.dataset.train.uri", "s3://acme/a/../b", "must not contain", id="dots in data"
    ),
    pytest.param("spec.dataset.train.uri", "s3://acme//etc/passwd", "train.uri", id="absolute key"),
    pytest.param(
        "spec.dataset.synthetic",
        {"generator": {"url": "https://x/v1"}, "prompts": ["More."]},
        "url needs model",
        id="an endpoint without a model",
    ),
    pytest.param(
        "spec.dataset.synthetic",
        {"generator": {}, "prompts": ["More."]},
        "exactly one of uri, url",
        id="rows written by nobody",
    ),
    pytest.param(
        "spec.dataset.synthetic",
        {"generator": {"uri": "hf://o/m", "secretRef": {"name": "k"}}, "prompts": ["More."]},
        "secretRef is for url",
        id="a key for a model without an endpoint",
    ),
    pytest.param(
        "spec.dataset.synthetic",
        {"generator": {"uri": "hf://o/m"}, "prompts": ["More."], "temperature": "3"},
        "between 0 and 2",
        id="too hot a generator",
    ),
    pytest.param(
        "spec.dataset.clean",
        {"minCharacters": 11, "maxCharacters": 10},
        "minCharacters must not be above maxCharacters",
        id="a shortest row above the longest",
    ),
    pytest.param(
        "spec.dataset.clean.similarity", "0.69", "between 0.7 and 1", id="hardly alike rows"
    ),
    pytest.param(
        "spec.dataset.clean.similarity", "1.01", "between 0.7 and 1", id="more than equal"
    ),
    pytest.param("spec.dataset.clean.minQuality", "1.1", "between 0 and 1", id="too good a row"),
    pytest.param("spec.dataset.clean.language", ["English"], "language", id="a language's name"),
    pytest.param("spec.dataset.clean.language", ["en"] * 17, "at most 16", id="too many languages"),
    pytest.param("spec.dataset.clean.pii", "Hide", "pii", id="an unknown policy"),
    pytest.param("spec.dataset.clean.profanity", "Remove", "profanity", id="no such policy here"),
    pytest.param("spec.dataset.clean.minCharacters", -1, "minCharacters", id="less than no text"),
    pytest.param("spec.dataset.checks.onOverlap", "Keep", "onOverlap", id="an overlap that stays"),
    *(
        pytest.param(
            "spec.dataset.synthetic",
            {**synthetic(uri="hf://o/m"), "minQuality": value},
            "between 0 and 1",
            id=f"synthetic rows of quality {value}",
        )
        for value in ("1.01", "-0.01")
    ),
    pytest.param("spec.dataset.test", {}, "exactly one", id="a split of nothing"),
    pytest.param("spec.dataset.train", {}, "exactly one", id="no source"),
    pytest.param(
        "spec.dataset.train", {"sources": []}, "at least 1", id="an empty list of sources"
    ),
    pytest.param(
        "spec.dataset.train", {**TRAIN, "sources": [TRAIN]}, "exactly one", id="uri and sources"
    ),
    pytest.param("spec.dataset.train", {"sources": [TRAIN] * 17}, "at most 16", id="17 sources"),
    pytest.param(
        "spec.dataset.train",
        {"sources": [{**TRAIN, "weight": "0"}]},
        "above 0",
        id="a source of no weight",
    ),
    pytest.param(
        "spec.dataset.train.uri", "file:///home/a.jsonl", "without a cluster", id="a local file"
    ),
    pytest.param("spec.dataset.test", {"uri": "file:///a"}, "without a cluster", id="a local test"),
    pytest.param("spec.dataset.train.uri", "hf://org/name", "train.uri", id="a model as data"),
    pytest.param(
        "spec.dataset", {"train": TRAIN, "template": "Custom"}, "customTemplate", id="no template"
    ),
    pytest.param(
        "spec.dataset",
        {"train": TRAIN, "customTemplate": "{{ messages }}"},
        "customTemplate",
        id="a custom template that is not used",
    ),
    *(
        pytest.param("spec.dataset", {"train": TRAIN, "addTokens": tokens}, words, id=name)
        for name, tokens, words in (
            ("a token that is nothing", [""], "should be at least 1 chars long"),
            ("a token of white space", ["  "], "must not be white space"),
            ("a token with white space at its end", ["<a> "], "nor begin or end with it"),
            ("a token of two lines", ["<a>\n<b>"], "nor hold a line break"),
            ("a token twice", ["<a>", "<b>", "<a>"], "Duplicate value"),
            ("a token that is too long", ["a" * 65], "may not be more than 64"),
            ("too many tokens", [f"<{n}>" for n in range(257)], "must have at most 256 items"),
            ("a token that is a number", [7], "must be of type string"),
        )
    ),
    pytest.param(
        "spec.dataset",
        {"train": TRAIN, "addTokens": ["<a>", "<b>"], "addSpecialTokens": ["<b>"]},
        "stands in both addTokens and addSpecialTokens",
        id="a token that is special and plain",
    ),
    pytest.param(
        "spec.dataset.prompt",
        {"template": "no question"},
        "must contain",
        id="a prompt for nothing",
    ),
    pytest.param(
        "spec.dataset.prompt", {"template": "prompt" * 2000}, "8192", id="an endless prompt"
    ),
    pytest.param("spec.dataset.feedback", "Great", "Unsupported value", id="an unknown feedback"),
    pytest.param(
        "spec.dataset.test",
        {"percent": "5", "uri": "s3://acme/t.jsonl"},
        "exactly one",
        id="a split twice",
    ),
    pytest.param(
        "spec.dataset.test", {"percent": "80"}, "between 0 and 50", id="too large a split"
    ),
    pytest.param("spec.dataset.checks", {"minRows": 9, "maxRows": 3}, "minRows", id="min over max"),
    pytest.param("spec.dataset.checks.failOnMalformed", "1.5", "between", id="more than all rows"),
    pytest.param("spec.dataset.format", "CSV", "Unsupported value", id="an unknown format"),
    pytest.param(
        "spec.dataset", {"train": TRAIN, "format": "Preference"}, "objective DPO", id="SFT on pairs"
    ),
    pytest.param(
        "spec.dataset",
        {"train": TRAIN, "validation": {"percent": "50"}, "test": {"percent": "50"}},
        "leave none to train on",
        id="all rows held out",
    ),
]


@pytest.mark.parametrize(("path", "value", "words"), REFUSED)
def test_the_api_server_refuses(
    control_plane: ControlPlane, path: str, value: object, words: str
) -> None:
    with pytest.raises(StepError) as refused:
        try_to_create(control_plane, changed(JOB, path, value))
    assert words in str(refused.value)
