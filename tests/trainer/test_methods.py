"""LoRA and its variants, update rules, chunks, smoothing and noise, each against its definition."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bitsandbytes.nn import Params4bit
from bitsandbytes.optim import AdamW8bit
from peft.tuners.lora import LoraLayer
from transformers import AutoModelForCausalLM

from tests.trainer.gguf_models import make_model
from tests.trainer.gpus import on_gpus
from tests.trainer.trials import echo_rows, tiny_tokenizer
from tunesmith_api.training import (
    Hyperparameters,
    Lora,
    LoraVariant,
    Method,
    Optimizer,
    Precision,
    QLora,
)
from tunesmith_trainer import objective
from tunesmith_trainer.adapters import dropout_mask
from tunesmith_trainer.attention import PADDED
from tunesmith_trainer.batches import Batch, collate, collate_packed
from tunesmith_trainer.capability import settle
from tunesmith_trainer.data.prepared import Split
from tunesmith_trainer.export import CPU
from tunesmith_trainer.model import add_adapter, load_trainable
from tunesmith_trainer.noise import add_noise
from tunesmith_trainer.objective import SupervisedLoss
from tunesmith_trainer.optimizers import build_optimizer
from tunesmith_trainer.outcome import UserError
from tunesmith_trainer.snapshot import placed
from tunesmith_trainer.state import host_copy
from tunesmith_trainer.tiny import write_tiny


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_model(tmp_path / "llama")


@pytest.fixture
def rows(tmp_path: Path) -> Split:
    return echo_rows(8, 0, tiny_tokenizer(tmp_path / "tiny"))


@pytest.fixture
def batch(rows: Split) -> Batch:
    return collate(rows, range(4), 0)


def adapted(folder: Path, dtype: torch.dtype = torch.float32, **lora: Any) -> SupervisedLoss:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    model = add_adapter(model, Lora(**{"rank": 4, "alpha": 8, "dropout": "0"} | lora))
    torch.manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    return SupervisedLoss(model.train())


def as_peft_does(loss: SupervisedLoss) -> SupervisedLoss:
    for module in loss.modules():
        vars(module).pop("forward", None)
    return loss


def gradients(loss: SupervisedLoss, batch: Batch) -> tuple[float, dict[str, torch.Tensor]]:
    nats, _ = loss(batch)
    nats.backward()
    return nats.item(), {n: p.grad for n, p in loss.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.05)], ids=["FP32", "BF16"]
)
def test_the_fused_layer_is_pefts(
    folder: Path, batch: Batch, dtype: torch.dtype, tolerance: float
) -> None:
    mine = gradients(adapted(folder, dtype), batch)
    theirs = gradients(as_peft_does(adapted(folder, dtype)), batch)
    assert mine[0] == pytest.approx(theirs[0], rel=tolerance / 10)
    for name, expected in theirs[1].items():
        assert mine[1][name].dtype == expected.dtype
        assert (mine[1][name] - expected).norm() < tolerance * expected.norm(), name


def test_the_fused_layer_follows_its_adapter(folder: Path, batch: Batch) -> None:
    loss = adapted(folder).eval()
    base = SupervisedLoss(AutoModelForCausalLM.from_pretrained(folder)).eval()
    with torch.no_grad():
        on = loss(batch)[0]
        with loss.model.disable_adapter():
            assert loss(batch)[0] == base(batch)[0]
        assert loss(batch)[0] == on
        merged = SupervisedLoss(loss.model.merge_and_unload())
        assert merged(batch)[0].item() == pytest.approx(on.item(), rel=1e-5)


def test_dropout_drops_its_share_and_is_the_generators() -> None:
    x = torch.zeros(300, 401)
    torch.manual_seed(3)
    mask = dropout_mask(x, 0.1)
    assert float(mask.float().mean()) == pytest.approx(0.9, abs=0.005)
    torch.manual_seed(3)
    assert torch.equal(dropout_mask(x, 0.1), mask)


def test_dropout_keeps_the_mean(folder: Path, batch: Batch) -> None:
    """Over many masks the low-rank part is what it is without dropout."""
    layer = adapted(folder, dropout="0.5").model.model.model.layers[0].mlp.up_proj
    x = torch.randn(1, 6, 96)
    with torch.no_grad():
        expected = layer.eval()(x)
        layer.train()
        mean = torch.stack([layer(x) for _ in range(3000)]).mean(0)
        base = layer.base_layer(x)
    assert (mean - expected).norm() < 0.1 * (expected - base).norm()


def test_the_gradient_through_dropout_is_that_of_the_loss(folder: Path, batch: Batch) -> None:
    """By a difference quotient, with the same mask on both sides."""
    loss = adapted(folder, dropout="0.3")

    def at(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return loss(batch)[0]

    at(5).backward()
    weight = next(p for n, p in loss.named_parameters() if "layers.0" in n and "q_proj.lora_A" in n)
    assert weight.grad is not None
    direction = weight.grad / weight.grad.norm()
    with torch.no_grad():
        weight += 1e-2 * direction
        above = at(5).item()
        weight -= 2e-2 * direction
        below = at(5).item()
    assert (above - below) / 2e-2 == pytest.approx(weight.grad.norm().item(), rel=0.02)


@pytest.mark.parametrize("variant", LoraVariant)
def test_variants_learn_and_merge(folder: Path, batch: Batch, variant: LoraVariant) -> None:
    loss = adapted(folder, variant=variant)
    optimizer = build_optimizer(loss, Hyperparameters(learning_rate="1e-2"))
    before = loss(batch)[0].item()
    for _ in range(6):
        loss(batch)[0].backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        after = loss.eval()(batch)[0].item()
        assert after < 0.9 * before
        merged = SupervisedLoss(loss.model.merge_and_unload(safe_merge=True)).eval()
        assert merged(batch)[0].item() == pytest.approx(after, rel=1e-4)


def test_an_evaluation_leaves_the_gradients_of_4_bits_alone(tmp_path: Path, batch: Batch) -> None:
    write_tiny(tmp_path / "m")
    method = Method(qlora=QLora(rank=4, dropout="0"))

    def found(*, evaluated: bool) -> dict[str, torch.Tensor]:
        loss = SupervisedLoss(load_trainable(tmp_path / "m", method, Precision.FP32, 0, CPU))
        torch.manual_seed(1)
        with torch.no_grad():
            for name, weight in loss.named_parameters():
                if "lora_B" in name:
                    weight.normal_(std=0.1)
            if evaluated:
                loss.eval()(batch)
        return gradients(loss.train(), batch)[1]

    expected = found(evaluated=False)
    for name, gradient in found(evaluated=True).items():
        assert torch.equal(gradient, expected[name]), name


def test_rank_stabilized_scale(folder: Path) -> None:
    model = adapted(folder, rank=16, alpha=8, variant=LoraVariant.RSLORA).model
    layers = [m for m in model.modules() if isinstance(m, LoraLayer)]
    scales = {layer.scaling["default"] for layer in layers}
    assert scales == {8 / math.sqrt(16)}


def optimizer_of(loss: SupervisedLoss, rule: Optimizer) -> torch.optim.Optimizer:
    if rule is Optimizer.ADAMW_8BIT and next(loss.parameters()).device.type == "cpu":
        # It is refused there, but its state is of the same make.
        return AdamW8bit([p for p in loss.parameters() if p.requires_grad], lr=1e-2)
    return build_optimizer(loss, Hyperparameters(learning_rate="1e-2", optimizer=rule))


def through_a_file(optimizer: torch.optim.Optimizer, file: Path) -> dict[str, Any]:
    torch.save(host_copy(optimizer.state_dict()), file)
    return torch.load(file, map_location="cpu", weights_only=True)


@pytest.mark.parametrize(
    ("rule", "device"),
    [
        *(pytest.param(rule, "cpu", id=f"{rule} on a CPU") for rule in Optimizer),
        *(on_gpus(rule, "cuda", id=f"{rule} on a GPU") for rule in Optimizer),
    ],
)
def test_update_rules_go_on_from_their_state(
    folder: Path, batch: Batch, tmp_path: Path, rule: Optimizer, device: str
) -> None:
    batch = batch.to(torch.device(device))

    def steps(loss: SupervisedLoss, optimizer: torch.optim.Optimizer, count: int) -> float:
        nats = torch.zeros(())
        for _ in range(count):
            nats = loss(batch)[0]
            nats.backward()
            optimizer.step()
            optimizer.zero_grad()
        return nats.item()

    # Smaller matrices keep a state of 32 bits.
    loss, other = (adapted(folder, rank=64).to(device) for _ in range(2))
    optimizer = optimizer_of(loss, rule)
    first = steps(loss, optimizer, 2)
    other.load_state_dict(loss.state_dict())
    again = optimizer_of(other, rule)
    again.load_state_dict(placed(through_a_file(optimizer, tmp_path / "state"), again))
    last = steps(loss, optimizer, 2)
    assert last < first
    assert steps(other, again, 2) == (last if device == "cpu" else pytest.approx(last, rel=1e-3))
    kept = [v for state in again.state.values() for v in state.values() if torch.is_tensor(v)]
    assert any(v.dtype == torch.uint8 for v in kept) is (rule is Optimizer.ADAMW_8BIT)


@pytest.mark.parametrize(
    ("device", "precision", "rule"),
    [
        pytest.param("cpu", Precision.FP32, Optimizer.ADAMW, id="CPU"),
        on_gpus("cuda", Precision.BF16, Optimizer.ADAMW_8BIT),
    ],
)
def test_an_adapter_on_4_bit_weights_learns(
    folder: Path, batch: Batch, device: str, precision: Precision, rule: Optimizer
) -> None:
    method, place = Method(qlora=QLora(rank=64, dropout="0")), torch.device(device)
    loss = SupervisedLoss(load_trainable(folder, method, precision, 0, place).train())
    frozen = {n: p for n, p in loss.named_parameters() if isinstance(p, Params4bit)}
    assert frozen
    before = {name: weight.data.clone() for name, weight in frozen.items()}
    optimizer = build_optimizer(loss, Hyperparameters(learning_rate="1e-2", optimizer=rule))
    losses = []
    for _ in range(8):
        with torch.autocast(device, torch.bfloat16, enabled=precision is Precision.BF16):
            nats, _ = loss(batch.to(place))
        nats.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(nats.item())
    assert losses[-1] < 0.9 * losses[0]
    assert all(torch.equal(weight.data, before[name]) for name, weight in frozen.items())


@pytest.mark.parametrize(
    ("given", "kind", "is_nested"),
    [
        pytest.param({}, "nf4", True, id="as by default"),
        pytest.param({"double_quantization": False}, "nf4", False, id="constants as they are"),
        pytest.param({"quantization": "FP4"}, "fp4", True, id="FP4"),
    ],
)
def test_4_bits_are_of_the_kind_asked_for(
    folder: Path, given: dict[str, Any], kind: str, is_nested: bool
) -> None:
    method = Method(qlora=QLora(rank=4, **given))
    model = load_trainable(folder, method, Precision.FP32, 0, CPU)
    states = [p.quant_state for p in model.parameters() if isinstance(p, Params4bit)]
    assert states
    assert {(state.quant_type, state.nested) for state in states} == {(kind, is_nested)}


def test_matrices_decay_and_norms_do_not(folder: Path) -> None:
    loss = SupervisedLoss(AutoModelForCausalLM.from_pretrained(folder))
    rules = Hyperparameters(learning_rate="0.1", weight_decay="0.5")
    optimizer = build_optimizer(loss, rules)
    assert optimizer.defaults["fused"]
    before = {name: weight.detach().clone() for name, weight in loss.named_parameters()}
    for weight in loss.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    kinds = set()
    for name, weight in loss.named_parameters():
        kinds.add(weight.ndim)
        # Decoupled: by the learning rate times the decay, whatever the gradient is.
        share = 1 - 0.1 * 0.5 if weight.ndim >= 2 else 1.0
        torch.testing.assert_close(weight, share * before[name], msg=name)
    assert kinds == {1, 2}


def test_8_bit_state_needs_a_gpu(folder: Path) -> None:
    with pytest.raises(UserError, match="AdamW8bit needs a GPU"):
        build_optimizer(adapted(folder), Hyperparameters(optimizer=Optimizer.ADAMW_8BIT))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("is_full", [True, False])
def test_chunks_add_up(
    folder: Path,
    rows: Split,
    batch: Batch,
    smoothing: float,
    is_full: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder).train()
    loss = SupervisedLoss(model) if is_full else adapted(folder)
    loss.label_smoothing = smoothing
    whole = gradients(loss, batch)
    whole = whole[0], {name: g.clone() for name, g in whole[1].items()}
    loss.zero_grad()
    settle(loss, rows, 0, ())
    monkeypatch.setitem(objective.CHUNK_VALUES, "cpu", 260 * 7)
    parts = gradients(loss, batch)
    assert parts[0] == pytest.approx(whole[0], rel=1e-6)
    for name, expected in whole[1].items():
        assert (parts[1][name] - expected).norm() <= 1e-5 * expected.norm() + 1e-7, name


@pytest.mark.parametrize("way", ["forward", "by_token", "token_nats"])
def test_logits_are_never_whole(
    folder: Path, rows: Split, batch: Batch, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither in training, nor where rows are scored, nor for losses of pairs."""
    loss = adapted(folder)
    settle(loss, rows, 0, ())
    monkeypatch.setitem(objective.CHUNK_VALUES, "cpu", 260 * 7)
    at_once: list[int] = []
    output = loss.model.get_output_embeddings()
    output.register_forward_hook(lambda _, __, logits: at_once.append(logits[..., 0].numel()))
    getattr(loss, way)(batch)
    assert sum(at_once) == len(batch.targets) > 20
    assert max(at_once) <= 7


