"""The loss, its gradient and the scores are those of plain transformers, for less work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from transformers import AutoModelForCausalLM

from tests.trainer.trials import echo_rows, tiny_tokenizer
from tunesmith_api.training import Hyperparameters
from tunesmith_trainer import objective
from tunesmith_trainer.batches import BatchPlan, collate
from tunesmith_trainer.capability import head_of
from tunesmith_trainer.curve import Curve
from tunesmith_trainer.data.prepared import Split
from tunesmith_trainer.distributed import Ranks
from tunesmith_trainer.evaluation import held_out_score
from tunesmith_trainer.loop import Training, optimizer_step
from tunesmith_trainer.objective import SupervisedLoss
from tunesmith_trainer.optimizers import build_optimizer
from tunesmith_trainer.state import TrainState
from tunesmith_trainer.stopping import StopSignal


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "tiny"


@pytest.fixture
def rows(folder: Path) -> Split:
    return echo_rows(8, 0, tiny_tokenizer(folder))


@pytest.fixture
def loss(folder: Path, rows: Split) -> SupervisedLoss:
    return SupervisedLoss(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32))


def plain_sum(model: torch.nn.Module, rows: Split, row: int) -> tuple[torch.Tensor, int, int]:
    """One row, all logits, nothing padded: nats, targets, correct."""
    tokens, marks = (torch.from_numpy(np.array(part)).long() for part in rows.row(row))
    logits = model(input_ids=tokens[None], attention_mask=torch.ones_like(tokens)[None]).logits[0]
    wanted = marks[1:].bool()
    said, expected = logits[:-1][wanted], tokens[1:][wanted]
    nats = torch.nn.functional.cross_entropy(said, expected, reduction="sum")
    return nats, int(wanted.sum()), int((said.argmax(-1) == expected).sum())


def test_a_padded_batch_gives_the_sum_and_gradient_of_its_rows(
    loss: SupervisedLoss, rows: Split
) -> None:
    nats, correct = loss(collate(rows, [0, 1, 2], pad_id=0))
    nats.backward()
    found = {name: p.grad.clone() for name, p in loss.model.named_parameters()}
    loss.zero_grad()
    parts = [plain_sum(loss.model, rows, row) for row in (0, 1, 2)]
    expected = torch.stack([part[0] for part in parts]).sum()
    expected.backward()
    assert nats.item() == pytest.approx(expected.item(), rel=1e-6)
    assert int(correct) == sum(part[2] for part in parts)
    for name, parameter in loss.model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("is_chunked", [False, True], ids=["whole logits", "chunks of seven"])
def test_scores_are_those_of_each_row(
    loss: SupervisedLoss, rows: Split, is_chunked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks, stop = Ranks(Accelerator(cpu=True)), StopSignal()
    parts = [plain_sum(loss.model, rows, row) for row in range(len(rows))]
    targets = sum(part[1] for part in parts)
    if is_chunked:
        loss.head = head_of(loss.model)
        monkeypatch.setitem(objective.CHUNK_VALUES, "cpu", 7 * loss.model.config.vocab_size)
    for size in (1, 3, 8):
        score = held_out_score(loss, rows, ranks, stop, batch_size=size, pad_id=0)
        assert score.nats == pytest.approx([part[0].item() for part in parts], rel=1e-5)
        assert score.targets.tolist() == [part[1] for part in parts]
        assert score.correct.tolist() == [part[2] for part in parts]
        assert score.loss == pytest.approx(sum(p[0].item() for p in parts) / targets, rel=1e-6)
        values = {one.metric: one.value() for one in score.observed("s")}
        assert values["s/token_accuracy"] == sum(p[2] for p in parts) / targets
        assert values["s/perplexity"] == pytest.approx(np.exp(score.loss))


def test_scoring_touches_no_generator_of_chance(loss: SupervisedLoss, rows: Split) -> None:
    before = torch.get_rng_state()
    held_out_score(loss, rows, Ranks(Accelerator(cpu=True)), StopSignal(), batch_size=4, pad_id=0)
    assert torch.equal(torch.get_rng_state(), before)


def training_of(folder: Path, rows: Split, **given: Any) -> Training:
    """Give a training of all weights before its first step, of which each takes eight rows."""
    settings = Hyperparameters(**{"per_device_batch_size": 8, "learning_rate": "1e-2"} | given)
    model = SupervisedLoss(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32))
    return Training(
        settings=settings,
        ranks=Ranks(Accelerator(cpu=True)),
        loss=model,
        optimizer=build_optimizer(model, settings),
        train=rows,
        validation=None,
        pad_id=0,
        plan=BatchPlan(rows.lengths, 0, 8),
        total_steps=9,
        checkpoint_every=9,
        state=TrainState(),
        curve=Curve(None),
    )


@pytest.mark.parametrize("micro", [1, 2, 3, 8])
def test_micro_batches_change_nothing_but_the_last_bits(
    folder: Path, rows: Split, micro: int
) -> None:
    """Rows have different numbers of supervised tokens, so a mean of means would differ."""

    def two_steps(size: int) -> list[float]:
        training = training_of(folder, rows, per_device_batch_size=size)
        points = [optimizer_step(training, np.arange(8), StopSignal()) for _ in range(2)]
        return [float(v) for p in points for v in (p.loss, p.gradient_norm)]

    assert two_steps(micro) == pytest.approx(two_steps(8), rel=1e-4)


@pytest.mark.parametrize("limit", ["0.01", "0"], ids=["clipped", "0: not clipped"])
def test_gradients_are_clipped_to_their_norm(folder: Path, rows: Split, limit: str) -> None:
    training = training_of(folder, rows, max_gradient_norm=limit)
    point = optimizer_step(training, np.arange(8), StopSignal())
    whole = float(point.gradient_norm)
    assert whole > 0.1, "what is said is the norm before"
    # After one step AdamW's mean is a tenth of the gradient that it was given.
    means = [state["exp_avg"].square().sum() for state in training.optimizer.state.values()]
    given = 10 * float(torch.stack(means).sum().sqrt())
    assert given == pytest.approx(float(limit) or whole, rel=1e-3)
