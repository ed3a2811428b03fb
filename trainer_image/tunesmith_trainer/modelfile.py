"""A Modelfile for Ollama: the model's own chat template in Ollama's language, if it can be said.

Ollama fills in a Go template and reads no Jinja. The template is not guessed from the model's name:
the model's own is asked what stands before, between and after messages, a Go template is put
together of these pieces, and it is taken only where its text equals the model's own on a number
of conversations. Otherwise TEMPLATE is left out. What `dataset.prompt` put around questions is said
too, and what of it cannot be is written down. Called by `artifacts`. Pure but for `write`.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from tunesmith_api.templating import Prompt
from tunesmith_trainer.data.dating import has_date
from tunesmith_trainer.data.prompting import Prompting

# In no template; without white space at the ends, which many templates cut off.
_Q1, _A1, _Q2, _A2, _SYSTEM = "ZQa1", "ZQb2", "ZQc3", "ZQd4", "ZQe5"
_TRIALS: Final = ("Why?", "Two\nlines.", "한국어, 1.5 {x} <b>", "a", "And then?")

_NO_PROMPT: Final = Prompt()
_QUOTES: Final = '"""'

Messages = list[dict[str, str]]


@dataclass(frozen=True)
class Turns:
    """What a chat template puts around messages, as literal text."""

    first: str
    """Before the first question, where no system message is given; a default one is in it."""
    answer: str
    """Between a question and its answer."""
    prompt: str
    """After the last question, where the model is to go on."""
    again: str
    """Between answer and the next question."""
    system: tuple[str, str] | None
    """Before a system message, and between it and the first question; None: it takes none."""
    question: tuple[str, str] = ("", "")
    """Before and behind the text of each question, from dataset.prompt."""

    def text(self, messages: Messages) -> str:
        """Give what the Go template of :meth:`go` gives, for questions and answers by turns."""
        has_system = messages[0]["role"] == "system"
        parts = []
        for number, message in enumerate(messages):
            is_last = number == len(messages) - 1
            match message["role"]:
                case "system" if self.system:
                    parts += [self.system[0], message["content"], self.system[1]]
                case "user":
                    if number == 0 or (number == 1 and has_system and not self.system):
                        parts.append(self.first)
                    elif number > 1 or not has_system:
                        parts.append(self.again)
                    parts += [self.question[0], message["content"], self.question[1]]
                    parts.append(self.prompt if is_last else self.answer)
                case "assistant":
                    parts.append(message["content"])
        return "".join(parts)

    def go(self) -> str:
        """Give the Go template: .Messages and .System as Ollama fills them in."""
        first, system = self.first, ""
        if self.system:
            # Not where it stands among the messages: behind those of MESSAGE, if a request has one.
            before, between = self.system
            system = f"{{{{ if .System }}}}{before}{{{{ .System }}}}{between}{{{{ end }}}}"
            first = f"{{{{ if not $.System }}}}{first}{{{{ end }}}}"
        start = (
            f"{{{{ if or (eq $i 0) (and (eq $i 1) $.System) }}}}{first}"
            f"{{{{ else }}}}{self.again}{{{{ end }}}}"
        )
        end = (
            f"{{{{ if eq (len (slice $.Messages $i)) 1 }}}}{self.prompt}"
            f"{{{{ else }}}}{self.answer}{{{{ end }}}}"
        )
        asked = f"{self.question[0]}{{{{ .Content }}}}{self.question[1]}"
        return (
            f"{system}{{{{ range $i, $_ := .Messages }}}}"
            f'{{{{ if eq .Role "user" }}}}{start}{asked}{end}'
            '{{ else if eq .Role "assistant" }}{{ .Content }}{{ end }}{{ end }}'
        )


