"""Whole runs with new tokens: all forms have them, disturbed or not, in parts or whole."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader, TokenType
from peft import AutoPeftModelForCausalLM, PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.trainer.conftest import Bucket
from tests.trainer.test_ranks import go_as_two
from tests.trainer.token_models import (
    ADDED,
    FIRST,
    dataset,
    tagged_rows,
    tokens_of,
)
from tests.trainer.trials import Trial, split_of
from tunesmith_api.result import Outcome, UserErrorReason
from tunesmith_trainer.batches import collate
from tunesmith_trainer.data.prepared import Split
from tunesmith_trainer.data.templates import load_tokenizer
from tunesmith_trainer.export import CPU
from tunesmith_trainer.model import load_base
from tunesmith_trainer.objective import SupervisedLoss
from tunesmith_trainer.outcome import Interrupted, UserError
from tunesmith_trainer.tiny import write_tiny

pytestmark = pytest.mark.timeout(600)


MakeTrial = Callable[..., Trial]


@pytest.fixture
def make_trial(bucket: Bucket, make_run: Any, tmp_path: Path) -> MakeTrial:
    def make(added: dict[str, Any] = ADDED, **settings: Any) -> Trial:
        sections = settings.pop("sections", {})
        sections = {"dataset": {"train": {"uri": "s3://any/x.jsonl"}} | added} | sections
        given = {"make_rows": tagged_rows, "sections": sections} | settings
        return Trial(bucket, make_run, tmp_path, **given)

    return make


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    write_tiny(tmp_path / "m")
    return tmp_path / "m"


def loss_on_new_tokens(model: Any, rows: Split) -> float:
    """Give the mean nats of the new tokens in answers."""
    batch = collate(rows, range(len(rows)), 0)
    nats, _ = SupervisedLoss(model).eval().by_token(batch)
    return nats[batch.targets >= FIRST].mean().item()


@pytest.mark.parametrize(
    "method",
    [
        pytest.param({"lora": {"rank": 4, "alpha": 8, "dropout": "0.1"}}, id="LoRA"),
        pytest.param({"lora": {"rank": 4, "alpha": 8, "variant": "DoRA"}}, id="DoRA"),
        pytest.param({"qlora": {"rank": 4, "alpha": 8}}, id="QLoRA"),
        pytest.param({"full": {}}, id="all weights"),
    ],
)
def test_a_run_teaches_new_tokens_and_all_forms_have_them(
    make_trial: MakeTrial, tiny: Path, method: dict[str, Any]
) -> None:
    forms = ["Merged", "GGUF", "Ollama"] + (["Adapter"] if "full" not in method else [])
    output = {"output": {"uri": "s3://any/", "artifacts": forms}}
    settings = {"epochs": "10", "learningRate": "2e-2" if "full" not in method else "5e-3"}
    trial = make_trial(sections={"method": method} | output, hyperparameters=settings)
    result = trial.go()
    assert result.outcome is Outcome.SUCCEEDED
    added = {form: 3 if form == "Adapter" else 0 for form in forms}
    assert {a.name: a.added_tokens for a in result.artifacts} == added
    report = trial.report()
    assert [(t.text, t.id, t.special) for t in report.new_tokens] == [
        ("<|note|>", 260, True),
        ("<order>", 261, False),
        ("Zürich", 262, False),
    ]
    assert report.new_tokens[0].uses == 0 < report.new_tokens[1].uses
    assert report.model.vocabulary_size == 263
    held_out = {m.metric: m for m in result.measurements}["heldout/loss"]
    assert float(held_out.value) < 0.8 * float(held_out.base_value)

    tokens = tokens_of(tiny)
    test = trial.data.test
    merged = trial.fetch("merged")
    learned = AutoModelForCausalLM.from_pretrained(merged)
    base = load_base(tiny, torch.float32, CPU, tokens=tokens)
    assert loss_on_new_tokens(learned, test) < 0.4 * loss_on_new_tokens(base, test)
    old, new = base.get_input_embeddings().weight, learned.get_input_embeddings().weight
    assert torch.equal(old[:FIRST], new[:FIRST]) is ("full" not in method)
    assert not torch.equal(old[261], new[261])

    check_gguf(trial.fetch("gguf") / "model-Q8_0.gguf", merged)
    assert "<order>" in AutoTokenizer.from_pretrained(merged).get_vocab()
    card = (merged / "README.md").read_text()
    assert "<code>&lt;order&gt;</code>: 261, " in card
    assert "<code>&lt;|note|&gt;</code>: 260, special, 0 times" in card
    assert "resize_token_embeddings" not in card
    page = trial.storage.get_bytes(f"{trial.run_uri}report.html").decode()
    assert "<code>&lt;order&gt;</code>" in page
    if "full" not in method:
        check_adapter(trial.fetch("adapter"), tiny, learned, test)


def check_gguf(path: Path, merged: Path) -> None:
    """The file, as gguf reads it, has the tokens and as many rows."""
    reader = GGUFReader(path)
    texts = reader.fields["tokenizer.ggml.tokens"].contents()
    kinds = reader.fields["tokenizer.ggml.token_type"].contents()
    assert texts[260:] == ["<|note|>", "<order>", "Zürich"]
    assert kinds[260:] == [TokenType.CONTROL, TokenType.USER_DEFINED, TokenType.USER_DEFINED]
    (rows,) = (t for t in reader.tensors if t.name == "token_embd.weight")
    assert rows.shape.tolist() == [128, 263]
    weights = load_file(merged / "model.safetensors")["model.embed_tokens.weight"]
    assert len(weights) == 263


def check_adapter(folder: Path, base: Path, learned: Any, rows: Split) -> None:
    """Plain peft puts it onto the base model, by what the card says and by itself."""
    names = load_file(folder / "adapter_model.safetensors").keys()
    assert [n for n in names if "embed" in n or "lm_head" in n] == [
        "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"
    ]
    assert (
        "base.resize_token_embeddings(263, mean_resizing=False)"
        in (folder / "README.md").read_text()
    )
    model = AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(263, mean_resizing=False)
    batch = collate(rows, range(len(rows)), 0)
    expected = SupervisedLoss(learned).eval().logits(batch)
    with torch.no_grad():
        found = SupervisedLoss(PeftModel.from_pretrained(model, folder)).eval().logits(batch)
        assert torch.allclose(found, expected, atol=1e-3)
        config = folder / "adapter_config.json"
        config.write_text(config.read_text().replace("builtin://tiny", str(base)))
        alone = AutoPeftModelForCausalLM.from_pretrained(folder)
        assert torch.allclose(SupervisedLoss(alone).eval().logits(batch), expected, atol=1e-3)


def be_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("method", [{"lora": {"rank": 4}}, {"full": {}}], ids=["LoRA", "full"])
def test_a_run_that_is_killed_and_stopped_ends_with_the_same_weights(
    make_trial: MakeTrial, monkeypatch: pytest.MonkeyPatch, method: dict[str, Any]
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    output = {"output": {"uri": "s3://any/", "artifacts": ["Merged"]}}
    calm, cut = (
        make_trial(name=name, sections={"method": method} | output) for name in ("calm", "cut")
    )
    calm.go()
    child = multiprocessing.get_context("fork").Process(
        target=cut.go, kwargs={"at_step": 6, "act": be_killed}
    )
    child.start()
    child.join(200)
    assert child.exitcode == -signal.SIGKILL
    cut.attempts += 1
    with pytest.raises(Interrupted):
        cut.go(at_step=9)
    assert cut.go().resumed_from_step == 9
    assert cut.curve() == calm.curve()
    assert cut.artifact("merged") == calm.artifact("merged")
    assert cut.report().measurements == calm.report().measurements


def test_checkpoints_of_other_tokens_are_refused(make_trial: MakeTrial) -> None:
    trial = make_trial()
    with pytest.raises(Interrupted):
        trial.go(at_step=4)
    trial.sections["dataset"] = trial.sections["dataset"] | {"addTokens": ["<order>", "Zurich"]}
    with pytest.raises(UserError, match=r"differs in dataset\.addTokens") as refused:
        trial.go()
    assert refused.value.reason == UserErrorReason.CHECKPOINT_MISMATCH


@pytest.mark.parametrize("form", ["Adapter", "Merged"])
def test_only_models_with_the_same_tokens_are_compared(make_trial: MakeTrial, form: str) -> None:
    output = {"output": {"uri": "s3://any/", "artifacts": [form]}}
    earlier = make_trial(name="u-1", sections=output)
    (kept,) = earlier.go().artifacts
    previous = {"name": "Previous", "form": form, "uri": kept.uri, "digest": kept.digest}
    compared = {"baselines": [previous], "evaluation": {"baselines": ["Base", "Previous"]}}
    same = make_trial(name="u-2", sections=output | compared).go()
    (other,) = {m.metric: m for m in same.measurements}["heldout/loss"].others
    assert float(other.value) == pytest.approx(
        float({m.metric: m for m in same.measurements}["heldout/loss"].value), rel=1e-5
    )
    more = ADDED | {"addTokens": [*ADDED["addTokens"], "<more>"]}
    trial = make_trial(more, name="u-3", sections=output | compared)
    trial.go()
    assert any("another tokenizer" in note for note in trial.report().notes)


def test_preferences_and_noise_go_with_new_tokens(make_trial: MakeTrial) -> None:
    def preferred(count: int, seed: int, tokenizer: Any) -> Split:
        extended = load_tokenizer(Path(tokenizer.name_or_path), dataset(**ADDED))
        numbers = np.random.default_rng(seed).integers(1, 9, count).tolist()
        both = [(f"ship {n}", f"{tag}{n}") for n in numbers for tag in ("<order>", "Zürich")]
        return split_of(both, extended)

    trial = make_trial(
        sections={"objective": "DPO"},
        make_rows=preferred,
        hyperparameters={"neftuneAlpha": "5", "learningRate": "1e-2"},
    )
    trial.go()
    assert trial.losses()[-1] < 0.5 * trial.losses()[0]


@pytest.mark.parametrize("method", [{"lora": {"rank": 4}}, {"full": {}}], ids=["LoRA", "full"])
def test_parts_learn_new_tokens_as_whole_copies_do(
    make_trial: MakeTrial, method: dict[str, Any]
) -> None:
    output = {"output": {"uri": "s3://any/", "artifacts": ["Merged"]}, "method": method}
    whole, parts = (
        make_trial(name=kind.lower(), sections=output | {"world": {"nodes": 2, "sharding": kind}})
        for kind in ("DDP", "FSDP")
    )
    assert go_as_two(whole, 1) == [0, 0]
    assert go_as_two(parts, 1) == [0, 0]
    assert parts.losses() == pytest.approx(whole.losses(), rel=1e-5)
    mine, theirs = (load_file(t.fetch("merged") / "model.safetensors") for t in (parts, whole))
    assert all((mine[name] - theirs[name]).abs().max() < 1e-3 for name in theirs)
