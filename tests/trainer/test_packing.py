"""Packed rows give the losses and gradients of padded ones, for less work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, MambaConfig, MambaForCausalLM

from tests.trainer.gguf_models import make_model
from tests.trainer.trials import echo_rows, tiny_tokenizer
from tunesmith_api.training import Switch
from tunesmith_trainer.attention import PADDED
from tunesmith_trainer.batches import collate, collate_packed
from tunesmith_trainer.capability import settle
from tunesmith_trainer.data.prepared import Split
from tunesmith_trainer.model import set_gradient_checkpointing
from tunesmith_trainer.objective import SupervisedLoss
from tunesmith_trainer.packing import pack

ROWS = [0, 3, 1, 4]

rows_of_few_words = st.lists(
    st.lists(st.integers(0, 2), min_size=1, max_size=9), min_size=1, max_size=6
)


@given(rows_of_few_words, st.booleans())
@settings(max_examples=150, deadline=None)
def test_packed_rows_can_be_read_back(rows: list[list[int]], share: bool) -> None:
    packed = pack([np.array(row, np.int32) for row in rows], share=share)
    layout = packed.layout
    prefixes = {tuple(row[: n + 1]) for row in rows for n in range(len(row))}
    assert len(packed.tokens) == (len(prefixes) if share else sum(map(len, rows)))
    slots = packed.tokens[layout.sources.numpy()].reshape(layout.rows, layout.longest)
    for row, place, line in zip(rows, packed.places, slots, strict=True):
        assert packed.tokens[place].tolist() == row
        assert line[: len(row)].tolist() == row
        assert layout.position_ids[0, place].tolist() == list(range(len(row)))
    # Each slot that holds a token is named once: as the first of its token, or as shared.
    named = torch.cat([layout.slots, layout.shared_slots]).tolist()
    assert sorted(named) == sorted(
        line * layout.longest + n for line, row in enumerate(rows) for n in range(len(row))
    )
    assert torch.equal(layout.sources[layout.slots], torch.arange(len(packed.tokens)))
    assert torch.equal(layout.sources[layout.shared_slots], layout.shared_sources)


@given(rows_of_few_words, st.booleans())
@settings(max_examples=150, deadline=None)
def test_ragged_slots_are_the_rows_without_padding(rows: list[list[int]], share: bool) -> None:
    packed = pack([np.array(row, np.int32) for row in rows], share=share)
    ragged = packed.layout.ragged
    assert packed.tokens[ragged.sources.numpy()].tolist() == [word for row in rows for word in row]
    assert ragged.starts.diff().tolist() == [len(row) for row in rows]
    assert torch.equal(ragged.sources[ragged.slots], torch.arange(len(packed.tokens)))
    assert torch.equal(ragged.sources[ragged.shared_slots], ragged.shared_sources)


@pytest.fixture
def rows(tmp_path: Path) -> Split:
    return echo_rows(8, 0, tiny_tokenizer(tmp_path / "tiny"))


def gradients(loss: SupervisedLoss, batch: Any) -> tuple[float, int, dict[str, torch.Tensor]]:
    loss.zero_grad()
    nats, correct = loss(batch)
    nats.backward()
    return nats.item(), int(correct), {n: p.grad for n, p in loss.named_parameters()}


FAMILIES = [
    pytest.param("llama", {}, id="Llama"),
    pytest.param("qwen2", {}, id="Qwen2"),
    pytest.param("qwen3", {}, id="Qwen3"),
    pytest.param("mistral", {"sliding_window": 4096}, id="Mistral"),
    pytest.param(
        "gemma", {"hidden_activation": "gelu_pytorch_tanh", "sliding_window": 4096}, id="Gemma"
    ),
    pytest.param("granite", {"logits_scaling": 4.0}, id="Granite, which scales its logits"),
    pytest.param("gpt2", {"n_embd": 96, "n_layer": 2, "n_head": 6}, id="GPT-2"),
]


@pytest.mark.parametrize(("family", "given"), FAMILIES)
@pytest.mark.parametrize("checkpointing", [Switch.DISABLED, Switch.ENABLED])
def test_packed_is_padded(
    tmp_path: Path, rows: Split, family: str, given: dict[str, Any], checkpointing: Switch
) -> None:
    folder = make_model(tmp_path / family, family, **given)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    set_gradient_checkpointing(model, checkpointing, is_full=True)
    loss = SupervisedLoss(model.train())
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    plain = gradients(loss, collate(rows, ROWS, 0))
    settle(loss, rows, 0, (PADDED,))
    assert loss.can_pack
    assert loss.head is not None
    assert loss.training
    whole = gradients(loss, collate_packed(rows, ROWS, 0, share=False))
    shared_batch = collate_packed(rows, ROWS, 0)
    assert shared_batch.computed < sum(rows.lengths[ROWS]) - len(ROWS)
    for found in (whole, gradients(loss, shared_batch)):
        assert found[0] == pytest.approx(plain[0], rel=1e-5)
        assert found[1] == plain[1]
        for name, expected in plain[2].items():
            scale = float(expected.abs().max()) + 1e-6
            assert float((found[2][name] - expected).abs().max()) < 1e-4 * scale, name


def test_what_cannot_be_packed_is_padded(tmp_path: Path, rows: Split) -> None:
    """A state-space model carries its state from row to row."""
    torch.manual_seed(0)
    config = MambaConfig(vocab_size=260, hidden_size=16, state_size=4, num_hidden_layers=1)
    loss = SupervisedLoss(MambaForCausalLM(config))
    settle(loss, rows, 0, (PADDED,))
    assert not loss.can_pack
    assert torch.isfinite(loss(collate(rows, ROWS, 0))[0])


def test_a_window_shorter_than_the_rows_is_padded(tmp_path: Path, rows: Split) -> None:
    folder = make_model(tmp_path / "mistral", "mistral", sliding_window=16)
    loss = SupervisedLoss(AutoModelForCausalLM.from_pretrained(folder))
    settle(loss, rows, 0, (PADDED,))
    assert not loss.can_pack


def test_generating_goes_on_as_before(tmp_path: Path, rows: Split) -> None:
    folder = make_model(tmp_path / "llama")
    model = AutoModelForCausalLM.from_pretrained(folder)
    prompt = torch.from_numpy(rows.row(0)[0][:9].astype(np.int64))[None]
    before = model.generate(prompt, max_new_tokens=8, do_sample=False)
    settle(SupervisedLoss(model), rows, 0, (PADDED,))
    assert torch.equal(model.generate(prompt, max_new_tokens=8, do_sample=False), before)
    assert "tunesmith" not in model.config.to_json_string()


def test_rows_end_where_nothing_more_is_predicted() -> None:
    split = Split(
        np.array([10, 11, 12, 13, 20, 21, 22, 7], np.int32),
        np.array([0, 4, 7, 8], np.int64),
        np.array([0, 1, 0, 0, 0, 1, 1, 1], np.uint8),
    )
    batch = collate_packed(split, [0, 1, 2], pad_id=0)
    assert sorted(batch.input_ids[0].tolist()) == [7, 10, 20, 21]
    assert batch.targets.tolist() == [11, 21, 22]
    assert batch.input_ids[0][batch.positions].tolist() == [10, 20, 21]
    assert (batch.tokens, batch.computed) == (8, 4)
    empty = collate_packed(split, [], pad_id=3)
    assert (empty.input_ids.tolist(), len(empty.targets), empty.tokens) == ([[3]], 0, 0)
