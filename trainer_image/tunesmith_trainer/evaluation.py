"""How good a model is on rows it has not seen, and what it answers.

Called by `loop` (validation) and `recipe` (test rows, samples). Must not change weights or the
state of random generators.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch
from pydantic import BaseModel, ConfigDict
from torch import nn
from transformers import PreTrainedTokenizerBase, StoppingCriteria, StoppingCriteriaList

from tunesmith_api.evaluation import Samples, Suite
from tunesmith_api.jobstatus import Measurement
from tunesmith_api.run import SampleAnswer
from tunesmith_trainer.attempt import Attempt
from tunesmith_trainer.batches import batches_by_length, collate
from tunesmith_trainer.data.prepared import Split
from tunesmith_trainer.distributed import Ranks
from tunesmith_trainer.model import padding_id
from tunesmith_trainer.objective import SupervisedLoss
from tunesmith_trainer.outcome import Interrupted
from tunesmith_trainer.preference import HeldOutPairs, Pairs
from tunesmith_trainer.preference_score import PairScore, judge_pairs
from tunesmith_trainer.stopping import StopSignal


class Score(BaseModel):
    """Sums over all supervised tokens of a split, over all ranks."""

    model_config = ConfigDict(frozen=True)

    nats: float
    """Negative log-likelihood."""
    targets: int
    """Supervised tokens."""
    correct: int
    """Those of them whose most likely prediction was right."""

    @property
    def loss(self) -> float:
        """Nats a token: sum divided by sum, never a mean of means of batches."""
        return self.nats / self.targets if self.targets else math.nan

    @property
    def perplexity(self) -> float:
        """exp of the loss (Jelinek et al. 1977); infinite where a float cannot hold it."""
        return math.exp(self.loss) if self.loss < 700 else math.inf

    @property
    def token_accuracy(self) -> float:
        """Share of tokens whose most likely prediction was right."""
        return self.correct / self.targets if self.targets else math.nan

    def metrics(self) -> dict[str, float]:
        """Give the values by the names that gates use, without the suite."""
        return {
            "loss": self.loss,
            "perplexity": self.perplexity,
            "token_accuracy": self.token_accuracy,
        }


class Judgement(BaseModel):
    """What the suites found about one model."""

    model_config = ConfigDict(frozen=True)

    score: Score | PairScore | None
    """None without a held-out suite or test rows."""
    answers: dict[str, tuple[str, ...]]
    """By the name of the suite, in the order of its prompts."""


Measured = tuple[Measurement, ...]


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
        return judge_pairs(
            loss, rows, ranks, stop, pairs, batch_size=batch_size, pad_id=pad_id
        ).score()
    batches = batches_by_length(rows.lengths, batch_size, ranks.rank, ranks.size)
    turns = math.ceil(len(rows) / batch_size / ranks.size)
    nats, targets, correct = 0.0, 0, 0
    loss.eval()
    # Inference mode would leave tensors behind that training must not touch.
    with torch.no_grad():
        for turn in range(turns):
            if ranks.any(stop.requested):
                raise Interrupted
            if turn < len(batches):
                batch = collate(rows, batches[turn], pad_id).to(ranks.device)
                part, right = loss(batch)
                nats += float(part.double())
                correct += int(right)
                targets += len(batch.targets)
    sums = ranks.total(nats, targets, correct)
    return Score(nats=sums[0], targets=int(sums[1]), correct=int(sums[2]))


def judge(
    attempt: Attempt,
    loss: SupervisedLoss,
    rows: Split,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Pairs | None = None,
) -> Judgement:
    """Measure a model by the run's suites; all ranks must call this.

    Raises Interrupted, on all ranks, after SIGTERM.
    """
    run, ranks, stop = attempt.run, attempt.ranks, attempt.stop
    suites = run.evaluation.suites
    score = None
    if len(rows) and any(suite.held_out for suite in suites):
        score = held_out_score(
            loss,
            rows,
            ranks,
            stop,
            batch_size=run.hyperparameters.per_device_batch_size,
            pad_id=padding_id(tokenizer),
            pairs=pairs.held_out("test") if pairs else None,
        )
    asked = {suite.name: suite.samples for suite in suites if suite.samples}
    replies: dict[str, tuple[str, ...]] | None = None
    if ranks.is_main:
        with suppress(Interrupted), ranks.accelerator.autocast():
            replies = {n: answers(loss.model, tokenizer, s, stop) for n, s in asked.items()}
    replies = ranks.from_main(replies)
    if replies is None:
        raise Interrupted
    return Judgement(score=score, answers=replies)


def measurements(suites: tuple[Suite, ...], tuned: Judgement, base: Judgement) -> Measured:
    """Name the scores as every held-out suite's metrics; without test rows there are none.

    What is no finite number is left out: a gate on it is inconclusive, which is the truth.
    """
    if tuned.score is None or base.score is None:
        return ()
    base_values = base.score.metrics()
    return tuple(
        Measurement(
            metric=f"{suite.name}/{name}",
            value=decimal(value),
            base_value=decimal(base_values[name]),
        )
        for suite in suites
        if suite.held_out is not None
        for name, value in tuned.score.metrics().items()
        if math.isfinite(value) and math.isfinite(base_values[name])
    )


def sample_answers(
    suites: tuple[Suite, ...], tuned: Judgement, base: Judgement
) -> tuple[SampleAnswer, ...]:
    """Put both models' answers side by side, in the order of the prompts."""
    return tuple(
        SampleAnswer(prompt=prompt, base=before, tuned=after)
        for suite in suites
        if suite.samples
        for prompt, before, after in zip(
            suite.samples.prompts, base.answers[suite.name], tuned.answers[suite.name], strict=True
        )
    )


def decimal(value: float) -> str:
    """Give ten significant digits; differences below that are noise between machines."""
    return f"{value:.10g}"


@contextmanager
def base_behaviour(model: nn.Module) -> Iterator[None]:
    """Switch the adapter off, so that the model answers as the base model does."""
    with model.disable_adapter():  # type: ignore[operator]
        yield


class _StopWhenAsked(StoppingCriteria):
    """Ends generation soon after SIGTERM instead of at its last token."""

    def __init__(self, stop: StopSignal) -> None:
        self._stop = stop

    def __call__(self, input_ids: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        shape = (input_ids.shape[0],)
        return torch.full(shape, self._stop.requested, device=input_ids.device, dtype=torch.bool)


def answers(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, asked: Samples, stop: StopSignal
) -> tuple[str, ...]:
    """Answer the prompts greedily, through the chat template; raise Interrupted after SIGTERM.

    One after the other: padding prompts to a common length can change a greedy answer.
    """
    model.eval()
    replies = []
    for prompt in asked.prompts:
        encoded = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        ).to(model.device)
        with torch.no_grad():
            output = model.generate(  # type: ignore[operator]
                input_ids=encoded["input_ids"],
                attention_mask=encoded["attention_mask"],
                max_new_tokens=asked.max_new_tokens,
                do_sample=False,
                use_cache=True,
                pad_token_id=tokenizer.pad_token_id or tokenizer.eos_token_id,
                stopping_criteria=StoppingCriteriaList([_StopWhenAsked(stop)]),
            )
        stop.check()
        new = output[0, encoded["input_ids"].shape[1] :]
        replies.append(tokenizer.decode(new, skip_special_tokens=True).strip())
    return tuple(replies)
