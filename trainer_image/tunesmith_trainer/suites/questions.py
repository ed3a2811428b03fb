"""What the suites ask: questions of a file, of the run itself, or of the test rows.

Called by `recipe` on all ranks before anything is trained, so that a file that is missing or wrong
ends the job at its beginning.
"""

from collections.abc import Iterable
from typing import NamedTuple, TypeVar

import numpy as np
import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from transformers import PreTrainedTokenizerBase

from tunesmith_api.result import UserErrorReason
from tunesmith_api.run import TrainingRun
from tunesmith_api.suites import Questions, Suite
from tunesmith_trainer.data.dating import dated
from tunesmith_trainer.data.prepared import Split
from tunesmith_trainer.data.prompting import Prompting
from tunesmith_trainer.outcome import UserError, shorten
from tunesmith_trainer.stopping import StopSignal
from tunesmith_trainer.storage import NotFound, open_store
from tunesmith_trainer.suites.intent import parse_expected

_T = TypeVar("_T")

_MOST_BYTES = 64 << 20


class Question(NamedTuple):
    """One question, ready for the model."""

    tokens: tuple[int, ...]
    """The conversation so far, up to where the answer begins."""
    prompt: str
    """The same for people."""
    expected: str
    """Empty where nobody said."""


Asked = dict[str, tuple[Question, ...]]
"""Questions by the name of the suite."""


class _Line(BaseModel):
    """A line of a file of questions; other columns are left alone."""

    model_config = ConfigDict(extra="ignore")

    prompt: str = Field(min_length=1)
    answer: str = ""


def load_questions(
    run: TrainingRun, test: Split, tokenizer: PreTrainedTokenizerBase, stop: StopSignal
) -> Asked:
    """Give the questions of all suites that ask some; raise UserError where that cannot be."""
    asked: Asked = {}
    asking = _Asking(tokenizer, Prompting(run.dataset.prompt))
    for suite in run.evaluation.suites:
        if suite.samples:
            asked[suite.name] = asking.render([(p, "") for p in suite.samples.prompts])
        elif suite.questions:
            asked[suite.name] = _of_suite(
                run, suite, suite.questions, test=test, asking=asking, stop=stop
            )
    return asked


def check_lengths(run: TrainingRun, asked: Asked, context: int | None) -> None:
    """Raise UserError InvalidRun for what a model of that context cannot be asked.

    Many models answer all the same, with noise; those with positions of their own fail, after all
    the training.
    """
    if context is None:
        return
    for name, questions in asked.items():
        for number, question in enumerate(questions, 1):
            if len(question.tokens) >= context:
                raise UserError(
                    UserErrorReason.INVALID_RUN,
                    f"Suite {name}: question {number} has {len(question.tokens)} tokens with all"
                    f" that is put around it, and the model reads at most {context}, its answer"
                    f" included: {shorten(question.prompt, 80)!r}. Shorten it, or leave it out.",
                )
    for suite in run.evaluation.suites:
        if suite.speed and suite.speed.prompt_tokens + suite.speed.new_tokens > context:
            raise UserError(
                UserErrorReason.INVALID_RUN,
                f"Suite {suite.name}: promptTokens and newTokens are more than the model's"
                f" {context} tokens together. Lower them.",
            )


def _of_suite(
    run: TrainingRun,
    suite: Suite,
    source: Questions,
    *,
    test: Split,
    asking: "_Asking",
    stop: StopSignal,
) -> tuple[Question, ...]:
    if source.uri is not None:
        items = _read(run, suite.name, source.uri, stop)
        found = asking.render([(i.prompt, i.answer) for i in spread(items, source.max_rows)])
    elif source.items is not None:
        found = asking.render([(i.prompt, i.answer) for i in source.items])
    else:
        found = tuple(
            spread(_of_rows(test, asking.tokenizer, run.objective.sides), source.max_rows)
        )
    if not found and source.uri is not None:
        raise UserError(
            UserErrorReason.INVALID_RUN,
            f'Suite {suite.name}: {source.uri} has no lines. Give it lines {{"prompt": ...,'
            ' "answer": ...}.',
        )
    if not found:
        raise UserError(
            UserErrorReason.INVALID_RUN,
            f"Suite {suite.name} has nothing to ask: it has neither uri nor items, and no test row "
            "has a question before its answer. Set one of them, or dataset.test.",
        )
    answers = [question.expected for question in found]
    if suite.intent:
        parse_expected(suite.name, answers)
    if suite.prompts and not all(answers):
        raise UserError(
            UserErrorReason.INVALID_RUN,
            f"Suite {suite.name}: question {answers.index('') + 1} has no expected answer to "
            "compare with. Add it, or use a suite of the kind samples or judge.",
        )
    return found


