"""Modelfiles for Ollama: the same text as the model's own chat template, or no TEMPLATE at all."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, processors

from tests.trainer.gguf_models import byte_level, make_tokenizer
from tests.trainer.trials import tiny_tokenizer
from tunesmith_api.templating import Prompt
from tunesmith_trainer.data.prompting import Prompting
from tunesmith_trainer.modelfile import Modelfile, build_modelfile

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# As SmolLM2 and Qwen2.5 do.
CHATML_WITH_DEFAULT = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are helpful.<|im_end|>\n"
    "{% endif %}" + CHATML
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}{% if add_generation_prompt %}"
    "<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}"
    "{% set system = messages[0]['content'] %}{% else %}{% set rest = messages %}{% endif %}"
    "{% for m in rest %}{% if loop.index0 == 0 and system is defined %}"
    "{% set content = '<<SYS>>\n' + system + '\n<</SYS>>\n\n' + m['content'] %}{% else %}"
    "{% set content = m['content'] %}{% endif %}{% if m['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% else %}"
    "{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
GEMMA3 = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{% set prefix = messages[0]['content'] + '\n\n' %}{% set rest = messages[1:] %}{% else %}"
    "{% set prefix = '' %}{% set rest = messages %}{% endif %}{% for m in rest %}"
    "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' }}"
    "{{ (prefix if loop.first else '') + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
GEMMA2 = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}{% for m in messages %}"
    "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n'"
    " + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}"
    "[INST] {{ m['content'] }}[/INST]{% elif m['role'] == 'system' %}"
    "[SYSTEM_PROMPT] {{ m['content'] }}[/SYSTEM_PROMPT]{% else %} {{ m['content'] }}"
    "{{ eos_token }}{% endif %}{% endfor %}"
)
# Where p2 of one turn is the next one's beginning and no special token ends an answer but EOS.
PLAIN = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] }}\n\n"
    "{% else %}{{ m['role'] | capitalize }}: {{ m['content'] }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}Assistant: {% endif %}"
)
THINKING = CHATML + "{% if add_generation_prompt %}<think>\n{% endif %}"
UPPER = "{% for m in messages %}{{ m['content'] | upper }}{% endfor %}"
LAST_FIRST = "{% if messages | length == 1 %}Only: {% endif %}" + CHATML
DATED = "Today is {{ strftime_now('%d %b %Y') }}.\n" + CHATML

USER, ASSISTANT, SYSTEM = (
    {"role": role, "content": text}
    for role, text in (
        ("user", "Why?\n<b>"),
        ("assistant", "It's so, “really”."),
        ("system", "Be kind."),
    )
)
CHATS = [[USER], [USER, ASSISTANT, USER], [USER, ASSISTANT] * 3 + [USER]]

# What Ollama does with messages before it fills in a template (template/template.go, `collate`):
# all stay in .Messages, and those of the system are .System as well.
OLLAMA = """package main

import ("encoding/json"; "os"; "strings"; "text/template")

type Message struct { Role, Content string }

func main() {
	var asked struct { Template string; Chats [][]Message }
	if err := json.NewDecoder(os.Stdin).Decode(&asked); err != nil { panic(err) }
	parsed := template.Must(template.New("").Parse(asked.Template))
	texts := []string{}
	for _, chat := range asked.Chats {
		system := []string{}
		for _, m := range chat { if m.Role == "system" { system = append(system, m.Content) } }
		var text strings.Builder
		joined := strings.Join(system, "\\n\\n")
		values := map[string]any{"Messages": chat, "System": joined, "Response": ""}
		if err := parsed.Execute(&text, values); err != nil { panic(err) }
		texts = append(texts, text.String())
	}
	if err := json.NewEncoder(os.Stdout).Encode(texts); err != nil { panic(err) }
}
"""


@pytest.fixture(scope="session")
def go_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ollama's way to fill in a template, with Go's own text/template."""
    if not shutil.which("go"):
        pytest.skip("no go on PATH")
    folder = tmp_path_factory.mktemp("ollama")
    (folder / "main.go").write_text(OLLAMA)
    subprocess.run(["go", "build", "-o", "fill", "main.go"], cwd=folder, check=True)
    return folder / "fill"


def tokenizer_with(template: str) -> Any:
    tokenizer = make_tokenizer(byte_level(regex=True))
    ends = ("<|eot_id|>", "<end_of_turn>")
    tokenizer.add_special_tokens(
        {"additional_special_tokens": [AddedToken(end, special=True) for end in ends]}
    )
    tokenizer.chat_template = template
    return tokenizer


