"""Which text is learned, with the templates of real model families."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainer.conftest import jsonl
from tunesmith_api.dataset import Checks, Dataset, TooLong
from tunesmith_api.templating import Example, Prompt, Template
from tunesmith_trainer.data.chat_templates import CHATML, PLAIN
from tunesmith_trainer.data.preferences import both_sides
from tunesmith_trainer.data.prepared import Split, load_split, write_split
from tunesmith_trainer.data.prompting import Prompting
from tunesmith_trainer.data.reading import Reading, Row
from tunesmith_trainer.data.templates import (
    Rendered,
    Renderer,
    load_tokenizer,
    used_template,
)
from tunesmith_trainer.data.tokenizing import RowTokenizer
from tunesmith_trainer.data.values import Malformed
from tunesmith_trainer.outcome import UserError
from tunesmith_trainer.tiny import CHAT_TEMPLATE, write_tiny

REAL = Path(__file__).with_name("chat_templates")
"""Verbatim; its README says where they are from."""

ONE = [
    {"role": "user", "content": "What is it?"},
    {"role": "assistant", "content": "A härp 🎵."},
]
TWO = [*ONE, {"role": "user", "content": "A härp 🎵."}, {"role": "assistant", "content": "No."}]
WITH_SYSTEM = [{"role": "system", "content": "Be brief."}, *TWO]


def dataset(**settings: Any) -> Dataset:
    return Dataset.model_validate({"train": {"uri": "s3://bucket/train.jsonl"}, **settings})


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("tiny")
    write_tiny(folder)
    return load_tokenizer(folder, dataset())


@pytest.fixture
def with_template(tokenizer: Any) -> Any:
    before = tokenizer.chat_template

    def use(template: str) -> Any:
        tokenizer.chat_template = template
        return tokenizer

    yield use
    tokenizer.chat_template = before


def real(name: str) -> str:
    return (REAL / f"{name}.jinja").read_text()


def learned(tokenizer: Any, messages: list[dict[str, Any]]) -> list[str]:
    (rendered,) = Renderer(tokenizer).render([messages])
    assert isinstance(rendered, Rendered), rendered
    return [rendered.text[start:end] for start, end in rendered.spans]


class Family(NamedTuple):
    """What is learned with a template: each answer between these, in a row of one turn and in
    each place of a longer one."""

    name: str
    end: str
    before_one: str = ""
    before_first: str = ""
    before_last: str = ""
    has_system: bool = True


FAMILIES = [
    Family("llama3", "<|eot_id|>"),
    Family("llama3_1", "<|eot_id|>"),
    Family("llama3_2", "<|eot_id|>"),
    Family("qwen2_5", "<|im_end|>"),
    # Learns the empty thought that its prompt leaves to the model; earlier answers are shown
    # without one, so then all are searched for.
    Family("qwen3", "<|im_end|>", before_one="<think>\n\n</think>\n\n"),
    Family("qwen3_instruct_2507", "<|im_end|>"),
    Family("smollm2", "<|im_end|>"),
    # It calls the assistant model.
    Family("gemma", "<end_of_turn>", has_system=False),
    Family("gemma3", "<end_of_turn>"),
    # It has no generation prompt, and shows the system message before the last question only.
    Family("mistral_v3_tekken", "<|im_end|>"),
    # These end the whole text with the end token as well, which is no part of the turn.
    Family("phi3", "<|end|>"),
    Family("phi3_5", "<|end|>"),
]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
@pytest.mark.parametrize("conversation", [ONE, TWO, WITH_SYSTEM], ids=["one", "two", "system"])
def test_real_templates_learn_the_answers_and_their_end(
    family: Family, conversation: list[dict[str, Any]], with_template: Any
) -> None:
    tokenizer = with_template(real(family.name))
    if conversation is WITH_SYSTEM and not family.has_system:
        (refused,) = Renderer(tokenizer).render([conversation])
        assert isinstance(refused, Malformed)
        return
    answers = ["A härp 🎵.", "No."][: 1 if conversation is ONE else 2]
    before = (
        [family.before_one] if conversation is ONE else [family.before_first, family.before_last]
    )
    wanted = [start + text + family.end for start, text in zip(before, answers, strict=True)]
    assert learned(tokenizer, conversation) == wanted


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_real_templates_learn_no_answer_of_weight_0(family: Family, with_template: Any) -> None:
    tokenizer = with_template(real(family.name))
    unweighted = [TWO[0], {**TWO[1], "weight": 0}, *TWO[2:]]
    assert [text[-len("No." + family.end) :] for text in learned(tokenizer, unweighted)] == [
        "No." + family.end
    ]


@pytest.mark.parametrize(
    ("template", "messages", "expected"),
    [
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


def test_the_end_of_the_whole_text_is_learned_where_answers_have_none(with_template: Any) -> None:
    template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% else %}{{ eos_token }}{% endif %}"
    )
    assert learned(with_template(template), ONE) == ["A härp 🎵.\n<|im_end|>"]


def test_a_refusal_of_the_template_is_the_rows_fault(with_template: Any) -> None:
    renderer = Renderer(with_template(real("gemma")))
    good, bad = renderer.render([ONE, WITH_SYSTEM])
    assert isinstance(good, Rendered)
    assert isinstance(bad, Malformed) and "System role not supported" in str(bad)
    assert f"refuses the system's message {WITH_SYSTEM[0]['content']!r}" in str(bad)


def test_the_message_that_a_template_refuses_is_named(with_template: Any) -> None:
    strict = (
        "{% for m in messages %}{% if 'x' in m.content %}{{ raise_exception('no x') }}{% endif %}"
        "{{ m.content }}{% endfor %}"
    )
    row = [*chat("a", "b"), *chat("c" * 99, "x" * 99), *chat("d", "e")]
    (bad,) = Renderer(with_template(strict)).render([row])
    words = f"refuses the assistant's message '{'x' * 58}… (no x); correct the row"
    assert isinstance(bad, Malformed) and words in str(bad)


def test_chatml_ends_with_the_models_own_end_token(tokenizer: Any, with_template: Any) -> None:
    with_template(CHATML)
    before = tokenizer.eos_token
    tokenizer.eos_token = "<|bos|>"
    try:
        assert learned(tokenizer, ONE) == ["A härp 🎵.<|im_end|><|bos|>"]
    finally:
        tokenizer.eos_token = before


def write_base_model(folder: Path) -> Path:
    """Write a model that, as GPT-2, has no chat template."""
    write_tiny(folder)
    config = folder / "tokenizer_config.json"
    config.write_text(config.read_text().replace('"chat_template"', '"no_template"'))
    return folder


def test_a_model_without_a_template_gets_a_plain_one_that_is_saved_with_it(tmp_path: Path) -> None:
    asked = dataset()
    tokenizer = load_tokenizer(write_base_model(tmp_path), asked)
    assert used_template(tokenizer, asked) is Template.PLAIN
    assert learned(tokenizer, TWO) == [" A härp 🎵.<|im_end|>", " No.<|im_end|>"]
    (rendered,) = Renderer(tokenizer).render([WITH_SYSTEM])
    assert isinstance(rendered, Rendered)
    assert rendered.text.startswith("Be brief.\n\nUser: What is it?\nAssistant: A härp")
    tokenizer.save_pretrained(tmp_path / "saved")
    assert load_tokenizer(tmp_path / "saved", asked).chat_template == PLAIN


@pytest.mark.parametrize(
    ("template", "shown"),
    [
        pytest.param(
            "Alpaca",
            "Below is an instruction that describes a task. Write a response that appropriately"
            " completes the request.\n\n### Instruction:\nWhat is it?\n\n### Response:\n"
            "A härp 🎵.<|im_end|>\n\n",
            id="Alpaca",
        ),
        pytest.param(
            "Instruction",
            "### Instruction:\nWhat is it?\n\n### Response:\nA härp 🎵.<|im_end|>\n\n",
            id="Instruction",
        ),
        pytest.param("Plain", "User: What is it?\nAssistant: A härp 🎵.<|im_end|>\n", id="Plain"),
    ],
)
def test_templates_by_name(template: str, shown: str, tmp_path: Path) -> None:
    asked = dataset(template=template)
    tokenizer = load_tokenizer(write_base_model(tmp_path), asked)
    (rendered,) = Renderer(tokenizer).render([ONE])
    assert isinstance(rendered, Rendered)
    assert rendered.text == shown
    assert [text.strip() for text in learned(tokenizer, WITH_SYSTEM)] == [
        "A härp 🎵.<|im_end|>",
        "No.<|im_end|>",
    ]
    assert used_template(tokenizer, asked) == template


def custom(text: str) -> Dataset:
    return dataset(template="Custom", customTemplate=text)


def test_a_custom_template(tmp_path: Path) -> None:
    text = (
        "{% for m in messages %}\n<{{ m.role }}>{{ m.content }}"
        "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}\n<assistant>{% endif %}"
    )
    tokenizer = load_tokenizer(write_base_model(tmp_path), custom(text))
    assert learned(tokenizer, TWO) == ["A härp 🎵.<|im_end|>", "No.<|im_end|>"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("a\n{% for m in messages %}", ["line 2", "endfor"], id="a loop without end"),
        pytest.param("a\nb\n{{ 1 / 0 }}", ["line 3", "division"], id="an error at run time"),
        pytest.param("{{ messages.__class__.__mro__ }}", ["line 1"], id="a way out of the sandbox"),
        pytest.param("{{ range(10**9) | list }}", ["line 1"], id="an endless range"),
        pytest.param("nothing", ["does not appear"], id="a template that shows no message"),
        pytest.param(
            "{{ raise_exception('no roles') }}", ["no roles"], id="an exception of its own"
        ),
    ],
)
def test_a_bad_custom_template_names_its_line(text: str, words: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load_tokenizer(write_base_model(tmp_path), custom(text))
    assert caught.value.reason == "TemplateInvalid"
    for word in ["dataset.customTemplate", *words]:
        assert word in caught.value.message


PROMPT = Prompt(
    system="Be brief.",
    template="Question: {{ prompt | trim }}",
    examples=(Example(prompt="Who?", response="We."),),
)


def test_a_prompt_is_put_around_the_questions(tokenizer: Any) -> None:
    before = ["Be brief.", "Question: Who?", "We."]
    shown = Prompting(PROMPT).around(chat(" Why? ", "So."))
    assert [m["content"] for m in shown] == [*before, "Question: Why?", "So."]
    assert learned(tokenizer, shown) == ["So.<|im_end|>"]
    own = [{"role": "system", "content": "Sing."}, *chat("Why?", "So.")]
    assert Prompting(PROMPT).around(own)[0] == own[0]
    assert Prompting(Prompt()).around(own) == own


def test_a_prompt_has_a_name_that_changes_with_it() -> None:
    names = {PROMPT.name, PROMPT.model_copy(update={"system": "Sing."}).name}
    assert len(names) == 2 and all(len(name) == 12 for name in names)
    assert PROMPT.model_copy(update={"version": "v3"}).name == "v3"
    assert Prompt().name == ""


@pytest.mark.parametrize("text", ["{{ prompt }", "{{ promt }}", "{% if %}{{ prompt }}"])
def test_a_bad_prompt_template_is_the_jobs_fault(text: str) -> None:
    with pytest.raises(UserError, match=r"dataset.prompt.template, line 1"):
        Prompting(Prompt(template=text))


def test_a_broken_tokenizer_is_an_invalid_model(tmp_path: Path) -> None:
    write_tiny(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError) as caught:
        load_tokenizer(tmp_path, dataset())
    assert caught.value.reason == "ModelInvalid"


@pytest.mark.parametrize(
    ("template", "words"),
    [
        pytest.param("{% for x %}", "expected token 'in'", id="no Jinja"),
        pytest.param([{"name": "rag", "template": "x"}], "no default", id="none for plain turns"),
    ],
)
def test_a_template_that_no_row_could_be_shown_with_is_the_models_fault(
    template: object, words: str, tmp_path: Path
) -> None:
    write_tiny(tmp_path)
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "chat_template": template}))
    with pytest.raises(UserError, match=words) as caught:
        load_tokenizer(tmp_path, dataset())
    assert caught.value.reason == "ModelInvalid"
    assert load_tokenizer(tmp_path, dataset(template="ChatML")).chat_template == CHATML


def rows_of(*conversations: list[dict[str, Any]]) -> list[Row]:
    return [
        Row(jsonl(c).strip().encode(), "s3://b/train.jsonl", n)
        for n, c in enumerate(conversations, 1)
    ]


def split_of(
    maker: RowTokenizer, rows: list[Row], on_rows: Callable[[int], None] = lambda _: None
) -> Split:
    """Give the rows as the prepare stage writes them."""
    with TemporaryDirectory() as folder:
        write_split(Path(folder), "train", maker.tokenize(rows, on_rows))
        # What is mapped stays when its name goes.
        return load_split(Path(folder), "train")


def chat(question: str, answer: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


@settings(max_examples=30, deadline=None)
@given(
    question=st.text(min_size=1, max_size=30).filter(str.strip),
    answer=st.text(min_size=1, max_size=30).filter(str.strip),
)
def test_what_is_marked_decodes_to_the_answer(tokenizer: Any, question: str, answer: str) -> None:
    rows = RowTokenizer(tokenizer, 512, TooLong.FAIL, Reading(Checks()))
    split = split_of(rows, rows_of(chat(question, answer)))
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
    split = split_of(made, rows_of(*rows))
    assert made.counts.too_long == too_long
    assert split.lengths.tolist() == lengths


def test_a_long_row_is_named(tokenizer: Any) -> None:
    made = RowTokenizer(tokenizer, 64, TooLong.FAIL, Reading(Checks()))
    with pytest.raises(UserError) as caught:
        split_of(made, rows_of(chat("q", "a"), chat("q", "a" * 90)))
    message = caught.value.message
    assert "s3://b/train.jsonl line 2" in message and "64" in message and "113 tokens" in message


def test_batches_do_not_change_the_result(tokenizer: Any) -> None:
    rows = rows_of(*(chat(f"question {n}", f"answer {n}") for n in range(1100)))
    made = RowTokenizer(tokenizer, 64, TooLong.FAIL, Reading(Checks()))
    counted: list[int] = []
    split = split_of(made, rows, counted.append)
    assert counted == [512, 512, 76]
    tokens, supervised = split.row(1099)
    assert tokenizer.decode(tokens[supervised == 1]) == "answer 1099<|im_end|>"


def text_row(text: str) -> Row:
    return Row(jsonl({"text": text}).strip().encode(), "s3://b/train.txt", 1)


def test_text_is_learned_whole_and_long_text_in_pieces(tokenizer: Any) -> None:
    made = RowTokenizer(tokenizer, 64, TooLong.FAIL, Reading(Checks()))
    text = " ".join(f"word{n}" for n in range(60))
    split = split_of(made, [text_row("short"), *rows_of(chat("q", "a")), text_row(text)])
    tokens, supervised = split.row(0)
    assert tokenizer.decode(tokens) == "short<|im_end|>" and supervised.all()
    assert not split.row(1)[1].all()
    pieces = [split.row(n)[0] for n in range(2, len(split))]
    assert [len(piece) for piece in pieces[:-1]] == [64] * (len(pieces) - 1)
    assert "".join(map(tokenizer.decode, pieces)) == text + "<|im_end|>"
    assert split.row(2)[1].all()


def test_both_sides_of_a_preference_learn_only_the_last_answer(tokenizer: Any) -> None:
    content = {"messages": TWO[:3], "chosen": "Yes.", "rejected": "No."}
    made = RowTokenizer(tokenizer, 64, TooLong.FAIL, Reading(Checks()))
    for encoded, answer in zip(made.encode(both_sides(content)), ("Yes.", "No."), strict=True):
        assert not isinstance(encoded, Malformed)
        assert tokenizer.decode(encoded.ids[encoded.supervised == 1]) == answer + "<|im_end|>"
