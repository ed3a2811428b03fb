"""Preference losses against formulae written out here, and runs with objective DPO as a whole."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from accelerate import Accelerator
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM

from tests.trainer.conftest import Bucket
from tests.trainer.test_resume import End
from tests.trainer.trials import PodLost, Trial, echo_pairs, lose_pod, tiny_tokenizer
from tunesmith_api.objectives import Dpo, PreferenceLoss
from tunesmith_api.result import Outcome
from tunesmith_api.training import Hyperparameters, Switch
from tunesmith_trainer.attention import PADDED
from tunesmith_trainer.batches import BatchPlan
from tunesmith_trainer.capability import settle
from tunesmith_trainer.curve import Curve
from tunesmith_trainer.data.prepared import Split
from tunesmith_trainer.distributed import Ranks
from tunesmith_trainer.loop import Training, optimizer_step
from tunesmith_trainer.objective import SupervisedLoss
from tunesmith_trainer.optimizers import build_optimizer
from tunesmith_trainer.outcome import Interrupted, UserError
from tunesmith_trainer.preference import (
    PairLoss,
    Pairs,
    ask,
    collate_pairs,
    pair_lengths,
    pair_losses,
)
from tunesmith_trainer.progress import ProgressServer
from tunesmith_trainer.state import TrainState
from tunesmith_trainer.stopping import StopSignal

MakeTrial = Callable[..., Trial]

POLICY = [[-12.0, -9.0], [-3.5, -7.25], [-40.0, -41.5]]
REFERENCE = [[-11.0, -10.0], [-5.0, -5.5], [-42.0, -42.0]]
LENGTHS = [[6, 3], [2, 5], [11, 12]]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def by_hand(pair: list[float], ref: list[float], lengths: list[int], dpo: Dpo) -> float:
    """One pair's loss in the formulae of the papers, which are those of TRL's loss types too."""
    (chosen, rejected), (ref_chosen, ref_rejected), (long, short) = pair, ref, lengths
    beta, eps, kind = float(dpo.beta), float(dpo.label_smoothing), dpo.loss
    h = (chosen - ref_chosen) - (rejected - ref_rejected)
    if kind is PreferenceLoss.IPO:
        h = (chosen - ref_chosen) / long - (rejected - ref_rejected) / short
        loss = (h - 1 / (2 * beta)) ** 2
    elif kind is PreferenceLoss.HINGE:
        loss = max(0.0, 1 - beta * h)
    elif kind is PreferenceLoss.ROBUST:
        loss = -(1 - eps) * math.log(sigmoid(beta * h)) + eps * math.log(sigmoid(-beta * h))
        loss /= 1 - 2 * eps
    elif kind is PreferenceLoss.ORPO:
        # Equations 4 to 7 of the paper: P is the geometric mean of the tokens' probabilities.
        p_chosen, p_rejected = math.exp(chosen / long), math.exp(rejected / short)
        ratio = (p_chosen / (1 - p_chosen)) / (p_rejected / (1 - p_rejected))
        loss = -chosen / long - beta * math.log(sigmoid(math.log(ratio)))
    else:
        x = beta * h
        if kind is PreferenceLoss.CPO:
            x = beta * chosen - beta * rejected
        if kind is PreferenceLoss.SIMPO:
            gamma = beta * float(dpo.gamma_beta_ratio)
            x = beta / long * chosen - beta / short * rejected - gamma
        loss = -(1 - eps) * math.log(sigmoid(x)) - eps * math.log(sigmoid(-x))
    return loss + float(dpo.sft_weight) * -chosen / long


LOSSES = [
    Dpo(),
    Dpo(beta="0.7"),
    Dpo(label_smoothing="0.2"),
    Dpo(loss=PreferenceLoss.ROBUST, label_smoothing="0.2"),
    Dpo(loss=PreferenceLoss.HINGE, beta="0.5"),
    Dpo(loss=PreferenceLoss.IPO, beta="0.5"),
    Dpo(sft_weight="0.3"),
    Dpo(loss=PreferenceLoss.CPO, sft_weight="1"),
    Dpo(loss=PreferenceLoss.CPO, label_smoothing="0.2"),
    Dpo(loss=PreferenceLoss.SIMPO, beta="2.5"),
    Dpo(loss=PreferenceLoss.SIMPO, beta="2", gamma_beta_ratio="0.3", sft_weight="0.5"),
    Dpo(loss=PreferenceLoss.SIMPO, beta="2", label_smoothing="0.1"),
    Dpo(loss=PreferenceLoss.ORPO),
    Dpo(loss=PreferenceLoss.ORPO, beta="0.5"),
]
NOTHING = [[math.nan] * 2] * 3


@pytest.mark.parametrize("dpo", LOSSES, ids=str)
def test_losses_and_gradients_are_those_of_the_papers(dpo: Dpo) -> None:
    policy = torch.tensor(POLICY, dtype=torch.float64, requires_grad=True)
    # What needs no base model must not look at one either.
    reference = torch.tensor(REFERENCE if dpo.loss.needs_base else NOTHING, dtype=torch.float64)
    losses, rewards = pair_losses(policy, reference, torch.tensor(LENGTHS), dpo)
    losses.sum().backward()
    assert policy.grad is not None
    for row, (pair, ref, lengths) in enumerate(zip(POLICY, REFERENCE, LENGTHS, strict=True)):
        assert losses[row].item() == pytest.approx(by_hand(pair, ref, lengths, dpo), rel=1e-5)
        for side in (0, 1):
            above, below = list(pair), list(pair)
            above[side] += 1e-5
            below[side] -= 1e-5
            slope = by_hand(above, ref, lengths, dpo) - by_hand(below, ref, lengths, dpo)
            assert policy.grad[row, side].item() == pytest.approx(slope / 2e-5, rel=1e-5, abs=1e-8)
    ratio = np.subtract(POLICY, REFERENCE) if dpo.loss.needs_base else np.array(POLICY)
    if dpo.loss in {PreferenceLoss.IPO, PreferenceLoss.SIMPO, PreferenceLoss.ORPO}:
        ratio /= LENGTHS
    np.testing.assert_allclose(rewards, float(dpo.beta) * ratio, rtol=1e-5)


@pytest.mark.parametrize("kind", PreferenceLoss)
def test_the_better_answer_is_pushed_up_and_the_worse_one_down(kind: PreferenceLoss) -> None:
    alike = torch.full((1, 2), -6.0, requires_grad=True)
    dpo = Dpo(loss=kind, beta="0.5")
    losses, _ = pair_losses(alike, alike.detach(), torch.tensor([[4, 4]]), dpo)
    losses.sum().backward()
    assert alike.grad is not None
    (chosen, rejected) = alike.grad[0].tolist()
    assert chosen < 0 < rejected


@pytest.mark.parametrize("sure", [0.0, -1e-9, -1e-6, -300.0])
def test_odds_of_what_is_all_but_certain_have_a_gradient_that_is_a_number(sure: float) -> None:
    policy = torch.tensor([[sure, -4.0], [-4.0, sure]], requires_grad=True)
    dpo = Dpo(loss=PreferenceLoss.ORPO)
    losses, _ = pair_losses(policy, torch.tensor(NOTHING[:2]), torch.full((2, 2), 3), dpo)
    losses.sum().backward()
    assert policy.grad is not None
    assert torch.isfinite(losses).all() and torch.isfinite(policy.grad).all()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "tiny"


@pytest.fixture
def rows(folder: Path) -> Split:
    return echo_pairs(8, 0, tiny_tokenizer(folder))


def load(folder: Path, rows: Split, *, packed: bool = True, settled: bool = True) -> SupervisedLoss:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    loss = SupervisedLoss(model)
    if settled:
        settle(loss, rows, 0, (PADDED,) if packed else ())
        assert loss.head is not None
        assert loss.can_pack is packed
    return loss


def plain_log_probability(model: torch.nn.Module, rows: Split, row: int) -> torch.Tensor:
    """One row by itself, all logits: the sum over what is supervised."""
    tokens, marks = (torch.from_numpy(np.array(part)).long() for part in rows.row(row))
    logits = model(input_ids=tokens[None]).logits[0, :-1]
    said = logits.log_softmax(-1).gather(-1, tokens[1:, None])[:, 0]
    return said[marks[1:].bool()].sum()


def gradients(loss: SupervisedLoss) -> dict[str, torch.Tensor]:
    found = {n: p.grad.clone() for n, p in loss.model.named_parameters() if p.grad is not None}
    loss.zero_grad()
    return found


@pytest.mark.parametrize("way", ["packed", "padded", "whole logits"])
def test_loss_and_gradient_are_those_of_rows_alone(folder: Path, rows: Split, way: str) -> None:
    loss = load(folder, rows, packed=way == "packed", settled=way != "whole logits")
    chosen, dpo = np.array([0, 5, 2]), Dpo(beta="0.5", sft_weight="0.1")
    reference = np.random.default_rng(0).normal(-20, 1, (8, 2)).astype(np.float32)
    batch = collate_pairs(rows, chosen, reference, 0, packed=way == "packed")
    total, rewards = PairLoss(loss, dpo)(batch)
    total.backward()
    found = gradients(loss)

    loss.model.set_attn_implementation("sdpa")
    expected, margins = [], []
    for pair in chosen:
        better, worse = (plain_log_probability(loss.model, rows, 2 * pair + i) for i in (0, 1))
        margin = (better - reference[pair][0]) - (worse - reference[pair][1])
        length = int(rows.row(2 * pair)[1][1:].sum())
        expected.append(-torch.nn.functional.logsigmoid(0.5 * margin) - 0.1 * better / length)
        margins.append(0.5 * margin.item())
    torch.stack(expected).sum().backward()
    assert total.item() == pytest.approx(torch.stack(expected).sum().item(), rel=1e-4)
    assert rewards[2].item() == sum(margin > 0 for margin in margins)
    assert rewards[3].item() == pytest.approx(sum(margins), rel=1e-4)
    for name, gradient in gradients(loss).items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-4)


def test_no_pairs_have_a_gradient_of_zero(folder: Path, rows: Split) -> None:
    """A rank whose rows have run out takes part in the exchange of gradients all the same."""
    loss = load(folder, rows)
    none = np.empty(0, np.int64)
    total, _ = PairLoss(loss, Dpo())(collate_pairs(rows, none, None, 0, packed=True))
    total.backward()
    assert total.item() == 0
    assert all(not gradient.any() for gradient in gradients(loss).values())


@pytest.mark.parametrize("packed", [True, False])
def test_accumulation_changes_nothing_but_the_last_bits(
    folder: Path, rows: Split, packed: bool
) -> None:
    def two_steps(size: int) -> list[float]:
        settings = Hyperparameters(per_device_batch_size=size, learning_rate="1e-2")
        model, ranks = load(folder, rows, packed=packed), Ranks(Accelerator(cpu=True))
        pairs, stop = Pairs(Dpo(beta="0.5", sft_weight="0.2")), StopSignal()
        pairs.references["train"] = ask(model, rows, ranks, stop, batch_size=3, pad_id=0)
        training = Training(
            settings=settings,
            ranks=ranks,
            loss=model,
            optimizer=build_optimizer(model, settings),
            train=rows,
            validation=None,
            pad_id=0,
            plan=BatchPlan(pair_lengths(rows), 0, 4),
            total_steps=9,
            checkpoint_every=9,
            state=TrainState(),
            curve=Curve(None),
            pairs=pairs,
        )
        points = [optimizer_step(training, np.arange(4), stop) for _ in range(2)]
        assert points[0].rewards is not None
        # The reference is the model itself before the first step.
        assert float(points[0].rewards.margin) == pytest.approx(0, abs=1e-4)
        return [float(v) for p in points for v in (p.loss, p.gradient_norm, p.rewards.margin)]

    whole = two_steps(4)
    assert two_steps(1) == pytest.approx(whole, rel=1e-3, abs=1e-5)
    assert whole[5] > 0.01


def test_only_what_is_trained_on_is_asked(folder: Path, rows: Split) -> None:
    loss, ranks = load(folder, rows), Ranks(Accelerator(cpu=True))
    some = np.array([1, 6])
    whole = ask(loss, rows, ranks, StopSignal(), batch_size=2, pad_id=0)
    part = ask(loss, rows, ranks, StopSignal(), batch_size=2, pad_id=0, pairs=some)
    np.testing.assert_allclose(part[some], whole[some], rtol=1e-5)
    assert np.isnan(np.delete(part, some, axis=0)).all()


@pytest.fixture
def make_trial(bucket: Bucket, make_run: Any, tmp_path: Path) -> MakeTrial:
    def make(name: str = "u-1", **given: Any) -> Trial:
        settings = {"method": {"lora": {"rank": 4, "alpha": 8, "dropout": "0.1"}}} | given
        hyperparameters = settings.pop("hyperparameters", {})
        sections = {"objective": "DPO", "dpo": {"beta": "0.5"}, **settings}
        return Trial(
            bucket,
            make_run,
            tmp_path,
            name=name,
            hyperparameters={"packing": Switch.AUTO, **hyperparameters},
            sections=sections,
            rows=(24, 4, 12),
            make_rows=echo_pairs,
        )

    return make


FULL = {"method": {"full": {}}, "output": {"uri": "s3://any/", "artifacts": ["Merged"]}}


FREE = [
    pytest.param({"loss": "CPO", "beta": "0.5", "sftWeight": "1"}, id="CPO"),
    pytest.param({"loss": "SimPO", "beta": "2"}, id="SimPO"),
    pytest.param({"loss": "ORPO", "beta": "0.5"}, id="ORPO"),
]


@pytest.mark.parametrize(
    ("dpo", "method"),
    [
        *(pytest.param(*one.values, {}, id=f"{one.id}, LoRA") for one in FREE),
        pytest.param({"loss": "SimPO", "beta": "2"}, FULL, id="SimPO, all weights"),
    ],
)
def test_a_model_learns_without_asking_the_base(
    make_trial: MakeTrial, dpo: dict[str, Any], method: dict[str, Any]
) -> None:
    trial = make_trial(dpo=dpo, hyperparameters={"epochs": "4", "learningRate": "2e-3"}, **method)
    result = trial.go()
    assert result.outcome is Outcome.SUCCEEDED
    found = {m.metric: (float(m.value), float(m.base_value)) for m in result.measurements}
    loss, accuracy, margin, _ = found.values()
    assert loss[0] < loss[1]
    assert accuracy[0] > accuracy[1] + 0.2
    assert margin[0] > margin[1] + 0.5
    first, last = (point.rewards for point in (trial.report().curve[0], trial.report().curve[-1]))
    assert first is not None
    assert last is not None
    assert float(last.margin) > float(first.margin) + 0.1
    assert float(last.accuracy) > 0.7


@pytest.mark.parametrize("dpo", FREE)
def test_a_disturbed_run_without_base_ends_the_same(
    make_trial: MakeTrial, dpo: dict[str, Any], tmp_path: Path
) -> None:
    calm, disturbed = make_trial("calm", dpo=dpo), make_trial("cut", dpo=dpo)
    calm.go()
    with pytest.raises(Interrupted):
        disturbed.go(at_step=3)
    assert references(disturbed, tmp_path) == set()
    with pytest.raises(PodLost):
        disturbed.go(at_step=10, act=lose_pod)
    # The checkpoint of step 8 may have been on its way.
    assert disturbed.go().resumed_from_step in {4, 8}
    assert End.of(disturbed) == End.of(calm)


def test_what_is_compared_with_travels_with_the_checkpoint(
    make_trial: MakeTrial, tmp_path: Path
) -> None:
    trial = make_trial()
    with pytest.raises(Interrupted):
        trial.go(at_step=3)
    assert references(trial, tmp_path) == {"train", "validation", "test"}


def references(trial: Trial, folder: Path) -> set[str]:
    """Give the splits whose pairs the base model was asked about, by the newest checkpoint."""
    keys = trial.bucket.keys(f"runs/{trial.name}/checkpoints/")
    file = folder / "references"
    file.write_bytes(
        trial.bucket.get(next(k for k in keys if k.endswith("/references.safetensors")))
    )
    return set(load_file(file))


@pytest.mark.parametrize("method", [{}, FULL], ids=["LoRA", "all weights"])
def test_a_model_learns_a_preference(make_trial: MakeTrial, method: dict[str, Any]) -> None:
    trial = make_trial(**method, hyperparameters={"epochs": "4", "learningRate": "2e-3"})
    result = trial.go()
    assert result.outcome is Outcome.SUCCEEDED
    found = {m.metric: (float(m.value), float(m.base_value)) for m in result.measurements}
    assert set(found) == {
        "heldout/loss",
        "heldout/preference_accuracy",
        "heldout/preference_margin",
        "heldout/chosen_loss",
    }
    loss, accuracy, margin, _ = found.values()
    # The base model is compared with itself: no margin, and a loss of ln 2.
    assert loss[1] == pytest.approx(math.log(2), abs=1e-6)
    assert loss[0] < 0.5
    assert accuracy[0] > accuracy[1] + 0.2
    assert margin[0] > margin[1] + 0.5

    curve = trial.report().curve
    assert trial.report().dpo == Dpo(beta="0.5")
    first, last = curve[0].rewards, curve[-1].rewards
    assert first is not None
    assert last is not None
    assert abs(float(first.margin)) < 0.2
    assert float(last.margin) > 0.3
    assert float(last.margin) == pytest.approx(float(last.chosen) - float(last.rejected), abs=1e-4)
    assert float(last.accuracy) > 0.7


def test_the_rewards_are_served(make_trial: MakeTrial) -> None:
    trial = make_trial(hyperparameters={"maxSteps": 2})
    trial.go()
    shown = {metric.name for metric in trial.progress.snapshot().metrics}
    server = ProgressServer(trial.progress, 0, "127.0.0.1")
    page = httpx.get(f"http://127.0.0.1:{server.port}/metrics", timeout=60).text
    server.close()
    for name in ("reward_chosen", "reward_rejected", "reward_accuracy", "reward_margin"):
        assert name in shown
        assert f"tunesmith_trainer_{name} " in page


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, id="LoRA, with dropout"),
        pytest.param(FULL, id="all weights"),
        pytest.param(
            {
                "hyperparameters": {
                    "perDeviceBatchSize": 2,
                    "gradientAccumulationSteps": 2,
                    "earlyStopping": {"everySteps": 2, "patience": 9},
                }
            },
            id="with accumulation and looks at the validation loss",
        ),
    ],
)
def test_a_disturbed_run_ends_the_same(make_trial: MakeTrial, settings: dict[str, Any]) -> None:
    calm, disturbed = make_trial("calm", **settings), make_trial("cut", **settings)
    calm.go()
    with pytest.raises(Interrupted):
        disturbed.go(at_step=3)
    with pytest.raises(PodLost):
        disturbed.go(at_step=10, act=lose_pod)
    # The checkpoint of step 8 may have been on its way.
    assert disturbed.go().resumed_from_step in {4, 8}
    assert End.of(disturbed) == End.of(calm)


def test_packed_pairs_train_as_padded_ones(make_trial: MakeTrial) -> None:
    still = {"method": {"lora": {"rank": 4, "alpha": 8, "dropout": "0"}}}
    packed, padded = (
        make_trial(way, **still, hyperparameters={"packing": way, "maxSteps": 4})
        for way in ("Auto", "Disabled")
    )
    packed.go()
    padded.go()
    assert packed.losses() == pytest.approx(padded.losses(), rel=1e-3)


def test_the_smoothing_of_tokens_is_refused(make_trial: MakeTrial) -> None:
    with pytest.raises(UserError, match="labelSmoothing"):
        make_trial(hyperparameters={"labelSmoothing": "0.1"}).go()