SAYABLE = [
    pytest.param(CHATML, True, ("<|im_end|>", "<|endoftext|>"), id="ChatML"),
    pytest.param(CHATML_WITH_DEFAULT, True, ("<|im_end|>", "<|endoftext|>"), id="with a default"),
    pytest.param(LLAMA3, True, ("<|eot_id|>", "<|endoftext|>"), id="Llama 3"),
    pytest.param(LLAMA2, True, ("<|endoftext|>",), id="Llama 2"),
    pytest.param(GEMMA3, True, ("<end_of_turn>", "<|endoftext|>"), id="Gemma 3"),
    pytest.param(GEMMA2, False, ("<end_of_turn>", "<|endoftext|>"), id="Gemma 2, no system"),
    pytest.param(MISTRAL, True, ("<|endoftext|>",), id="Mistral"),
    pytest.param(THINKING, True, ("<|im_end|>", "<|endoftext|>"), id="thinks first"),
    pytest.param(PLAIN, True, ("<|endoftext|>", "User:"), id="plain"),
]


@pytest.mark.parametrize(("template", "takes_system", "stops"), SAYABLE)
def test_ollama_asks_as_the_model_was_trained(
    go_program: Path, template: str, takes_system: bool, stops: tuple[str, ...]
) -> None:
    tokenizer = tokenizer_with(template)
    found = build_modelfile(tokenizer)
    assert (found.why_no_template, found.stops) == ("", stops)
    chats = CHATS + ([[SYSTEM, *chat] for chat in CHATS] if takes_system else [])
    assert fill(go_program, found.template, chats) == [
        tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        for chat in chats
    ]
    # An answer that was begun is gone on with, which no model's own template does by itself.
    begun = [USER, {"role": "assistant", "content": "Because"}]
    assert fill(go_program, found.template, [begun])[0].endswith("Because")
    if not takes_system:
        assert fill(go_program, found.template, [[SYSTEM, USER]]) == fill(
            go_program, found.template, [[USER]]
        )


EXAMPLES = (
    {"prompt": "Who are you?", "response": 'The "help desk"'},
    {"prompt": "Why?\nNow.", "response": "So."},
)
PROMPT = Prompt.model_validate(
    {
        "system": "Answer in one sentence.\nBe kind.",
        "template": "Question: {{ prompt }}\nIn short:",
        "examples": EXAMPLES,
    }
)


@pytest.mark.parametrize("template", [CHATML, CHATML_WITH_DEFAULT, LLAMA3, LLAMA2, MISTRAL, PLAIN])
def test_ollama_puts_the_prompt_around_questions(go_program: Path, template: str) -> None:
    tokenizer = tokenizer_with(template)
    found = build_modelfile(tokenizer, PROMPT)
    assert (found.why_no_template, found.left_out) == ("", ())
    chats = CHATS + [[SYSTEM, *chat] for chat in CHATS]
    given = [as_ollama_gives(found, chat) for chat in chats]
    assert fill(go_program, found.template, given) == [taught(tokenizer, PROMPT, c) for c in chats]


@pytest.mark.parametrize(
    ("template", "given", "words"),
    [
        pytest.param(LLAMA3, {"template": "{{ prompt }}\n\n"}, ["more than to put"], id="is cut"),
        pytest.param(CHATML, {"template": "{{ prompt | upper }}"}, ["no text around"], id="upper"),
        pytest.param(
            CHATML,
            {"template": "Q{% if 'x' in prompt %}!{% endif %}: {{ prompt }}"},
            ["more than to put"],
            id="depends on the question",
        ),
        pytest.param(CHATML, {"template": "{{ '{{' }} {{ prompt }}"}, ["no text"], id="braces"),
        pytest.param(UPPER, {"template": "Q: {{ prompt }}"}, ["need TEMPLATE"], id="no TEMPLATE"),
        pytest.param(GEMMA2, {"system": "x", "template": ""}, ["no place"], id="no system message"),
        pytest.param(
            CHATML,
            {"system": 'a """', "examples": [{"prompt": '"""', "response": "b"}]},
            ["system", "examples"],
            id="quotes",
        ),
    ],
)
def test_what_of_the_prompt_cannot_be_said_is_left_out_and_said_to_be(
    go_program: Path, template: str, given: dict[str, Any], words: list[str]
) -> None:
    tokenizer, prompt = tokenizer_with(template), Prompt.model_validate(given)
    found = build_modelfile(tokenizer, prompt)
    assert len(found.left_out) == len(words)
    for said, word in zip(found.left_out, words, strict=True):
        assert word in said
        assert f"# Left out: {said}.\n" in found.text("model.gguf")
    if found.template:
        (text,) = fill(go_program, found.template, [as_ollama_gives(found, [USER])])
        assert text == taught(tokenizer, Prompt(), [USER])


