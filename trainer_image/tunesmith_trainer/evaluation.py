"""How good a model is: the run's suites, one after the other, on one model.

Called by `loop` (validation) and `examination` (the suites). Must not change weights or the state
of random generators. What the suites do says `suites`, how models are compared says `comparing`.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from torch import nn
from transformers import PreTrainedTokenizerBase

from tunesmith_api.meta import Digest
from tunesmith_api.suites import Suite, TextMetric
from tunesmith_trainer.attempt import Attempt
from tunesmith_trainer.batches import Batch, batches_by_length, collate
from tunesmith_trainer.data.prepared import Split
from tunesmith_trainer.distributed import Ranks
from tunesmith_trainer.intervals import Observed, Statistic, observe
from tunesmith_trainer.leading import lead
from tunesmith_trainer.model import padding_id
from tunesmith_trainer.objective import SupervisedLoss
from tunesmith_trainer.outcome import Interrupted
from tunesmith_trainer.preference import HeldOutPairs, Pairs
from tunesmith_trainer.preference_score import PairScore, judge_pairs
from tunesmith_trainer.stopping import StopSignal
from tunesmith_trainer.suites.answering import answer_all
from tunesmith_trainer.suites.harness import HarnessView, run_tasks, task_folder
from tunesmith_trainer.suites.intent import compare_intents
from tunesmith_trainer.suites.judging import rate
from tunesmith_trainer.suites.questions import Asked
from tunesmith_trainer.suites.speed import generate_once, measure_speed
from tunesmith_trainer.suites.text import compare

Column = NDArray[np.float64]
_Work = Callable[[Callable[[Any], Any]], tuple[tuple[Observed, ...], str]]

_NO_ROWS = np.zeros(0, np.int64)


@dataclass(frozen=True)
class Score:
    """Sums over the supervised tokens of each row of a split, of all ranks; [rows] each."""

    nats: Column
    """Negative log-likelihood."""
    targets: Column
    """Supervised tokens."""
    correct: Column
    """Those of them whose most likely prediction was right."""

    @property
    def loss(self) -> float:
        """Nats a token: sum divided by sum, never a mean of means of batches."""
        targets = float(self.targets.sum())
        return float(self.nats.sum()) / targets if targets else math.nan

    def observed(self, suite: str) -> tuple[Observed, ...]:
        """Give the suite's metrics. Perplexity is exp of the loss (Jelinek et al. 1977)."""
        return (
            observe(f"{suite}/loss", Statistic.RATIO, self.nats, self.targets),
            observe(f"{suite}/perplexity", Statistic.EXP_RATIO, self.nats, self.targets),
            observe(f"{suite}/token_accuracy", Statistic.RATIO, self.correct, self.targets),
        )


class Judgement(BaseModel):
    """What the suites found about one model."""

    model_config = ConfigDict(frozen=True)

    observed: tuple[Observed, ...]
    """In the order of the suites."""
    answers: dict[str, tuple[str, ...]]
    """By the name of the suite, in the order of its questions."""
    notes: tuple[str, ...] = ()
    """What could not be measured, and why."""


@dataclass(frozen=True)
class Exam:
    """What every model is asked: the same rows and questions, in the same order."""

    attempt: Attempt
    tokenizer: PreTrainedTokenizerBase
    test: Split
    asked: Asked
    task_files: dict[str, Digest]
    """Digests of lmEval.taskFiles, by the name of the suite."""
    pairs: Pairs | None = None
    """With objective DPO: what the rows of `test`, which are pairs, are judged by."""


def held_out_score(
    loss: SupervisedLoss,
    rows: Split,
    ranks: Ranks,
    stop: StopSignal,
    *,
    batch_size: int,
    pad_id: int,
    pairs: HeldOutPairs | None = None,
) -> Score | PairScore:
    """Score a model on `rows`, shared out over the ranks; all of them must call this.

    With objective DPO the rows are `pairs`, and judged as such.
    Leaves the model in evaluation mode. Raises Interrupted, on all ranks, after SIGTERM.
    """
    if pairs is not None:
        return judge_pairs(loss, rows, ranks, stop, pairs, batch_size=batch_size, pad_id=pad_id)
    batches = batches_by_length(rows.lengths, batch_size, ranks.rank, ranks.size)
    turns = math.ceil(len(rows) / batch_size / ranks.size)
    # Its lines are places of rows, so that the order of the sums is that of the rows.
    table = np.zeros((len(rows), 3))
    loss.eval()
    for turn in range(turns):
        if ranks.any(stop.requested):
            raise Interrupted
        # Without rows left, too: a model in parts is computed by all ranks or by none.
        mine = batches[turn] if turn < len(batches) else _NO_ROWS
        batch = collate(rows, mine, pad_id).to(ranks.device)
        table[mine] = _row_sums(loss, batch)[: len(mine)]
    table = np.sum(ranks.gather(table), axis=0)
    return Score(*table.T)


