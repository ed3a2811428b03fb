"""Conversations to text by a chat template, and where in the text the answers are.

Templates carry no marks for answers, so they are found by rendering: the text up to an answer
with the generation prompt, and the text up to its end, are both beginnings of the whole. Called
by ``tokenizing``; ``load_tokenizer`` also by the train stage, so that both use one template.
"""

from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import TemplateSyntaxError

from tunesmith_api.dataset import Dataset
from tunesmith_api.result import UserErrorReason
from tunesmith_api.templating import Template
from tunesmith_trainer.data.chat_templates import PLAIN, TEXTS
from tunesmith_trainer.data.dating import dated
from tunesmith_trainer.data.formats import Message
from tunesmith_trainer.data.newtokens import NewTokens, extend
from tunesmith_trainer.data.prompting import template_errors
from tunesmith_trainer.data.values import Malformed
from tunesmith_trainer.logs import log
from tunesmith_trainer.outcome import UserError, shorten

_PROBE = "ZQXJ"
_EXCERPT = 60


class Rendered(NamedTuple):
    """A conversation as text."""

    text: str
    spans: tuple[tuple[int, int], ...]
    """Characters the loss is taken on: each answer with its end-of-turn token."""


def load_tokenizer(directory: Path, dataset: Dataset) -> Any:
    """Load the tokenizer of a model, with the tokens that ``dataset`` adds.

    Its ``chat_template`` is the one to use from then on. Raises as :func:`load_extended` does.
    """
    return load_extended(directory, dataset)[0]


def load_extended(directory: Path, dataset: Dataset) -> tuple[Any, NewTokens]:
    """Load the tokenizer of a model, and say what ``dataset`` adds to it.

    Raises UserError: ModelInvalid when it cannot be loaded or is not a fast one, TemplateInvalid,
    InvalidRun for tokens that cannot be added.
    """
    tokenizer = _load(directory)
    _use_template(tokenizer, dataset)
    return tokenizer, extend(tokenizer, dataset)


def _use_template(tokenizer: Any, dataset: Dataset) -> None:
    template = dataset.template
    if template is Template.CUSTOM:
        _use_custom(tokenizer, dataset.custom_template or "")
    elif template is not Template.CHAT_TEMPLATE:
        tokenizer.chat_template = TEXTS[template]
    elif not tokenizer.chat_template:
        log.warning("the model has no chat template, a plain one is used and saved with it")
        tokenizer.chat_template = PLAIN
    else:
        _check_own(tokenizer)


def _check_own(tokenizer: Any) -> None:
    """Refuse a model whose template no row can be shown with, whatever stands in it."""
    try:
        tokenizer.get_chat_template()
    except ValueError as error:
        raise _unusable(error) from error
    try:
        tokenizer.apply_chat_template([{"role": "user", "content": _PROBE}], tokenize=False)
    except TemplateSyntaxError as error:
        raise _unusable(error) from error
    except Exception:  # whatever a template raises: it may take real rows all the same
        return


def _unusable(error: Exception) -> UserError:
    return UserError(
        UserErrorReason.MODEL_INVALID,
        f"The model's chat template cannot be used ({shorten(str(error), 200)}). Correct it beside"
        " the model, or set dataset.template to another one.",
    )


def _use_custom(tokenizer: Any, text: str) -> None:
    tokenizer.chat_template = text
    turns = [{"role": "user", "content": _PROBE}, {"role": "assistant", "content": _PROBE * 2}]
    with template_errors("dataset.customTemplate"):
        for messages, prompt in ((turns[:1], True), (turns, False)):
            shown = tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=prompt
            )
            if messages[-1]["content"] not in shown:
                raise ValueError("a message does not appear in what it renders")
    if not shown.rpartition(_PROBE)[2].strip():
        log.warning("dataset.customTemplate ends answers with no token: add eos_token")


def _load(directory: Path) -> Any:
    try:
        if (directory / "tokenizer.json").is_file():
            # AutoTokenizer imports torch and all models' code: half a minute on a small machine.
            from transformers import PreTrainedTokenizerFast

            tokenizer = PreTrainedTokenizerFast.from_pretrained(directory)
        else:
            from transformers import AutoTokenizer

            tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    except Exception as error:
        raise UserError(
            UserErrorReason.MODEL_INVALID,
            f"The model's tokenizer cannot be loaded ({type(error).__name__}:"
            f" {shorten(str(error), 300)}). A tokenizer.json is needed.",
        ) from error
    if not tokenizer.is_fast:
        raise UserError(
            UserErrorReason.MODEL_INVALID, "The model has no fast tokenizer: add a tokenizer.json."
        )
    return tokenizer


def used_template(tokenizer: Any, dataset: Dataset) -> Template:
    """Say which template a tokenizer of :func:`load_tokenizer` has."""
    if dataset.template is Template.CHAT_TEMPLATE and tokenizer.chat_template == PLAIN:
        return Template.PLAIN
    return dataset.template