@dataclass(frozen=True)
class Modelfile:
    """What Ollama is told of a model."""

    template: str
    """The Go template; empty where the model's own cannot be said in that language."""
    why_no_template: str
    system: str
    """The prompt's system message, or what the model's own template has where none is given."""
    stops: tuple[str, ...]
    """Texts that end an answer."""
    messages: tuple[tuple[str, str], ...] = ()
    """Role and content of the prompt's examples."""
    left_out: tuple[str, ...] = ()
    """What of dataset.prompt is not in the file, each with the reason."""

    def text(self, gguf_name: str) -> str:
        """Give the file's content, for a model in `gguf_name` beside it."""
        lines = [f"FROM ./{gguf_name}"]
        if self.template:
            lines.append(f'TEMPLATE """{self.template}"""')
        else:
            lines.append(f"# No TEMPLATE: {self.why_no_template}.")
        lines += [f"# Left out: {what}." for what in self.left_out]
        if self.system:
            lines.append(f'SYSTEM """{self.system}"""')
        lines += [f'MESSAGE {role} """{content}"""' for role, content in self.messages]
        lines += [f'PARAMETER stop "{stop}"' for stop in self.stops]
        return "\n".join(lines) + "\n"


def build_modelfile(tokenizer: Any, prompt: Prompt = _NO_PROMPT) -> Modelfile:
    """Find out what a Modelfile must say so that Ollama asks as the model was trained."""
    try:
        turns = _verified(tokenizer)
    except _NotSayable as error:
        plain = Modelfile("", str(error), "", _stops(tokenizer, ""))
        why = "Ollama would need TEMPLATE for it" if prompt.template else ""
        return _with_prompt(plain, prompt, why_no_question=why)
    why = ""
    try:
        turns = _with_question(tokenizer, turns, prompt)
    except _NotSayable as error:
        why = str(error)
    system, stops = _default_system(turns), _stops(tokenizer, turns.again)
    # The GGUF file says whether the engine puts the first token before the text.
    bos = tokenizer.bos_token or ""
    if bos and tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id:
        around = turns.system and (turns.system[0].removeprefix(bos), turns.system[1])
        turns = replace(turns, first=turns.first.removeprefix(bos), system=around)
    plain = Modelfile(turns.go(), "", system, stops)
    return _with_prompt(plain, prompt, why_no_question=why, has_system=turns.system is not None)


def _with_prompt(
    file: Modelfile, prompt: Prompt, *, why_no_question: str, has_system: bool = True
) -> Modelfile:
    """Add system message and examples of the prompt, and what of it cannot be said."""
    left_out = []
    system, messages = file.system, _examples(prompt, is_whole=bool(why_no_question))
    if why_no_question:
        left_out.append(f"dataset.prompt.template, because {why_no_question}")
    if prompt.system:
        if why := _no_system(prompt, has_system=has_system):
            left_out.append(f"dataset.prompt.system, because {why}")
        else:
            system = prompt.system
    if any(_QUOTES in content for _, content in messages):
        left_out.append("dataset.prompt.examples, because a Modelfile cannot hold their quotes")
        messages = ()
    return replace(file, system=system, messages=messages, left_out=tuple(left_out))


def _no_system(prompt: Prompt, *, has_system: bool) -> str:
    if not has_system:
        return "the model's chat template has no place for a system message alone"
    return "a Modelfile cannot hold its quotes" if _QUOTES in prompt.system else ""


def _examples(prompt: Prompt, *, is_whole: bool) -> tuple[tuple[str, str], ...]:
    """Give the turns of the examples; whole as they were taught, or as TEMPLATE is given them."""
    wanted = Prompt(examples=prompt.examples, template=prompt.template if is_whole else "")
    shown = Prompting(wanted).around([])
    return tuple((str(turn["role"]), str(turn["content"])) for turn in shown)


def _with_question(tokenizer: Any, turns: Turns, prompt: Prompt) -> Turns:
    """Add what the prompt puts around a question. Raises _NotSayable if that is no fixed text."""
    if not prompt.template:
        return turns
    prompting = Prompting(Prompt(template=prompt.template))
    before, found, behind = str(prompting.around([_user(_Q1)])[0]["content"]).partition(_Q1)
    asked = replace(turns, question=(before, behind))
    if not found or _cannot_hold(before, behind):
        raise _NotSayable("it is no text around the question that a Go template can hold")
    for messages in _trials(with_system=turns.system is not None):
        if _render(tokenizer, prompting.around(messages)) != asked.text(messages):
            raise _NotSayable("it or the model's chat template does more than to put text around")
    return asked


