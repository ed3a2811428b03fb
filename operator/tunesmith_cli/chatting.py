"""`tunesmith chat`: talks to a model, word by word as it answers.

Whatever ``models`` finds: what a run has made, a folder of transformers' or peft's, a GGUF file, a
model of the Hub, or the tiny one. It is asked as it was taught: with the run's prompt around the
questions, unless another system message or examples are given.
"""

import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, Protocol, Self

import orjson

from tunesmith_api.dataset import Checks
from tunesmith_api.templating import Prompt
from tunesmith_cli.in_process import any_data
from tunesmith_cli.jobfile import near_by
from tunesmith_cli.mistakes import Refused
from tunesmith_cli.modelfiles import Modelfile, read_modelfile
from tunesmith_cli.models import Found, fetch_base, find_model
from tunesmith_cli.terminal import err

_FILE = "file://"
_HELP = "Say something; /reset begins again, /exit or Ctrl-D leaves."
_MAX_TOKENS, _TEMPERATURE = 256, 0.0


class Settings(NamedTuple):
    """How answers are made; None: as the Modelfile says, else 256 tokens at 0."""

    max_tokens: int | None = None
    temperature: float | None = None
    """0 always takes the most likely word."""


class Model(Protocol):
    """What answers."""

    def answer(
        self, messages: list[dict[str, Any]], max_tokens: int, temperature: float
    ) -> Iterator[str]:
        """Give the answer in pieces; what is not taken is not made. Raises Refused."""
        ...

    def close(self) -> None:
        """End it."""
        ...


class Speaker:
    """A model, and what stands before every conversation; a context that ends the model."""

    def __init__(self, path: str, system: str, examples: Path | None, settings: Settings) -> None:
        """Load the model at ``path``. Raises Refused, TrainerError."""
        self._folder = TemporaryDirectory(prefix="tunesmith-chat-", ignore_cleanup_errors=True)
        work = Path(self._folder.name)
        found = find_model(path, work)
        told = read_modelfile(found.modelfile) if found.modelfile else None
        if told:
            found = found._replace(model=told.model)
        # Before the model, which may take minutes to load.
        self._prompting, self._before = _around(found, told, system, examples, work)
        self._settings = _settled(settings, told)
        self._model = _load(found, told, work)
        self.turns: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._model.close()
        self._folder.cleanup()

    def answer(self, question: str) -> Iterator[str]:
        """Ask, and give the answer in pieces; it becomes part of the conversation.

        Raises Refused where the conversation no longer fits the model.
        """
        self.turns.append({"role": "user", "content": question})
        said = []
        around = self._prompting.around([*self._before, *self.turns])
        given = [{"role": turn["role"], "content": turn["content"]} for turn in around]
        pieces = self._model.answer(given, *self._settings)
        try:
            for piece in pieces:
                said.append(piece)
                yield piece
        finally:
            pieces.close()  # type: ignore[attr-defined]
            if said:
                self.turns.append({"role": "assistant", "content": "".join(said)})
            else:
                self.turns.pop()


def say(speaker: Speaker, question: str) -> None:
    """Print the answer to a question as it comes; Ctrl-C cuts it off. Raises Refused."""
    pieces = speaker.answer(question)
    with suppress(KeyboardInterrupt):
        for piece in pieces:
            sys.stdout.write(piece)
            sys.stdout.flush()
    pieces.close()  # type: ignore[attr-defined]
    sys.stdout.write("\n")


def converse(speaker: Speaker) -> None:
    """Talk until the user leaves."""
    err.print(_HELP, markup=False)
    while True:
        try:
            question = input("> ").strip()
        except (EOFError, KeyboardInterrupt):
            return
        if question in ("/exit", "/quit"):
            return
        if question == "/reset":
            speaker.turns.clear()
        elif question.startswith("/"):
            err.print(_HELP, markup=False)
        elif question:
            try:
                say(speaker, question)
            except Refused as refused:
                err.print(str(refused), markup=False)


def _load(found: Found, told: Modelfile | None, work: Path) -> Model:
    from tunesmith_cli.in_process import load, load_gguf

    if found.model.suffix != ".gguf":
        return load(found.model, found.adapter)
    # Imported here: its client takes a moment to load.
    from tunesmith_cli.llama_server import MISSING, LlamaServer, find_program

    if program := find_program():
        return LlamaServer(program, found.model, told.parameters if told else {})
    if found.run is None:
        raise Refused(MISSING)
    err.print(
        "There is no llama-server on PATH: transformers reads the file, which takes four bytes of"
        " memory a weight and is slower.",
        markup=False,
    )
    return load_gguf(found.model, fetch_base(found.run, work))


def _settled(settings: Settings, told: Modelfile | None) -> tuple[int, float]:
    given = told.parameters if told else {}
    tokens, temperature = settings
    if tokens is None:
        # Ollama's -1 and -2 stand for no limit.
        said = given.get("num_predict", _MAX_TOKENS)
        tokens = said if said > 0 else _MAX_TOKENS
    if temperature is None:
        temperature = given.get("temperature", _TEMPERATURE)
    return tokens, temperature


def _around(
    found: Found, told: Modelfile | None, system: str, examples: Path | None, work: Path
) -> tuple[Any, list[dict[str, Any]]]:
    from tunesmith_trainer.data.prompting import Prompting

    prompt = _taught(found)
    # The Modelfile's are the prompt's, where one is known.
    before = list(told.messages) if told and not prompt.examples else []
    system = system or prompt.system or (told.system if told else "")
    prompt = prompt.model_copy(update={"system": system})
    if examples is None:
        return Prompting(prompt), before
    shown = prompt.model_copy(update={"examples": ()})
    return Prompting(shown), [*before, *read_examples(examples, work)]


def _taught(found: Found) -> Prompt:
    """Give what stood around the questions that the model learned from. Raises Refused."""
    if found.run and found.run.report.prompt:
        return found.run.report.prompt
    if not found.prompt or not found.prompt.is_file():
        return Prompt()
    try:
        return Prompt.model_validate_json(found.prompt.read_bytes())
    except ValueError as error:
        raise Refused(f"{found.prompt}: {error}") from error


def read_examples(file: Path, work: Path) -> list[dict[str, Any]]:
    """Read few-shot examples from a file in any of the data formats. Raises Refused, UserError."""
    from tunesmith_trainer.data.finding import find_files
    from tunesmith_trainer.data.reading import Reading, read_rows
    from tunesmith_trainer.data.rows import Reader
    from tunesmith_trainer.storage import Storage

    def no_storage() -> Storage:
        raise Refused(f"{file} is not a file of this machine")

    data = any_data()
    if not file.exists():
        raise Refused(f"{file} does not exist{near_by(file)}")
    uri = f"{_FILE}{file.absolute().resolve()}"
    files = find_files(uri, no_storage, work, lambda _: None, data.format)
    turns: list[dict[str, Any]] = []
    for row in read_rows(files, Reader(data.format, data), Reading(Checks()), lambda: None):
        content = orjson.loads(row.content)
        if not isinstance(content, list):
            raise Refused(f"{file} line {row.line}: examples are questions with their answers")
        turns += [turn for turn in content if turn["role"] != "system" or not turns]
    return turns
