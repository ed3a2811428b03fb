"""Tokens that a run adds: in the tokenizer, in the embeddings, and in all that a run leaves."""

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
from peft.tuners.trainable_tokens.layer import TrainableTokensLayer
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.trainer.conftest import Bucket, jsonl
from tests.trainer.gguf_models import byte_level as bytes_of
from tests.trainer.gguf_models import make_model, make_sentencepiece, make_tokenizer, words_of
from tests.trainer.test_ranks import go_as_two
from tests.trainer.trials import Trial, split_of
from tunesmith_api.dataset import Dataset
from tunesmith_api.result import Outcome, UserErrorReason
from tunesmith_api.run import TrainingRun
from tunesmith_api.training import Hyperparameters, Lora, LoraVariant, Method
from tunesmith_trainer.batches import Batch, collate
from tunesmith_trainer.capability import settle
from tunesmith_trainer.data.newtokens import NewTokens, extend
from tunesmith_trainer.data.prepared import PreparedData, Split
from tunesmith_trainer.data.templates import load_extended, load_tokenizer
from tunesmith_trainer.embeddings import embedding_rows
from tunesmith_trainer.export import CPU, merge
from tunesmith_trainer.memory import Workload, estimate, read_shape, with_tokens
from tunesmith_trainer.model import add_adapter, load_base
from tunesmith_trainer.objective import SupervisedLoss
from tunesmith_trainer.optimizers import build_optimizer
from tunesmith_trainer.outcome import Interrupted, UserError
from tunesmith_trainer.prepare import prepare
from tunesmith_trainer.progress import Progress
from tunesmith_trainer.stopping import StopSignal
from tunesmith_trainer.tiny import write_tiny

MakeTrial = Callable[..., Trial]
ADDED = {"addTokens": ["<order>", "Zürich"], "addSpecialTokens": ["<|note|>"]}
FIRST = 260
"""The tiny model's tokens are those below."""

pytestmark = pytest.mark.timeout(600)


def dataset(**given: Any) -> Dataset:
    return Dataset.model_validate({"train": {"uri": "s3://any/x.jsonl"}} | given)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    write_tiny(tmp_path / "m")
    return tmp_path / "m"


def tagged_rows(count: int, seed: int, tokenizer: Any) -> Split:
    """Rows whose answers have a new token in them, which follows from the question."""
    extended = load_tokenizer(Path(tokenizer.name_or_path), dataset(**ADDED))
    chance = np.random.default_rng(seed)
    numbers = chance.integers(1, 9, count)
    rows = [
        (f"ship {n}", f"<order>{n}") if n % 2 else (f"where {n}", f"Zürich {n}") for n in numbers
    ]
    return split_of(rows, extended)


@pytest.fixture
def make_trial(bucket: Bucket, make_run: Any, tmp_path: Path) -> MakeTrial:
    def make(added: dict[str, Any] = ADDED, **settings: Any) -> Trial:
        sections = settings.pop("sections", {})
        sections = {"dataset": {"train": {"uri": "s3://any/x.jsonl"}} | added} | sections
        given = {"make_rows": tagged_rows, "sections": sections} | settings
        return Trial(bucket, make_run, tmp_path, **given)

    return make


# The tokenizer.


def test_tokens_are_added_in_order_and_found_wherever_they_stand(tiny: Path) -> None:
    plain = load_tokenizer(tiny, dataset())
    tokenizer, tokens = load_extended(tiny, dataset(**ADDED))
    assert tokens.ids == (260, 261, 262)
    assert tokens.texts == ("<|note|>", "<order>", "Zürich")
    assert tokens.special == {"<|note|>"}
    assert tokens.rows == 263
    for text, pieces in zip(tokens.texts, tokens.pieces, strict=True):
        assert list(pieces) == plain(text, add_special_tokens=False)["input_ids"]
    ids = tokenizer("in Zürichs<order>7", add_special_tokens=False)["input_ids"]
    assert [i for i in ids if i >= FIRST] == [262, 261]
    assert tokenizer.decode(ids) == "in Zürichs<order>7"
    ids = tokenizer("a<|note|>b<order>", add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "ab<order>"


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: make_tokenizer(words_of(bytes_of(regex=True))), id="bytes"),
        pytest.param(make_sentencepiece, id="SentencePiece"),
    ],
)
def test_what_is_one_token_already_is_said_and_left_alone(make: Callable[[], Any]) -> None:
    tokenizer = make()
    before = tokenizer.backend_tokenizer.to_str()
    tokens = extend(tokenizer, dataset(addTokens=["<tool>"]))
    assert not tokens
    assert tokens.known == ("<tool>",)
    assert tokenizer.backend_tokenizer.to_str() == before
    assert tokens.sentences(np.zeros(0, np.int32)) == [
        "Not added, as the tokenizer has them as one token: '<tool>'."
    ]
    size = len(tokenizer)
    more = extend(tokenizer, dataset(addTokens=["<tool>", "<order>"]))
    assert (more.texts, more.ids, more.known) == (("<order>",), (size,), ("<tool>",))


