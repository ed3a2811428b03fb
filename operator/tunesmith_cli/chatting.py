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
from tunesmith_cli.jobfile import as_uri
from tunesmith_cli.mistakes import Refused
from tunesmith_cli.results import REPORT, find_run
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
        model, adapter, run = _find(path, work)
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


def _find(path: str, work: Path) -> tuple[Path, Path | None, TrainingRun | None]:
    """Give the model's folder, an adapter's on top of it, and the run it comes from."""
    if "://" in path and not path.startswith(_FILE):
        return _fetch(path, "", work / "model"), None, None
    folder = Path(path.removeprefix(_FILE)).expanduser().resolve()
    if (folder / "config.json").is_file():
        return folder, None, _run_above(folder)
    if (folder / "adapter_config.json").is_file():
        return _base_of(folder, work), folder, _run_above(folder)
    committed = _committed(folder)
    if committed is not None:
        return _find(str(committed), work)
    for name in ("merged", "adapter"):
        if committed := _committed(find_run(folder).path / name):
            return _find(str(committed), work)
    raise Refused(f"{folder} has neither a merged model nor an adapter to talk to")


def _committed(folder: Path) -> Path | None:
    """Give the files of an artifact's newest complete attempt."""
    from tunesmith_trainer.storage.local import LocalStorage
    from tunesmith_trainer.storage.manifest import read_manifest

    if not folder.is_dir() or (folder / REPORT).is_file():
        return None
    found = read_manifest(LocalStorage(), f"{_FILE}{folder}")
    return Path(found.uri.removeprefix(_FILE)) if found else None


def _run_above(folder: Path) -> TrainingRun | None:
    """Give the run whose artifact this is: RUN/merged/attempt-3/."""
    above = folder.parent.parent
    return find_run(above).run if (above / REPORT).is_file() else None


def _base_of(adapter: Path, work: Path) -> Path:
    settings = orjson.loads((adapter / "adapter_config.json").read_bytes())
    base = settings.get("base_model_name_or_path") or ""
    run = _run_above(adapter)
    if "://" not in base and not Path(base).exists():
        # As transformers writes it: a name of the Hub.
        base = f"hf://{base}"
    return _fetch(as_uri(base, adapter), run.model.revision if run else "", work / "model")


def _fetch(uri: str, revision: str, directory: Path) -> Path:
    scheme, _, name = uri.partition("://")
    if scheme == "file":
        return Path(uri.removeprefix(_FILE))
    if uri == "builtin://tiny":
        from tunesmith_trainer.tiny import write_tiny

        write_tiny(directory)
        return directory
    if scheme != "hf":
        raise Refused(f"{uri}: give a folder, hf://ORGANIZATION/NAME or builtin://tiny")
    from tunesmith_trainer.hub import fetch_from_hub

    fetch_from_hub(name.strip("/"), revision, directory, True, Path())
    return directory


def _load(model: Path, adapter: Path | None) -> tuple[Any, Any]:
    import torch
    from peft import PeftModel
    from transformers.utils import logging

    from tunesmith_trainer.data.templates import load_tokenizer
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
        loaded = PeftModel.from_pretrained(loaded, adapter)
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
    uri = f"{_FILE}{file.absolute().resolve()}"
    files = find_files(uri, no_storage, work, lambda _: None, data.format)
    turns: list[dict[str, Any]] = []
    for row in read_rows(files, Reader(data.format, data), Reading(Checks()), lambda: None):
        content = orjson.loads(row.content)
        if not isinstance(content, list):
            raise Refused(f"{file} line {row.line}: examples are questions with their answers")
        turns += [turn for turn in content if turn["role"] != "system" or not turns]
    return turns