class _NotSayable(Exception):
    """Why there is no Go template."""


def _verified(tokenizer: Any) -> Turns:
    if has_date(tokenizer):
        raise _NotSayable("the model's chat template depends on the date")
    turns = _probe(tokenizer)
    for messages in _trials(with_system=turns.system is not None):
        if _render(tokenizer, messages) != turns.text(messages):
            raise _NotSayable(
                "the model's chat template does more than to put text around messages"
            )
    marks = (turns.first, turns.answer, turns.prompt, turns.again, *(turns.system or ()))
    if _cannot_hold(*marks):
        raise _NotSayable("the model's chat template has text that a Go template cannot hold")
    return turns


def _cannot_hold(*texts: str) -> bool:
    return any(odd in text for text in texts for odd in ("{{", "}}", _QUOTES))


def _probe(tokenizer: Any) -> Turns:
    """Ask the model's template for what it puts around messages."""
    chat = [_user(_Q1), _assistant(_A1), _user(_Q2), _assistant(_A2)]
    first, answer, again, last, _ = _cut(_render(tokenizer, chat, False), _Q1, _A1, _Q2, _A2)
    start, prompt = _cut(_render(tokenizer, [_user(_Q1)]), _Q1)
    if (start, answer) != (first, last):
        raise _NotSayable("the model's chat template shows a question in more than one way")
    try:
        text = _render(tokenizer, [{"role": "system", "content": _SYSTEM}, _user(_Q1)])
        before, between, _ = _cut(text, _SYSTEM, _Q1)
        system = before, between
    except _NotSayable:
        system = None
    return Turns(first, answer, prompt, again, system)


def _cut(text: str, *contents: str) -> list[str]:
    """Give what is before, between and after `contents`, each of which must be there once."""
    pieces = []
    for content in contents:
        if text.count(content) != 1:
            raise _NotSayable("the model's chat template leaves out or repeats a message")
        piece, _, text = text.partition(content)
        pieces.append(piece)
    return [*pieces, text]


def _trials(*, with_system: bool) -> list[Messages]:
    asked = [_user(text) if n % 2 == 0 else _assistant(text) for n, text in enumerate(_TRIALS)]
    chats = [asked[:1], asked[:3], asked, [_user(_TRIALS[2])]]
    if with_system:
        first = {"role": "system", "content": "You are kind.\nBe brief."}
        chats += [[first, *chat] for chat in chats]
    return chats


def _render(tokenizer: Any, messages: Messages, prompt: bool = True) -> str:
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
    except Exception as error:  # whatever a template raises: jinja2 gives it no common type
        raise _NotSayable("the model's chat template refuses a plain conversation") from error
    return str(text)


def _default_system(turns: Turns) -> str:
    """Give the system message in what stands before a first question, if there is one."""
    if not turns.system:
        return ""
    before, between = turns.system
    if len(turns.first) > len(before) + len(between) and turns.first.startswith(before):
        inner = turns.first[len(before) :]
        return inner.removesuffix(between) if inner.endswith(between) else ""
    return ""


def _stops(tokenizer: Any, again: str) -> tuple[str, ...]:
    """Give what ends an answer: special tokens, else what a next question begins with."""
    special = [t.content for t in tokenizer.added_tokens_decoder.values() if t.special]
    found = sorted((token for token in special if token in again), key=again.index)
    stops = [*found[:1], tokenizer.eos_token or ""]
    if not found:
        stops += again.strip().splitlines()[:1]
    return tuple(dict.fromkeys(stop for stop in stops if stop and '"' not in stop))


def write(modelfile: Modelfile, directory: Path, gguf_name: str) -> None:
    """Write the Modelfile beside the GGUF file."""
    (directory / "Modelfile").write_text(modelfile.text(gguf_name))


def _user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def _assistant(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}