def test_smoothing_is_for_training_only(folder: Path, batch: Batch) -> None:
    loss = adapted(folder)
    plain = loss(batch)[0].item()
    loss.label_smoothing = 0.2
    logits = loss.logits(batch).log_softmax(-1)
    spread = -logits.mean(-1).sum().item()
    assert loss(batch)[0].item() == pytest.approx(0.8 * plain + 0.2 * spread, rel=1e-5)
    assert loss.eval()(batch)[0].item() == pytest.approx(plain, rel=1e-6)


def test_noise_has_the_strength_of_its_row_and_stays_in_training(folder: Path, rows: Split) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    embeddings = model.get_input_embeddings()
    seen: list[torch.Tensor] = []
    add_noise(model, 5.0)
    embeddings.register_forward_hook(lambda _, __, output: seen.append(output.detach()))
    loss = SupervisedLoss(model)
    settle(loss, rows, 0, (PADDED,))
    seen.clear()
    batch = collate_packed(rows, [0, 1], 0, share=False)
    loss.eval()(batch)
    loss.train()(batch)
    quiet, noisy = (states[0].numpy() for states in seen)
    assert batch.packed is not None
    noise = noisy - quiet
    for length in np.unique(batch.packed.row_lengths()):
        of_row = noise[batch.packed.row_lengths().numpy() == length]
        limit = 5 / math.sqrt(length * noise.shape[1])
        assert 0.98 * limit < np.abs(of_row).max() <= limit * 1.0001
