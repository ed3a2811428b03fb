"""The train stage as a whole: it learns, it judges, it says what is wrong."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.trainer.conftest import Bucket
from tests.trainer.gguf_models import make_model
from tests.trainer.gpus import on_gpus
from tests.trainer.trials import Trial
from tunesmith_api.result import TERMINATION_BYTES, Outcome, UserErrorReason
from tunesmith_trainer.batches import collate
from tunesmith_trainer.export import check_parity, logits_of, parity_batch
from tunesmith_trainer.objective import SupervisedLoss
from tunesmith_trainer.outcome import Infrastructure, Interrupted, UserError
from tunesmith_trainer.storage.manifest import read_manifest
from tunesmith_trainer.tiny import write_tiny

MakeTrial = Callable[..., Trial]

SUITES = [
    {"name": "heldout", "heldOut": {}},
    {"name": "look", "samples": {"prompts": ["alpha 3", "beta 1"], "maxNewTokens": 8}},
]
BOTH = {"uri": "s3://any/", "artifacts": ["Adapter", "Merged"]}


@pytest.fixture
def make_trial(bucket: Bucket, make_run: Any, tmp_path: Path) -> MakeTrial:
    def make(**settings: Any) -> Trial:
        return Trial(bucket, make_run, tmp_path, **settings)

    return make


@pytest.mark.parametrize(
    ("method", "artifacts"),
    [
        pytest.param({"lora": {"rank": 8}}, ["Adapter", "Merged"], id="LoRA"),
        pytest.param({"qlora": {"rank": 8}}, ["Merged", "Adapter"], id="QLoRA on a CPU"),
        pytest.param({"full": {}}, ["Merged"], id="all weights"),
    ],
)
def test_a_model_learns_and_the_result_says_so(
    make_trial: MakeTrial, method: dict[str, Any], artifacts: list[str]
) -> None:
    trial = make_trial(
        sections={
            "method": method,
            "output": {"uri": "s3://any/", "artifacts": artifacts},
            "evaluation": {"suites": SUITES},
        }
    )
    result = trial.go()
    assert result.outcome is Outcome.SUCCEEDED
    assert len(result.model_dump_json(by_alias=True)) < TERMINATION_BYTES
    measured = {m.metric: m for m in result.measurements}
    assert set(measured) == {"heldout/loss", "heldout/perplexity", "heldout/token_accuracy"}
    loss = measured["heldout/loss"]
    assert float(loss.value) < float(loss.base_value) - 0.3
    assert float(measured["heldout/perplexity"].value) == pytest.approx(math.exp(float(loss.value)))
    assert [a.name for a in result.artifacts] == artifacts

    report = trial.report()
    assert [s.prompt for s in report.samples] == ["alpha 3", "beta 1"]
    assert [point.step for point in report.curve] == list(range(1, 13))
    assert report.training.tokens == 2 * len(trial.data.train.tokens)
    for artifact in result.artifacts:
        found = read_manifest(trial.storage, artifact.uri)
        assert found is not None
        assert found.digest == artifact.digest
        names = {file.path for file in found.manifest.files}
        assert {"tokenizer.json", "tokenizer_config.json", "README.md"} <= names

    trained_loss_of_the_files(trial, float(loss.value), method)


def trained_loss_of_the_files(trial: Trial, expected: float, method: dict[str, Any]) -> None:
    """The files, loaded as a stranger would, have the loss that was reported."""
    merged = AutoModelForCausalLM.from_pretrained(trial.fetch("merged"), dtype="auto")
    models = [merged]
    if "lora" in method:
        base = AutoModelForCausalLM.from_pretrained(trial.folder / "tiny", dtype="auto")
        models.append(PeftModel.from_pretrained(base, trial.fetch("adapter")))
    test = trial.data.test
    for model in models:
        batch = collate(test, list(range(len(test))), 0)
        with torch.no_grad():
            nats, _ = SupervisedLoss(model.eval())(batch)
        # A QLoRA adapter was judged on 4-bit weights and is merged into the full ones.
        tolerance = 0.05 if "qlora" in method else 1e-4
        assert nats.item() / len(batch.targets) == pytest.approx(expected, rel=tolerance)
    assert merged.config.use_cache
    tokenizer = AutoTokenizer.from_pretrained(trial.fetch("merged"))
    assert tokenizer.chat_template


def test_a_finished_run_is_not_done_again(make_trial: MakeTrial) -> None:
    trial = make_trial()
    first, again = trial.go(), trial.go()
    assert again.report_digest == first.report_digest
    assert again.artifacts == first.artifacts
    assert again.measurements == first.measurements
    assert (again.attempt, again.outcome) == (2, Outcome.SUCCEEDED)


def test_training_stops_early(make_trial: MakeTrial) -> None:
    stopping = {"everySteps": 2, "patience": 2, "minDelta": "100"}
    result = make_trial(hyperparameters={"earlyStopping": stopping}).go()
    assert result.training is not None
    assert result.training.stopped_early
    # The first look is the best so far, and two without improvement follow.
    assert result.step == 6


def test_sigterm_while_judging_keeps_the_last_step(make_trial: MakeTrial) -> None:
    trial = make_trial(rows=(8, 0, 4))
    with pytest.raises(Interrupted):
        trial.go(at_step=4)
    result = trial.go()
    assert result.resumed_from_step == 4
    assert result.training is not None
    assert result.training.tokens == 0


@pytest.mark.parametrize(
    ("sections", "hyperparameters", "reason", "words"),
    [
        pytest.param(
            {"method": {"lora": {"targetModules": ["q_proj", "wq"]}}},
            {},
            UserErrorReason.INVALID_RUN,
            ["wq", "q_proj", "down_proj", "all-linear"],
            id="a misspelled target module",
        ),
        pytest.param(
            {"method": {"lora": {"targetModules": ["q_proj", "lm_head"]}}},
            {},
            UserErrorReason.INVALID_RUN,
            ["lm_head", "one and the same weights"],
            id="an output layer that is the embeddings",
        ),
        pytest.param(
            {"method": {"lora": {"targetModules": ["embed_tokens"]}}},
            {},
            UserErrorReason.INVALID_RUN,
            ["embed_tokens", "one and the same weights"],
            id="embeddings that are the output layer",
        ),
        pytest.param(
            {"world": {"gpusPerNode": 2}},
            {},
            UserErrorReason.GPU_NOT_FOUND,
            ["2 GPU(s)", "sees 0", "gpusPerNode"],
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
            id="GPUs where there are none",
        ),
        pytest.param(
            {},
            {"precision": "FP16"},
            UserErrorReason.PRECISION_UNSUPPORTED,
            ["FP16", "BF16"],
            id="FP16 on a CPU",
        ),
        pytest.param(
            {"method": {"full": {}}},
            {},
            UserErrorReason.INVALID_RUN,
            ["Adapter", "Merged"],
            id="an adapter of a method that makes none",
        ),
    ],
)
def test_a_run_that_cannot_be_done_says_what_to_change(
    make_trial: MakeTrial,
    sections: dict[str, Any],
    hyperparameters: dict[str, Any],
    reason: UserErrorReason,
    words: list[str],
) -> None:
    with pytest.raises(UserError) as error:
        make_trial(sections=sections, hyperparameters=hyperparameters).go()
    assert error.value.reason == reason
    for word in words:
        assert word in error.value.message


def put_model(trial: Trial, folder: Path) -> dict[str, Any]:
    for path in folder.iterdir():
        trial.bucket.put(f"models/m/{path.name}", path.read_bytes())
    return {"model": {"uri": trial.bucket.uri("models/m/")}}


@pytest.mark.parametrize("target", ["embed_tokens", "lm_head"])
def test_an_adapter_of_what_is_around_the_layers(
    make_trial: MakeTrial, tmp_path: Path, target: str
) -> None:
    folder = make_model(tmp_path / "untied", tie_word_embeddings=False)
    trial = make_trial(rows=(8, 0, 4))
    trial.sections |= put_model(trial, folder)
    trial.sections |= {"method": {"lora": {"targetModules": [target]}}}
    result = trial.go()
    # What is merged was compared with what was judged.
    assert result.outcome is Outcome.SUCCEEDED
    loss = next(m for m in result.measurements if m.metric == "heldout/loss")
    assert float(loss.value) != float(loss.base_value)


def test_a_loss_that_is_no_number_ends_the_run(make_trial: MakeTrial, tmp_path: Path) -> None:
    trial = make_trial()
    write_tiny(tmp_path / "sick")
    weights = load_file(tmp_path / "sick" / "model.safetensors")
    weights["model.norm.weight"][0] = math.nan
    save_file(weights, tmp_path / "sick" / "model.safetensors", metadata={"format": "pt"})
    trial.sections |= put_model(trial, tmp_path / "sick")
    with pytest.raises(UserError) as error:
        trial.go()
    assert error.value.reason == UserErrorReason.NON_FINITE_LOSS
    assert "nan at step 1" in error.value.message
    # No setting would help: it is so before anything was trained.
    assert "base model's weights" in error.value.message


def test_bf16_models_stay_bf16(make_trial: MakeTrial, tmp_path: Path) -> None:
    trial = make_trial()
    write_tiny(tmp_path / "half")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "half").to(torch.bfloat16)
    model.save_pretrained(tmp_path / "half")
    trial.sections |= put_model(trial, tmp_path / "half") | {"output": BOTH}
    trial.hyperparameters = {"precision": "BF16", "maxSteps": 6}
    result = trial.go()
    assert result.training is not None
    assert result.training.precision == "BF16"
    weights = load_file(trial.fetch("merged") / "model.safetensors")
    assert {w.dtype for w in weights.values()} == {torch.bfloat16}
    adapter = load_file(trial.fetch("adapter") / "adapter_model.safetensors")
    assert {w.dtype for w in adapter.values()} == {torch.float32}


def test_a_base_in_float32_is_trained_in_bf16(make_trial: MakeTrial) -> None:
    # Its weights are rounded for training; the files hold the merged ones as they were.
    settings = {"precision": "BF16", "maxSteps": 2}
    trial = make_trial(sections={"output": BOTH}, hyperparameters=settings)
    assert trial.go().outcome == "Succeeded"
    weights = load_file(trial.fetch("merged") / "model.safetensors")
    assert {w.dtype for w in weights.values()} == {torch.float32}


def test_files_that_say_something_else_are_not_published(
    make_trial: MakeTrial, tmp_path: Path
) -> None:
    trial = make_trial()
    batch = parity_batch(trial.data.test, 0)
    model = AutoModelForCausalLM.from_pretrained(trial.folder / "tiny", dtype=torch.float32)
    expected = logits_of(SupervisedLoss(model), batch)
    assert check_parity(trial.folder / "tiny", expected, batch) < 1e-6
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.mul_(0.5)
    model.save_pretrained(tmp_path / "other")
    with pytest.raises(Infrastructure) as error:
        check_parity(tmp_path / "other", expected, batch)
    assert error.value.reason == "ExportMismatch"


def test_the_curve_is_exact(make_trial: MakeTrial) -> None:
    trial = make_trial(hyperparameters={"maxSteps": 3})
    trial.go()
    point = json.loads(trial.curve()[-1])
    assert repr(float(point["loss"])) == point["loss"]
    assert len(point["loss"]) > 10


def test_ranks_that_the_launcher_forgot_are_missed(make_trial: MakeTrial) -> None:
    with pytest.raises(Infrastructure) as error:
        make_trial(sections={"world": {"nodes": 2}}).go()
    assert error.value.reason == "RanksMissing"


@pytest.mark.parametrize(
    ("method", "optimizer", "artifact"),
    [
        on_gpus("lora", "AdamW", "Merged", id="LoRA"),
        on_gpus("qlora", "AdamW8bit", "Adapter", id="QLoRA with 8-bit state"),
        on_gpus("full", "AdamW", "Merged", id="all weights"),
    ],
)
def test_a_gpu_in_bf16_learns_what_a_cpu_learns_in_fp32(
    make_trial: MakeTrial, method: str, optimizer: str, artifact: str
) -> None:
    settings = {} if method == "full" else {"rank": 8, "dropout": "0"}
    sections = {
        "method": {method: settings},
        "output": {"uri": "s3://any/", "artifacts": [artifact]},
    }
    gpu = make_trial(
        name="gpu",
        sections=sections | {"world": {"gpusPerNode": 1}},
        hyperparameters={"optimizer": optimizer},
    )
    cpu = make_trial(name="cpu", sections=sections)
    result = gpu.go()
    cpu.go()
    assert result.training is not None
    assert result.training.precision == "BF16"
    has_flash = torch.cuda.get_device_capability() >= (8, 0)
    assert result.training.kernels[0] == ("FlashAttention" if has_flash else "SDPA")
    assert gpu.losses() == pytest.approx(cpu.losses(), rel=0.1)
    loss = next(m for m in result.measurements if m.metric == "heldout/loss")
    assert float(loss.value) < float(loss.base_value) - 0.3


@pytest.mark.parametrize("optimizer", [on_gpus(n, id=n) for n in ("AdamW", "AdamW8bit")])
def test_a_gpu_goes_on_from_a_checkpoint(make_trial: MakeTrial, optimizer: str) -> None:
    """Not bit for bit, as on a CPU: some of a GPU's sums are added up in another order each time.

    A state that was lost would be seen: the learning rate is at its highest then.
    """
    sections = {"method": {"lora": {"rank": 64, "dropout": "0"}}, "world": {"gpusPerNode": 1}}
    given = {"optimizer": optimizer, "scheduler": "Constant"}
    calm, cut = (make_trial(name=n, sections=sections, hyperparameters=given) for n in ("a", "b"))
    calm.go()
    with pytest.raises(Interrupted):
        cut.go(at_step=5)
    assert cut.go().resumed_from_step == 5
    assert cut.losses() == pytest.approx(calm.losses(), rel=0.02)


def suite(name: str, **kind: Any) -> dict[str, Any]:
    return {"name": name, **kind}


ITEMS = [
    {"prompt": f"{word} {times}", "answer": " ".join([word] * times)}
    for word, times in (("alpha", 3), ("beta", 1), ("gamma", 2))
]


@pytest.mark.parametrize("method", ["lora", "full"])
def test_all_models_are_measured_side_by_side(make_trial: MakeTrial, method: str) -> None:
    """The second run has the first one's model as the previous version."""
    artifact = {"lora": "Adapter", "full": "Merged"}[method]
    suites = [
        suite("heldout", heldOut={}),
        suite("ask", prompts={"items": ITEMS, "metrics": ["exact", "bleu", "similarity"]}),
        suite("rows", prompts={"metrics": ["rougeL"], "maxNewTokens": 8}),
        suite("pace", speed={"promptTokens": 4, "newTokens": 2, "repeats": 2}),
    ]
    gate = {"metric": "ask/exact", "relation": "AtLeast", "value": "0"}
    sections = {
        "method": {method: {}},
        "output": {"uri": "s3://any/", "artifacts": [artifact]},
        "evaluation": {"suites": suites, "gates": [gate], "baselines": ["Base", "Previous"]},
    }
    first = make_trial(name="u-1", sections=sections, rows=(16, 0, 6)).go()
    (kept,) = first.artifacts
    previous = {
        "name": "Previous",
        "version": "echo-v1",
        "form": artifact,
        "uri": kept.uri,
        "digest": kept.digest,
    }
    trial = make_trial(name="u-2", sections=sections | {"baselines": [previous]}, rows=(16, 0, 6))
    result = trial.go()
    measured = {m.metric: m for m in result.measurements}
    assert result.measurements[0].metric == "ask/exact"
    assert set(measured) == {
        *("heldout/loss", "heldout/perplexity", "heldout/token_accuracy"),
        *("ask/exact", "ask/bleu", "ask/similarity", "rows/rougeL"),
        *("pace/tokens_per_second", "pace/peak_memory_bytes"),
    }
    loss, earlier = measured["heldout/loss"], {m.metric: m for m in first.measurements}
    assert float(loss.low) < float(loss.value) < float(loss.high)
    assert float(loss.difference_high) < 0
    assert loss.base_value == earlier["heldout/loss"].base_value
    # It was trained on the same rows with the same seed, so it is the same model.
    (other,) = loss.others
    assert other.name == "Previous"
    assert float(other.value) == pytest.approx(float(loss.value), rel=1e-5)
    assert float(other.difference_low) <= 0 <= float(other.difference_high)

    report = trial.report()
    sample = next(s for s in report.samples if s.suite == "ask")
    assert (sample.prompt, sample.expected) == ("alpha 3", "alpha alpha alpha")
    assert sample.others == {"Previous": sample.tuned}
    names = {info.relative for info in trial.storage.list(trial.run_uri)}
    assert {"report.json", "report.html", "curve.png"} <= names


def test_an_earlier_version_that_cannot_be_had_is_noted(make_trial: MakeTrial) -> None:
    gone = {
        "name": "Deployed",
        "form": "Merged",
        "uri": "s3://{bucket}/nothing/",
        "digest": "sha256:" + "1" * 64,
    }
    trial = make_trial(rows=(8, 0, 4))
    gone["uri"] = trial.bucket.uri("nothing/")
    trial.sections = {"baselines": [gone]}
    result = trial.go()
    assert result.outcome is Outcome.SUCCEEDED
    assert "Deployed" in result.message
    assert all(m.base_value and not m.others for m in result.measurements)