def test_examples_are_whole_where_their_template_is_left_out(go_program: Path) -> None:
    tokenizer = tokenizer_with(CHATML)
    prompt = Prompt.model_validate({"template": "{{ prompt | upper }}", "examples": EXAMPLES})
    found = build_modelfile(tokenizer, prompt)
    assert len(found.left_out) == 1
    asked = [{"role": "user", "content": USER["content"].upper()}]
    (text,) = fill(go_program, found.template, [as_ollama_gives(found, asked)])
    assert text == taught(tokenizer, prompt, [USER])


def test_the_file_holds_the_prompt_in_ollamas_quotes() -> None:
    text = build_modelfile(tokenizer_with(CHATML), PROMPT).text("model.gguf")
    assert 'SYSTEM """Answer in one sentence.\nBe kind."""\n' in text
    assert 'MESSAGE user """Who are you?"""\nMESSAGE assistant """The "help desk""""\n' in text


def test_a_first_token_that_the_engine_adds_is_not_said_twice(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(tmp_path / "tiny")
    # This one leaves it to the template.
    assert build_modelfile(tokenizer).template.count("<|bos|>") == 2
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        "<|bos|> $A", None, [("<|bos|>", tokenizer.bos_token_id)]
    )
    assert "<|bos|>" not in build_modelfile(tokenizer).template


def test_the_file_says_all_that_ollama_needs() -> None:
    text = build_modelfile(tokenizer_with(CHATML_WITH_DEFAULT)).text("model-Q8_0.gguf")
    lines = text.splitlines()
    assert lines[0] == "FROM ./model-Q8_0.gguf"
    assert 'SYSTEM """You are helpful."""' in lines
    assert lines[-2:] == ['PARAMETER stop "<|im_end|>"', 'PARAMETER stop "<|endoftext|>"']


@pytest.mark.parametrize(
    ("template", "word"),
    [
        pytest.param(DATED, "date", id="a date"),
        pytest.param(UPPER, "leaves out", id="upper case"),
        pytest.param(LAST_FIRST, "more than one way", id="another way for a first question"),
        pytest.param(
            CHATML.replace("{{ m['content'] }}", "{{ m['content'] | replace('\n', ' ') }}"),
            "does more",
            id="contents are changed",
        ),
        pytest.param(CHATML.replace("\n{{", "{{ '{{' }}\n{{"), "cannot hold", id="braces"),
        pytest.param("{{ raise_exception('no') }}", "refuses", id="refuses all"),
    ],
)
def test_what_cannot_be_said_is_left_out_and_said_to_be(template: str, word: str) -> None:
    found = build_modelfile(tokenizer_with(template))
    assert (found.template, word in found.why_no_template) == ("", True), found.why_no_template
    text = found.text("model.gguf")
    assert 'TEMPLATE "' not in text
    assert f"# No TEMPLATE: {found.why_no_template}." in text
    assert 'PARAMETER stop "<|endoftext|>"' in text


def taught(tokenizer: Any, prompt: Prompt, chat: list[Any]) -> str:
    """Give a conversation's text as the model learned it."""
    around = Prompting(prompt).around(chat)
    text = tokenizer.apply_chat_template(around, tokenize=False, add_generation_prompt=True)
    return str(text)


def as_ollama_gives(file: Modelfile, chat: list[dict[str, str]]) -> list[dict[str, str]]:
    """Put SYSTEM and MESSAGE before a request's messages as Ollama does (server/routes.go)."""
    given = [*({"role": role, "content": text} for role, text in file.messages), *chat]
    if chat[0]["role"] == "system" or not file.system:
        return given
    return [{"role": "system", "content": file.system}, *given]


def fill(program: Path, template: str, chats: list[list[dict[str, str]]]) -> list[str]:
    asked = json.dumps({"Template": template, "Chats": chats})
    done = subprocess.run([program], input=asked, capture_output=True, text=True, check=True)
    texts: list[str] = json.loads(done.stdout)
    return texts