def _row_sums(loss: SupervisedLoss, batch: Batch) -> Column:
    """Give nats, targets and correct of each row of a batch: float64[rows, 3]."""
    nats, correct = loss.by_token(batch)
    count, longest = batch.input_ids.shape
    row = (batch.positions // longest).cpu().numpy()
    columns = [nats.double().cpu().numpy(), np.ones(len(row)), correct.double().cpu().numpy()]
    return np.stack([np.bincount(row, column, minlength=count) for column in columns], axis=1)


def judge(exam: Exam, loss: SupervisedLoss) -> Judgement:
    """Measure a model by the run's suites; all ranks must call this.

    Raises Interrupted, on all ranks, after SIGTERM.
    """
    attempt = exam.attempt
    answers = _answers(exam, loss.model)
    score = None
    observed: list[Observed] = []
    notes: list[str] = []
    for place, suite in enumerate(attempt.run.evaluation.suites):
        if suite.held_out and len(exam.test):
            score = score or held_out_score(
                loss,
                exam.test,
                attempt.ranks,
                attempt.stop,
                batch_size=attempt.run.hyperparameters.per_device_batch_size,
                pad_id=padding_id(exam.tokenizer),
                pairs=exam.pairs.held_out("test") if exam.pairs else None,
            )
            observed += score.observed(suite.name)
        elif suite.prompts or suite.intent:
            observed += _compared(exam, suite, answers[suite.name])
        elif suite.judge or suite.lm_eval or suite.speed:
            found, note = _on_main(exam, place, suite, loss.model, answers.get(suite.name, ()))
            observed += found
            notes += [note] if note else []
    return Judgement(observed=tuple(observed), answers=answers, notes=tuple(notes))


def _answers(exam: Exam, model: nn.Module) -> dict[str, tuple[str, ...]]:
    attempt = exam.attempt
    answers = {}
    for suite in attempt.run.evaluation.suites:
        source = suite.samples or suite.questions
        if source:
            answers[suite.name] = answer_all(
                model,
                exam.tokenizer,
                [question.tokens for question in exam.asked[suite.name]],
                source.max_new_tokens,
                ranks=attempt.ranks,
                stop=attempt.stop,
                touch=attempt.progress.touch,
            )
    return answers


def _compared(exam: Exam, suite: Suite, replies: tuple[str, ...]) -> tuple[Observed, ...]:
    expected = [question.expected for question in exam.asked[suite.name]]
    if suite.prompts is None:
        return compare_intents(suite.name, replies, expected)
    metrics = [m for m in suite.prompts.metrics if m is not TextMetric.SIMILARITY]
    return tuple(compare(suite.name, metric, replies, expected) for metric in metrics)


def _on_main(
    exam: Exam, place: int, suite: Suite, model: nn.Module, replies: tuple[str, ...]
) -> tuple[tuple[Observed, ...], str]:
    """Measure on rank 0 what cannot be shared out, and give it to all ranks."""
    attempt = exam.attempt
    ranks, stop, touch = attempt.ranks, attempt.stop, attempt.progress.touch
    work, compute = _led(exam, place, suite, model, replies)

    def compute_here(order: object) -> object:
        touch()
        with ranks.accelerator.autocast():
            return compute(order)

    model.eval()
    return lead(ranks, stop, work, compute_here)


def _led(
    exam: Exam, place: int, suite: Suite, model: nn.Module, replies: tuple[str, ...]
) -> tuple[_Work, Callable[[Any], object]]:
    """Give what rank 0 does, and what it asks of the model in between."""
    attempt, name = exam.attempt, suite.name
    if suite.judge:
        judge, asked = suite.judge, exam.asked[name]
        stop, touch = attempt.stop, attempt.progress.touch
        rated = partial(rate, name, place, judge, asked, replies, stop=stop, touch=touch)
        return lambda _: rated(), lambda _: None
    if suite.lm_eval:
        tasks, folder = suite.lm_eval, task_folder(attempt, suite)
        seen = HarnessView(model, exam.tokenizer, together=attempt.ranks.is_sharded)
        return lambda ask: run_tasks(name, tasks, folder, partial(seen.model, ask)), seen.compute
    assert suite.speed is not None  # noqa: S101 - the only other kind that the caller passes
    speed = suite.speed
    return lambda ask: (measure_speed(name, speed, ask), ""), partial(generate_once, model)


@contextmanager
def base_behaviour(model: nn.Module) -> Iterator[None]:
    """Switch the adapter off, so that the model answers as the base model does."""
    with model.disable_adapter():  # type: ignore[operator]
        yield