def spread(items: list[_T], most: int) -> list[_T]:
    """Give at most `most` of them, evenly spread."""
    if len(items) <= most:
        return items
    return [items[i] for i in np.linspace(0, len(items) - 1, most).round().astype(int).tolist()]


def _read(run: TrainingRun, suite: str, uri: str, stop: StopSignal) -> list[_Line]:
    storage = open_store(uri, run.s3, "dataset", stop)
    listed = storage.list(uri)
    if not listed or listed[0].size_bytes > _MOST_BYTES:
        what = f"has more than {_MOST_BYTES >> 20} MiB" if listed else "does not exist"
        raise UserError(
            UserErrorReason.DATASET_NOT_FOUND,
            f"Suite {suite}: {uri} {what}. Name a .jsonl file with lines "
            '{"prompt": ..., "answer": ...}.',
        )
    try:
        data = storage.get_bytes(uri)
    except NotFound as error:
        raise UserError(
            UserErrorReason.DATASET_NOT_FOUND, f"Suite {suite}: {uri} does not exist."
        ) from error
    lines = [(n, line) for n, line in enumerate(data.split(b"\n"), 1) if line.strip()]
    return [_parse(suite, uri, number, line) for number, line in lines]


def _parse(suite: str, uri: str, number: int, line: bytes) -> _Line:
    try:
        return _Line.model_validate(orjson.loads(line))
    except (ValueError, ValidationError) as error:
        raise UserError(
            UserErrorReason.DATASET_MALFORMED,
            f"Suite {suite}: line {number} of {uri} is "
            f"{shorten(line.decode(errors='replace'), 120)!r}; wanted is "
            '{"prompt": ..., "answer": ...}, both texts.',
        ) from error


class _Asking(NamedTuple):
    """How a question becomes tokens: as it was taught, with dataset.prompt around it."""

    tokenizer: PreTrainedTokenizerBase
    prompting: Prompting

    def render(self, pairs: Iterable[tuple[str, str]]) -> tuple[Question, ...]:
        """Give the questions of pairs of question and expected answer."""
        return tuple(Question(self._tokens(prompt), prompt, answer) for prompt, answer in pairs)

    def _tokens(self, prompt: str) -> tuple[int, ...]:
        around = self.prompting.around([{"role": "user", "content": prompt}])
        turns = [{"role": turn["role"], "content": turn["content"]} for turn in around]
        return tuple(
            self.tokenizer.apply_chat_template(
                turns,
                add_generation_prompt=True,
                tokenize=True,
                return_dict=False,
                **dated(self.tokenizer),
            )
        )


def _of_rows(test: Split, tokenizer: PreTrainedTokenizerBase, sides: int) -> list[Question]:
    """Take the last answer of each test row, and ask what stands before it; of pairs the better."""
    found = []
    for index in range(0, len(test), sides):
        tokens, supervised = test.row(index)
        learned = np.flatnonzero(supervised)
        if not len(learned):
            continue
        end = int(learned[-1]) + 1
        breaks = np.flatnonzero(supervised[:end] == 0)
        start = int(breaks[-1]) + 1 if len(breaks) else 0
        if start:
            context = tuple(tokens[:start].tolist())
            found.append(
                Question(context, _text(tokenizer, context), _text(tokenizer, tokens[start:end]))
            )
    return found


def _text(tokenizer: PreTrainedTokenizerBase, tokens: Iterable[int]) -> str:
    return str(tokenizer.decode(list(map(int, tokens)), skip_special_tokens=True)).strip()
