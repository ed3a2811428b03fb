"""Which kernels are chosen; that they compute the same is tried where there is a GPU."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from tests.trainer.gguf_models import make_model
from tests.trainer.trials import echo_rows, tiny_tokenizer
from tunesmith_trainer.attention import PADDED, RAGGED
from tunesmith_trainer.batches import collate_packed
from tunesmith_trainer.capability import settle
from tunesmith_trainer.kernels import apply_liger, attentions, kernels_of
from tunesmith_trainer.objective import SupervisedLoss

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
needs_liger = pytest.mark.skipif(
    importlib.util.find_spec("liger_kernel") is None, reason="needs liger-kernel"
)


def load(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(make_model(folder))


@pytest.mark.parametrize(
    ("device", "capability", "dtype", "expected"),
    [
        pytest.param("cuda", (9, 0), torch.bfloat16, (RAGGED, PADDED), id="Hopper"),
        pytest.param("cuda", (8, 0), torch.float16, (RAGGED, PADDED), id="Ampere in FP16"),
        pytest.param("cuda", (8, 0), torch.float32, (PADDED,), id="32 bits"),
        pytest.param("cuda", (7, 5), torch.float16, (PADDED,), id="Turing"),
        pytest.param("cpu", (0, 0), torch.bfloat16, (PADDED,), id="a CPU"),
    ],
)
def test_the_device_decides_about_attention(
    device: str, capability: tuple[int, int], dtype: torch.dtype, expected: tuple[str, ...]
) -> None:
    assert attentions(device, capability, dtype) == expected


def test_the_report_names_what_was_used(tmp_path: Path) -> None:
    model = load(tmp_path)
    assert apply_liger(model, torch.device("cpu")) is False
    assert kernels_of(model, has_liger=False) == ("SDPA",)
    model.set_attn_implementation(RAGGED)
    assert kernels_of(model, has_liger=True) == ("FlashAttention", "Liger")


def test_without_such_kernels_ragged_rows_are_padded(tmp_path: Path) -> None:
    """In 32 bits the model computes the same under either name."""
    rows = echo_rows(8, 0, tiny_tokenizer(tmp_path / "tiny"))
    loss = SupervisedLoss(load(tmp_path / "model"))
    settle(loss, rows, 0, (RAGGED, PADDED))
    assert loss.can_pack


@pytest.mark.gpu
@needs_gpu
def test_flash_attention_says_what_sdpa_says(tmp_path: Path) -> None:
    rows = echo_rows(8, 0, tiny_tokenizer(tmp_path / "tiny"))
    model = load(tmp_path / "model").to("cuda", torch.bfloat16)
    found = []
    for name in (PADDED, RAGGED):
        loss = SupervisedLoss(model)
        settle(loss, rows, 0, (name,))
        assert loss.can_pack
        loss.zero_grad()
        total, _ = loss(collate_packed(rows, range(8), 0).to(torch.device("cuda")))
        total.backward()
        gradients = [p.grad.float() for p in model.parameters() if p.grad is not None]
        found.append((float(total), gradients))
    assert found[1][0] == pytest.approx(found[0][0], rel=0.02)
    for mine, theirs in zip(found[1][1], found[0][1], strict=True):
        assert (mine - theirs).norm() <= 0.05 * theirs.norm()


@pytest.mark.gpu
@needs_gpu
@needs_liger
def test_liger_says_what_the_model_says(tmp_path: Path) -> None:
    device = torch.device("cuda")
    model = load(tmp_path / "model").to(device, torch.bfloat16)
    ids = torch.arange(5, 37, device=device)[None]
    with torch.no_grad():
        before = model(input_ids=ids).logits.float()
        assert apply_liger(model, device)
        after = model(input_ids=ids).logits.float()
    assert (after - before).norm() <= 0.05 * before.norm()
