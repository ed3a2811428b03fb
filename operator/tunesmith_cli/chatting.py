"""`tunesmith chat`: talks to a model, word by word as it answers.

Loads what a run has made, a folder of transformers' or peft's, a model of the Hub, or the tiny
one. It is asked as it was taught: with the run's prompt around the questions, unless another
system message or examples are given.
"""

import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import orjson

from tunesmith_api.dataset import Checks, Dataset, Training
from tunesmith_api.run import TrainingRun
from tunesmith_api.templating import Prompt
from tunesmith_cli.jobfile import near_by
from tunesmith_cli.mistakes import Refused
from tunesmith_cli.models import find_model
from tunesmith_cli.terminal import err

_FILE = "file://"
_HELP = "Say something; /reset begins again, /exit or Ctrl-D leaves."


class Settings(NamedTuple):
    """How answers are made."""

    max_tokens: int
    temperature: float
    """0 always takes the most likely word."""


class Speaker:
    """A model with its tokenizer, and what stands before every conversation."""

    def __init__(self, path: str, system: str, examples: Path | None, settings: Settings) -> None:
        """Load the model at ``path``. Raises Refused, TrainerError."""
        self._settings = settings
        self._folder = TemporaryDirectory(prefix="tunesmith-chat-", ignore_cleanup_errors=True)
        work = Path(self._folder.name)
        model, adapter, run = find_model(path, work)
        self._tokenizer, self._model = _load(model, adapter)
        self._prompting, self._before = _around(run, system, examples, work)
        self.turns: list[dict[str, Any]] = []

    def answer(self, question: str) -> Iterator[str]:
        """Ask, and give the answer in pieces; it becomes part of the conversation.

        Raises Refused where the conversation no longer fits the model.
        """
        self.turns.append({"role": "user", "content": question})
        said = []
        try:
            for piece in self._stream():
                said.append(piece)
                yield piece
        finally:
            if said:
                self.turns.append({"role": "assistant", "content": "".join(said)})
            else:
                self.turns.pop()

    def _stream(self) -> Iterator[str]:
        from transformers import StoppingCriteriaList, TextIteratorStreamer

        from tunesmith_trainer.stopping import StopSignal
        from tunesmith_trainer.suites.answering import StopWhenAsked

        encoded = self._encode()
        self._check_length(encoded["input_ids"].shape[1])
        streamer = TextIteratorStreamer(self._tokenizer, skip_prompt=True, skip_special_tokens=True)
        stop, warm = StopSignal(), self._settings.temperature
        failed: list[Exception] = []

        def generate() -> None:
            try:
                self._model.generate(
                    **encoded,
                    streamer=streamer,
                    max_new_tokens=self._settings.max_tokens,
                    do_sample=warm > 0,
                    temperature=warm or None,
                    top_p=None,
                    top_k=None,
                    pad_token_id=self._tokenizer.pad_token_id or self._tokenizer.eos_token_id,
                    stopping_criteria=StoppingCriteriaList([StopWhenAsked(stop, lambda: None)]),
                )
            except Exception as error:
                failed.append(error)
                streamer.end()

        thread = threading.Thread(target=generate, name="generate")
        thread.start()
        try:
            yield from (piece for piece in streamer if piece)
        finally:
            stop.request()
            thread.join()
        if failed:
            raise failed[0]

    def _encode(self) -> dict[str, Any]:
        around = self._prompting.around([*self._before, *self.turns])
        given = [{"role": turn["role"], "content": turn["content"]} for turn in around]
        encoded = self._tokenizer.apply_chat_template(
            given, add_generation_prompt=True, return_tensors="pt", return_dict=True
        ).to(self._model.device)
        return {name: encoded[name] for name in ("input_ids", "attention_mask")}

    def _check_length(self, tokens: int) -> None:
        context = getattr(self._model.config, "max_position_embeddings", None)
        if isinstance(context, int) and tokens >= context:
            raise Refused(
                f"The conversation has {tokens} tokens, the model reads at most {context}. Begin"
                " again with /reset, or give fewer or shorter examples."
            )


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


def _load(model: Path, adapter: Path | None) -> tuple[Any, Any]:
    import torch
    from transformers.utils import logging

    from tunesmith_trainer.data.templates import load_tokenizer
    from tunesmith_trainer.embeddings import load_adapter
    from tunesmith_trainer.model import load_base, stored_dtype

    # What libraries deprecate, and how fast they read, is no part of a conversation.
    warnings.filterwarnings("ignore")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    # Most CPUs compute 16 bits slower than 32.
    loaded = load_base(model, stored_dtype(model) if on_gpu else torch.float32, device)
    if adapter is not None:
        loaded = load_adapter(loaded, adapter)
    loaded.eval()
    loaded.config.use_cache = True
    # The adapter's tokenizer has the chat template that it was trained with.
    has_own = adapter is not None and (adapter / "tokenizer_config.json").is_file()
    tokenizer = load_tokenizer(adapter if has_own and adapter else model, _any_data())
    return tokenizer, loaded


def _any_data() -> Dataset:
    return Dataset(train=Training(uri=f"{_FILE}/-"))


def _around(
    run: TrainingRun | None, system: str, examples: Path | None, work: Path
) -> tuple[Any, list[dict[str, Any]]]:
    from tunesmith_trainer.data.prompting import Prompting

    prompt = run.dataset.prompt if run else Prompt()
    if system:
        prompt = prompt.model_copy(update={"system": system})
    if examples is None:
        return Prompting(prompt), []
    shown = prompt.model_copy(update={"examples": ()})
    return Prompting(shown), read_examples(examples, work)


def read_examples(file: Path, work: Path) -> list[dict[str, Any]]:
    """Read few-shot examples from a file in any of the data formats. Raises Refused, UserError."""
    from tunesmith_trainer.data.finding import find_files
    from tunesmith_trainer.data.reading import Reading, read_rows
    from tunesmith_trainer.data.rows import Reader
    from tunesmith_trainer.storage import Storage

    def no_storage() -> Storage:
        raise Refused(f"{file} is not a file of this machine")

    data = _any_data()
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