def test_tokens_that_hold_others_are_made_of_old_ones(tiny: Path) -> None:
    _, tokens = load_extended(tiny, dataset(addTokens=["<a>", "<a><b>"]))
    assert max(max(pieces) for pieces in tokens.pieces) < FIRST


def test_rows_are_counted_by_token(tiny: Path) -> None:
    tokenizer, tokens = load_extended(tiny, dataset(**ADDED))
    row = np.array(tokenizer("<order><order>Zürich x")["input_ids"], np.int32)
    assert tokens.uses(row) == [0, 2, 1]
    assert tokens.saved(row) == 2 * (len("<order>") - 1) + len("Zürich".encode()) - 1
    assert tokens.sentences(row)[1:] == [
        "In no training row, so nothing is learned of them: '<|note|>'."
    ]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        pytest.param({"addTokens": ["Ġ"]}, "spelling for another text", id="a spelling of bytes"),
        pytest.param(
            {"addTokens": ["<|im_end|>"]}, "ends answers with", id="the end-of-turn token it has"
        ),
        pytest.param(
            {
                "addTokens": ["<end>"],
                "template": "Custom",
                "customTemplate": "{% for m in messages %}{{ m.content }}<end>{% endfor %}",
            },
            "Move it to dataset.addSpecialTokens",
            id="a new end-of-turn token",
        ),
    ],
)
def test_what_cannot_be_a_token_is_refused(tiny: Path, given: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as refused:
        load_tokenizer(tiny, dataset(**given))
    assert refused.value.reason == UserErrorReason.INVALID_RUN
    assert given["addTokens"][0] in str(refused.value)


def test_a_saved_tokenizer_needs_nothing_added(tiny: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(tiny, dataset(**ADDED))
    tokenizer.save_pretrained(tmp_path / "saved")
    again = load_tokenizer(tmp_path / "saved", dataset())
    assert again.get_vocab() == tokenizer.get_vocab()
    text = "<|note|>to Zürich<order>"
    ids = again(text)["input_ids"]
    assert ids == tokenizer(text)["input_ids"]
    assert again.decode(ids, skip_special_tokens=True) == "to Zürich<order>"


# The model.


def settings_of(*, tied: bool, size: int = FIRST) -> dict[str, Any]:
    return {"tie_word_embeddings": tied, "vocab_size": size}


def tokens_of(folder: Path) -> NewTokens:
    return load_extended(folder, dataset(**ADDED))[1]


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


# Whole runs.


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


# The prepare stage.


def test_preparation_says_what_was_added(
    bucket: Bucket, make_run: Callable[..., TrainingRun], tmp_path: Path
) -> None:
    rows = [{"prompt": f"Ship {n}", "response": f"<order>{n}"} for n in range(30)]
    bucket.put("data/train.jsonl", jsonl(*rows))
    given = {"train": {"uri": bucket.uri("data/train.jsonl")}}
    gguf = {"uri": "s3://any/", "artifacts": ["GGUF"]}
    longest = {}
    for name, added in (("without", {}), ("with", ADDED | {"addTokens": ["<order>", "A"]})):
        run = make_run(dataset=given | added, output=gguf, runUri=bucket.uri(f"runs/{name}/"))
        result = prepare(run, tmp_path / name, Progress.of(run), StopSignal())
        assert result.data is not None
        longest[name] = result.data.tokens.longest
    assert longest["with"] == longest["without"] - len("<order>") + 1
    assert "Added 2 tokens to the tokenizer." in result.message
    assert "Not added, as the tokenizer has them as one token: 'A'." in result.message
    assert "nothing is learned of them: '<|note|>'" in result.message
    tokens = PreparedData.load(tmp_path / "with" / "prepared").train.tokens
    assert int((tokens == 261).sum()) == result.data.rows.train
