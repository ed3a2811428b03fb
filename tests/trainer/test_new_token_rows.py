"""Rows of new tokens in a model: how they begin, what they learn, what they need."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.trainable_tokens.layer import TrainableTokensLayer
from transformers import AutoModelForCausalLM

from tests.trainer.gguf_models import make_model
from tests.trainer.token_models import (
    FIRST,
    dataset,
    settings_of,
    tagged_rows,
    tokens_of,
)
from tunesmith_api.training import Hyperparameters, Lora, LoraVariant, Method
from tunesmith_trainer.batches import Batch, collate
from tunesmith_trainer.capability import settle
from tunesmith_trainer.data.prepared import Split
from tunesmith_trainer.data.templates import load_tokenizer
from tunesmith_trainer.embeddings import embedding_rows
from tunesmith_trainer.export import CPU, merge
from tunesmith_trainer.memory import Workload, estimate, read_shape, with_tokens
from tunesmith_trainer.model import add_adapter, load_base
from tunesmith_trainer.objective import SupervisedLoss
from tunesmith_trainer.optimizers import build_optimizer
from tunesmith_trainer.outcome import UserError

pytestmark = pytest.mark.timeout(600)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "apart"])
@pytest.mark.parametrize(
    ("size", "rows"),
    [
        pytest.param(FIRST, 263, id="no room"),
        pytest.param(262, 263, id="too little"),
        pytest.param(320, 320, id="padded"),
    ],
)
def test_new_rows_begin_as_the_mean_of_their_pieces(
    tmp_path: Path, tied: bool, size: int, rows: int
) -> None:
    folder = make_model(tmp_path / "m", **settings_of(tied=tied, size=size))
    tokens = tokens_of(folder)
    base = AutoModelForCausalLM.from_pretrained(folder)
    model = load_base(folder, torch.float32, CPU, tokens=tokens)
    assert embedding_rows(model) == rows == model.config.vocab_size
    for layer in ("get_input_embeddings", "get_output_embeddings"):
        old, new = getattr(base, layer)().weight, getattr(model, layer)().weight
        assert len(new) == rows
        others = [n for n in range(size) if n not in tokens.ids]
        assert torch.equal(new[others], old[others])
        for number, pieces in zip(tokens.ids, tokens.pieces, strict=True):
            assert torch.allclose(new[number], old[list(pieces)].mean(0), atol=1e-7)
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) is tied


FAMILIES = [
    pytest.param("llama", settings_of(tied=True), id="tied"),
    pytest.param("llama", settings_of(tied=False), id="apart"),
    pytest.param("llama", settings_of(tied=True, size=320), id="padded"),
    pytest.param("gemma3_text", {}, id="scaled embeddings"),
    pytest.param("gpt2", {"resid_pdrop": 0, "embd_pdrop": 0, "attn_pdrop": 0}, id="GPT-2"),
]


def adapted(folder: Path, dtype: torch.dtype = torch.float32, **lora: Any) -> SupervisedLoss:
    tokens = tokens_of(folder)
    model = load_base(folder, dtype, CPU, tokens=tokens)
    torch.manual_seed(0)
    adapter = Lora.model_validate({"rank": 4, "alpha": 8, "dropout": "0"} | lora)
    return SupervisedLoss(add_adapter(model, adapter, tokens).train())


def rows_in(folder: Path) -> Split:
    return tagged_rows(6, 3, load_tokenizer(folder, dataset()))


def batch_of(folder: Path) -> Batch:
    return collate(rows_in(folder), range(6), 0)


def trained(loss: SupervisedLoss) -> dict[str, torch.Tensor]:
    return {n: p for n, p in loss.named_parameters() if p.requires_grad}


def gradients(loss: SupervisedLoss, batch: Batch) -> tuple[float, dict[str, torch.Tensor]]:
    nats, _ = loss(batch)
    nats.backward()
    return nats.item(), {n: p.grad for n, p in trained(loss).items() if p.grad is not None}


@pytest.mark.parametrize("chunked", [False, True], ids=["whole", "chunked"])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.05)], ids=["FP32", "BF16"]
)
@pytest.mark.parametrize(("family", "settings"), FAMILIES)
def test_trained_rows_say_and_learn_what_pefts_do(
    tmp_path: Path,
    family: str,
    settings: dict[str, Any],
    dtype: torch.dtype,
    tolerance: float,
    chunked: bool,
) -> None:
    folder = make_model(tmp_path / "m", family, **settings)
    mine, theirs = adapted(folder, dtype), adapted(folder, dtype)
    layers = [m for m in theirs.modules() if isinstance(m, TrainableTokensLayer)]
    assert layers
    for layer in layers:
        vars(layer).pop("forward", None)
    for loss in (mine, theirs):
        with torch.no_grad():
            for number, (name, weight) in enumerate(trained(loss).items()):
                torch.manual_seed(number)
                if "lora_B" in name or "tokens_delta" in name:
                    weight.normal_(std=0.1)
        if chunked:
            settle(loss, rows_in(folder), 0, ())
            assert loss.head is not None
    nats, found = gradients(mine, batch_of(folder))
    wanted, expected = gradients(theirs, batch_of(folder))
    assert nats == pytest.approx(wanted, rel=tolerance / 10)
    assert found.keys() == expected.keys() == trained(mine).keys()
    for name, gradient in expected.items():
        assert gradient.norm() > 0
        assert found[name].dtype == gradient.dtype == torch.float32
        assert (found[name] - gradient).norm() < tolerance * gradient.norm(), name


@pytest.mark.parametrize(("family", "settings"), FAMILIES)
def test_the_estimate_of_memory_counts_them(
    tmp_path: Path, family: str, settings: dict[str, Any]
) -> None:
    folder = make_model(tmp_path / "m", family, **settings)
    tokens, method = tokens_of(folder), Method(lora=Lora(rank=4))
    shape = with_tokens(read_shape(folder), tokens.rows, len(tokens.ids))
    model = load_base(folder, torch.float32, CPU, tokens=tokens)
    assert shape.parameters == sum(p.numel() for p in model.parameters())
    assert shape.vocabulary == embedding_rows(model)
    weights = sum(p.numel() for p in trained(adapted(folder)).values())
    # Weight, gradient and two moments.
    work = Workload(1, 8, width=4, checkpointing=False)
    assert estimate(shape, method, work).trained == 16 * weights


@pytest.mark.parametrize("variant", LoraVariant)
@pytest.mark.parametrize(("family", "settings"), FAMILIES)
def test_adapters_train_new_rows_and_leave_the_old_ones(
    tmp_path: Path, family: str, settings: dict[str, Any], variant: LoraVariant
) -> None:
    folder = make_model(tmp_path / "m", family, **settings)
    tokens = tokens_of(folder)
    loss = adapted(folder, variant=variant)
    rules = Hyperparameters(learning_rate="1e-2", weight_decay="0.5")
    optimizer, batch = build_optimizer(loss, rules), batch_of(folder)
    with torch.no_grad(), loss.model.disable_adapter():
        before = loss(batch)[0].item()
    for _ in range(8):
        loss(batch)[0].backward()
        optimizer.step()
        optimizer.zero_grad()
    loss.eval()
    with torch.no_grad():
        after = loss(batch)[0].item()
        assert after < 0.8 * before
        with loss.model.disable_adapter():
            assert loss(batch)[0].item() == before
    loss.model.save_pretrained(tmp_path / "a", save_embedding_layers=False)
    merged = merge(folder, tmp_path / "a")
    with torch.no_grad():
        assert SupervisedLoss(merged).eval()(batch)[0].item() == pytest.approx(after, rel=1e-4)
    start = load_base(folder, torch.float32, CPU, tokens=tokens)
    note, order, _ = tokens.ids
    for layer in ("get_input_embeddings", "get_output_embeddings"):
        old, new = getattr(start, layer)().weight, getattr(merged, layer)().weight
        others = [n for n in range(len(old)) if n not in tokens.ids]
        assert torch.equal(new[others], old[others])
        assert (new[order] - old[order]).abs().max() > 1e-3
    # It is in no row: its embedding has no gradient, and weight decay leaves it alone.
    embedded = (start.get_input_embeddings().weight, merged.get_input_embeddings().weight)
    if settings.get("tie_word_embeddings") is False:
        assert torch.equal(embedded[0][note], embedded[1][note])


def test_biases_of_the_output_layer_are_refused(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "m", "phi", partial_rotary_factor=0.5, num_key_value_heads=6)
    with pytest.raises(UserError, match=r"biases.*method\.full"):
        adapted(folder)


def test_adapters_of_the_embeddings_themselves_are_refused(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "m", **settings_of(tied=False))
    with pytest.raises(UserError, match=r"targetModules names lm_head"):
        adapted(folder, targetModules=["q_proj", "lm_head"])