class Renderer:
    """Renders many conversations at once."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._marks: tuple[str, str] | None = None
        self._closing: str | None = None

    def render(self, conversations: Sequence[list[Message]]) -> list[Rendered | Malformed]:
        """Give each conversation as text with its answers; Malformed where the template refuses."""
        texts = self._texts(conversations, prompt=False)
        places = [
            (row, turn)
            for row, messages in enumerate(conversations)
            for turn in range(len(messages))
            if _is_learned(messages[turn]) and turn > 0
        ]
        starts = self._texts([conversations[r][:turn] for r, turn in places], prompt=True)
        inner = [(r, turn) for r, turn in places if turn + 1 < len(conversations[r])]
        ends = dict(
            zip(
                inner,
                self._texts([conversations[r][: turn + 1] for r, turn in inner], prompt=False),
                strict=True,
            )
        )
        found: list[list[tuple[Any, Any]]] = [[] for _ in conversations]
        for (row, turn), start in zip(places, starts, strict=True):
            found[row].append((start, ends.get((row, turn), texts[row])))
        return [
            self._named(text, messages)
            if isinstance(text, Malformed)
            else self._locate(text, messages, pairs)
            for text, messages, pairs in zip(texts, conversations, found, strict=True)
        ]

    def _locate(
        self, text: str, messages: list[Message], pairs: list[tuple[Any, Any]]
    ) -> Rendered | Malformed:
        spans = []
        learned = sum(map(_is_learned, messages))
        for start, end in pairs:
            if not (isinstance(start, str) and isinstance(end, str)):
                break
            turn = end.removesuffix(self._behind_all())
            if not (text.startswith(start) and text.startswith(turn)):
                break
            spans.append((len(start), _end_of_turn(turn)))
        # Some templates show an answer differently once others follow it; then it is searched for.
        if len(spans) < learned or any(start >= end for start, end in spans):
            try:
                spans = self._search(text, messages)
            except Malformed as error:
                return error
        return Rendered(text, tuple(spans))

    def _search(self, text: str, messages: list[Message]) -> list[tuple[int, int]]:
        header, tail = self._turn_marks()
        spans, cursor = [], 0
        for message in messages:
            content = message["content"].strip()
            if message["role"] == "assistant" and header:
                at = text.find(header, cursor)
                cursor = at + len(header) if at >= 0 else cursor
            start = text.find(content, cursor)
            if start < 0:
                if _is_learned(message):
                    raise Malformed(
                        "the chat template leaves out or changes the answer"
                        f" {shorten(repr(content), _EXCERPT)}; set dataset.template to another one"
                    )
                continue
            cursor = start + len(content)
            if _is_learned(message):
                cursor += len(tail) if text.startswith(tail, cursor) else 0
                spans.append((start, cursor))
        return spans

    def _turn_marks(self) -> tuple[str, str]:
        """Return what stands before each answer and, without white space, behind it."""
        if self._marks is None:
            plain, prompted, whole = self._probed()
            if not all(isinstance(text, str) for text in (plain, prompted, whole)):
                raise Malformed("the chat template refuses a question with an answer")
            closing = self._behind_all()
            plain, whole = plain.removesuffix(closing), whole.removesuffix(closing)
            header = prompted[len(plain) :] if prompted.startswith(plain) else ""
            self._marks = (header, whole.rpartition(_PROBE * 2)[2].rstrip())
        return self._marks

    def _behind_all(self) -> str:
        """Return what stands behind the last turn and is none of it, as Phi-3's end token."""
        if self._closing is None:
            end = self._tokenizer.eos_token or ""
            plain, prompted, whole = self._probed()
            self._closing = ""
            if end and all(isinstance(text, str) for text in (plain, prompted, whole)):
                is_apart = plain.endswith(end) and not prompted.startswith(plain)
                is_apart &= prompted.startswith(plain.removesuffix(end))
                # Where answers have no end of their own, it is the last one's.
                if is_apart and whole.removesuffix(end).rpartition(_PROBE * 2)[2].strip():
                    self._closing = end
        return self._closing

    def _probed(self) -> tuple[Any, Any, Any]:
        """Show a question, the same with the generation prompt, and the same with an answer."""
        question = [{"role": "user", "content": _PROBE}]
        answer = [*question, {"role": "assistant", "content": _PROBE * 2}]
        return self._one(question, False), self._one(question, True), self._one(answer, False)

    def _texts(self, conversations: Sequence[list[Message]], *, prompt: bool) -> list[Any]:
        if not conversations:
            return []
        try:
            return self._apply(conversations, prompt)
        except Exception:
            # One bad conversation fails the call for all: find it.
            return [self._one(messages, prompt) for messages in conversations]

    def _one(self, messages: list[Message], prompt: bool) -> Any:
        try:
            return self._apply([messages], prompt)[0]
        except Exception as error:
            return Malformed(shorten(str(error), 200))

    def _named(self, why: Malformed, messages: list[Message]) -> Malformed:
        """Say which message the template refuses: the first that it takes no beginning with.

        By its text, not its number: the prompt of the run may have put others before it.
        """
        ends = range(1, len(messages))
        number = bisect_left(
            ends, True, key=lambda end: isinstance(self._one(messages[:end], False), Malformed)
        )
        message = messages[number]
        return Malformed(
            f"the chat template refuses the {message['role']}'s message"
            f" {shorten(repr(message['content']), _EXCERPT)} ({why}); correct the row, or set"
            " dataset.template to another one"
        )

    def _apply(self, conversations: Sequence[list[Message]], prompt: bool) -> list[str]:
        return self._tokenizer.apply_chat_template(
            list(conversations),
            tokenize=False,
            add_generation_prompt=prompt,
            **dated(self._tokenizer),
        )


def _is_learned(message: Message) -> bool:
    return message["role"] == "assistant" and message.get("weight", 1) != 0


def _end_of_turn(text: str) -> int:
    """Return where the turn ends: white space behind its last token is not to be learned."""
    return len(text.rstrip())
