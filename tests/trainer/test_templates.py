"""Which text is learned, with the templates of real model families."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainer.conftest import jsonl
from tunesmith_api.dataset import Checks, Template, TooLong
from tunesmith_trainer.data.formats import Malformed
from tunesmith_trainer.data.reading import Reading, Row
from tunesmith_trainer.data.templates import (
    CHATML,
    Rendered,
    Renderer,
    load_tokenizer,
    used_template,
)
from tunesmith_trainer.data.tokenizing import RowTokenizer
from tunesmith_trainer.outcome import UserError
from tunesmith_trainer.tiny import CHAT_TEMPLATE, write_tiny

LLAMA3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    "+ message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}"
    "{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
QWEN25 = (
    "{%- if messages[0]['role'] == 'system' %}"
    "{{- '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}"
    "{%- else %}"
    "{{- '<|im_start|>system\nYou are Qwen, created by Alibaba Cloud.<|im_end|>\n' }}"
    "{%- endif %}"
    "{%- for message in messages %}"
    "{%- if (message.role == 'user') or (message.role == 'system' and not loop.first)"
    " or (message.role == 'assistant' and not message.tool_calls) %}"
    "{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}"
    "{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
# Shows the last answer otherwise than earlier ones, as Qwen3's does with its thoughts.
QWEN3 = (
    "{%- set ns = namespace(last=-1) %}"
    "{%- for message in messages %}{%- if message.role == 'user' %}"
    "{%- set ns.last = loop.index0 %}{%- endif %}{%- endfor %}"
    "{%- for message in messages %}"
    "{%- if message.role == 'assistant' and loop.index0 > ns.last %}"
    "{{- '<|im_start|>assistant\n<think>\n\n</think>\n\n' + message.content + '<|im_end|>\n' }}"
    "{%- else %}"
    "{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
SMOLLM2 = (
    "{% for message in messages %}"
    "{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    "<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}"
    "{% if message['role'] == 'assistant' %}{% set role = 'model' %}"
    "{% else %}{% set role = message['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}"
)

ONE = [
    {"role": "user", "content": "What is it?"},
    {"role": "assistant", "content": "A härp 🎵."},
]
TWO = [*ONE, {"role": "user", "content": "A härp 🎵."}, {"role": "assistant", "content": "No."}]
WITH_SYSTEM = [{"role": "system", "content": "Be brief."}, *TWO]


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("tiny")
    write_tiny(folder)
    return load_tokenizer(folder, Template.CHAT_TEMPLATE)


@pytest.fixture
def with_template(tokenizer: Any) -> Any:
    before = tokenizer.chat_template

    def use(template: str) -> Any:
        tokenizer.chat_template = template
        return tokenizer

    yield use
    tokenizer.chat_template = before


def learned(tokenizer: Any, messages: list[dict[str, Any]]) -> list[str]:
    (rendered,) = Renderer(tokenizer).render([messages])
    assert isinstance(rendered, Rendered), rendered
    return [rendered.text[start:end] for start, end in rendered.spans]


@pytest.mark.parametrize(
    ("template", "messages", "expected"),
    [
        pytest.param(LLAMA3, ONE, ["A härp 🎵.<|eot_id|>"], id="Llama 3, one turn"),
        pytest.param(
            LLAMA3,
            WITH_SYSTEM,
            ["A härp 🎵.<|eot_id|>", "No.<|eot_id|>"],
            id="Llama 3, several turns",
        ),
        pytest.param(QWEN25, ONE, ["A härp 🎵.<|im_end|>"], id="Qwen 2.5 adds a system message"),
        pytest.param(
            QWEN25,
            WITH_SYSTEM,
            ["A härp 🎵.<|im_end|>", "No.<|im_end|>"],
            id="Qwen 2.5, several turns",
        ),
        pytest.param(
            QWEN3,
            ONE,
            ["<think>\n\n</think>\n\nA härp 🎵.<|im_end|>"],
            id="Qwen 3 learns the empty thought that its prompt leaves to the model",
        ),
        pytest.param(
            QWEN3,
            TWO,
            ["A härp 🎵.<|im_end|>", "No.<|im_end|>"],
            id="Qwen 3 shows earlier answers otherwise, so they are searched for",
        ),
        pytest.param(
            SMOLLM2,
            TWO,
            ["A härp 🎵.<|im_end|>", "No.<|im_end|>"],
            id="SmolLM2 (ChatML with a system message)",
        ),
        pytest.param(
            GEMMA, TWO, ["A härp 🎵.<end_of_turn>", "No.<end_of_turn>"], id="Gemma calls it model"
        ),
        pytest.param(
            MISTRAL,
            TWO,
            [" A härp 🎵.<|im_end|>", " No.<|im_end|>"],
            id="Mistral has no generation prompt",
        ),
        pytest.param(
            CHATML, TWO, ["A härp 🎵.<|im_end|>", "No.<|im_end|>"], id="our ChatML for any model"
        ),
        pytest.param(
            CHAT_TEMPLATE,
            [TWO[0], {**TWO[1], "weight": 0}, *TWO[2:]],
            ["No.<|im_end|>"],
            id="an answer with weight 0 is not learned",
        ),
        pytest.param(
            CHAT_TEMPLATE,
            [ONE[0], {"role": "assistant", "content": "assistant\nWhat is it?\n"}],
            ["assistant\nWhat is it?\n<|im_end|>"],
            id="white space inside the answer stays",
        ),
    ],
)
def test_the_answers_and_their_end_are_learned(
    template: str, messages: list[dict[str, Any]], expected: list[str], with_template: Any
) -> None:
    assert learned(with_template(template), messages) == expected


def test_a_refusal_of_the_template_is_the_rows_fault(with_template: Any) -> None:
    renderer = Renderer(with_template(GEMMA))
    good, bad = renderer.render([ONE, WITH_SYSTEM])
    assert isinstance(good, Rendered)
    assert isinstance(bad, Malformed) and "System role not supported" in str(bad)


def test_chatml_ends_with_the_models_own_end_token(tokenizer: Any, with_template: Any) -> None:
    with_template(CHATML)
    before = tokenizer.eos_token
    tokenizer.eos_token = "<|bos|>"
    try:
        assert learned(tokenizer, ONE) == ["A härp 🎵.<|im_end|><|bos|>"]
    finally:
        tokenizer.eos_token = before


def test_a_model_without_a_template_gets_chatml(tmp_path: Path) -> None:
    write_tiny(tmp_path)
    config = tmp_path / "tokenizer_config.json"
    config.write_text(config.read_text().replace('"chat_template"', '"no_template"'))
    tokenizer = load_tokenizer(tmp_path, Template.CHAT_TEMPLATE)
    assert used_template(tokenizer) is Template.CHAT_ML


def test_a_broken_tokenizer_is_an_invalid_model(tmp_path: Path) -> None:
    write_tiny(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError) as caught:
        load_tokenizer(tmp_path, Template.CHAT_TEMPLATE)
    assert caught.value.reason == "ModelInvalid"


def rows_of(*conversations: list[dict[str, Any]]) -> list[Row]:
    return [
        Row(jsonl(c).strip().encode(), "s3://b/train.jsonl", n)
        for n, c in enumerate(conversations, 1)
    ]


def chat(question: str, answer: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


@settings(max_examples=30, deadline=None)
@given(
    question=st.text(min_size=1, max_size=30).filter(str.strip),
    answer=st.text(min_size=1, max_size=30).filter(str.strip),
)
def test_what_is_marked_decodes_to_the_answer(tokenizer: Any, question: str, answer: str) -> None:
    rows = RowTokenizer(tokenizer, 512, TooLong.FAIL, Reading(Checks()))
    split = rows.tokenize(rows_of(chat(question, answer)), lambda _: None)
    tokens, supervised = split.row(0)
    assert tokenizer.decode(tokens[supervised == 1]) == answer + "<|im_end|>"


@pytest.mark.parametrize(
    ("policy", "rows", "too_long", "lengths"),
    [
        pytest.param(TooLong.DROP, [chat("q", "a" * 90)], 1, [], id="a long row is dropped"),
        pytest.param(TooLong.TRUNCATE, [chat("q", "a" * 90)], 1, [64], id="a long row is cut"),
        pytest.param(
            TooLong.TRUNCATE,
            [chat("q" * 90, "a")],
            1,
            [],
            id="a row whose answer was cut away is dropped, and counted",
        ),
    ],
)
def test_long_rows(
    policy: TooLong,
    rows: list[list[dict[str, Any]]],
    too_long: int,
    lengths: list[int],
    tokenizer: Any,
) -> None:
    made = RowTokenizer(tokenizer, 64, policy, Reading(Checks()))
    split = made.tokenize(rows_of(*rows), lambda _: None)
    assert made.counts.too_long == too_long
    assert split.lengths.tolist() == lengths


def test_a_long_row_is_named(tokenizer: Any) -> None:
    made = RowTokenizer(tokenizer, 64, TooLong.FAIL, Reading(Checks()))
    with pytest.raises(UserError) as caught:
        made.tokenize(rows_of(chat("q", "a"), chat("q", "a" * 90)), lambda _: None)
    message = caught.value.message
    assert "s3://b/train.jsonl line 2" in message and "64" in message and "113 tokens" in message


def test_batches_do_not_change_the_result(tokenizer: Any) -> None:
    rows = rows_of(*(chat(f"question {n}", f"answer {n}") for n in range(1100)))
    made = RowTokenizer(tokenizer, 64, TooLong.FAIL, Reading(Checks()))
    counted: list[int] = []
    split = made.tokenize(rows, counted.append)
    assert counted == [512, 512, 76]
    tokens, supervised = split.row(1099)
    assert tokenizer.decode(tokens[supervised == 1]) == "answer 1099<|im_end|>"
