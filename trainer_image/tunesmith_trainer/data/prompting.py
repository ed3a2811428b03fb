"""What dataset.prompt puts around the questions of a conversation.

Called by ``tokenizing`` for the rows; whoever asks a trained model calls it too, so that it is
asked as it was taught.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jinja2 import StrictUndefined, TemplateError, TemplateSyntaxError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tunesmith_api.result import UserErrorReason
from tunesmith_api.templating import PROMPT_FILE, Prompt
from tunesmith_trainer.data.formats import Message
from tunesmith_trainer.outcome import UserError, shorten


def write_prompt(prompt: Prompt, directory: Path) -> None:
    """Write a prompt beside a model, for those who ask it without its run's report."""
    content = prompt.model_dump_json(by_alias=True, indent=2)
    (directory / PROMPT_FILE).write_text(f"{content}\n", encoding="utf-8")


class Prompting:
    """Puts system message, few-shot examples and question template around conversations."""

    def __init__(self, prompt: Prompt) -> None:
        """Compile the template. Raises UserError (TemplateInvalid)."""
        self._prompt = prompt
        environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False)
        with template_errors("dataset.prompt.template"):
            self._template = environment.from_string(prompt.template)
            self._question("a question")

    def around(self, messages: list[Message]) -> list[Message]:
        """Give the conversation as the model gets it; examples are not to be learned."""
        if self._prompt.is_empty:
            return messages
        has_system = bool(messages) and messages[0]["role"] == "system"
        system = messages[:1] if has_system else self._system()
        shown = [
            {**turn, "content": self._question(turn["content"])} if turn["role"] == "user" else turn
            for turn in messages[has_system:]
        ]
        return [*system, *self._examples(), *shown]

    def _system(self) -> list[Message]:
        text = self._prompt.system
        return [{"role": "system", "content": text}] if text else []

    def _examples(self) -> Iterator[Message]:
        for example in self._prompt.examples:
            yield {"role": "user", "content": self._question(example.prompt)}
            yield {"role": "assistant", "content": example.response, "weight": 0}

    def _question(self, text: str) -> str:
        if not self._prompt.template:
            return text
        with template_errors("dataset.prompt.template"):
            return self._template.render(prompt=text)


@contextmanager
def template_errors(field: str) -> Iterator[None]:
    """Turn what Jinja raises into a UserError (TemplateInvalid) with the line of the template."""
    try:
        yield
    except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise UserError(
            UserErrorReason.TEMPLATE_INVALID,
            f"{field}, line {_line_of(error)}: {shorten(str(error), 300)}. Correct the template.",
        ) from error


def _line_of(error: Exception) -> int | str:
    if isinstance(error, TemplateSyntaxError):
        return error.lineno
    found: int | str = "?"
    trace = error.__traceback__
    while trace is not None:
        # Jinja puts frames of the template into the traceback, with its line numbers.
        if trace.tb_frame.f_code.co_filename in ("<template>", "<unknown>"):
            found = trace.tb_lineno
        trace = trace.tb_next
    return found
