"""All forms of the result from one run, each used as its README says."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from html import unescape
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGUFReader
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.trainer.conftest import Bucket
from tests.trainer.gguf_models import GGUF_ONLY, export, logits, make_model
from tests.trainer.trials import DIGEST, Trial, tiny_tokenizer
from tunesmith_api.output import K_QUANTS, ArtifactName, GgufQuantization
from tunesmith_api.report import TrainingReport
from tunesmith_api.result import Outcome
from tunesmith_api.run import TrainingRun
from tunesmith_api.templating import Prompt
from tunesmith_api.training import ModelSource
from tunesmith_trainer.batches import Batch
from tunesmith_trainer.card import write_card
from tunesmith_trainer.data.prompting import Prompting, write_prompt
from tunesmith_trainer.export import check_gguf_parity, check_int8_parity, save_int8
from tunesmith_trainer.gguf import kquants
from tunesmith_trainer.gguf.file import check_gguf
from tunesmith_trainer.gguf.kquants import quantize_file
from tunesmith_trainer.outcome import Infrastructure, UserError
from tunesmith_trainer.package import inference, requirements, write_package
from tunesmith_trainer.tiny import write_tiny

ALL = ["Adapter", "Merged", "GGUF", "Int8", "Ollama", "Package"]
TOKENS = list(range(5, 105))
BATCH = Batch(torch.tensor([TOKENS]), torch.arange(100), torch.zeros(100, dtype=torch.long), 100)


PROMPT = {
    "system": "Be <short>.",
    "template": "Question: {{ prompt }}",
    "examples": [{"prompt": "Who are you?", "response": "A model."}],
}


def test_one_run_gives_all_forms(
    bucket: Bucket, make_run: Callable[..., TrainingRun], tmp_path: Path
) -> None:
    output = {"uri": "s3://any/", "artifacts": ALL}
    dataset = {"train": {"uri": "s3://any/rows.jsonl"}, "prompt": PROMPT}
    sections = {"output": output, "dataset": dataset}
    trial = Trial(bucket, make_run, tmp_path, sections=sections, rows=(8, 0, 4))
    result = trial.go()
    assert result.outcome is Outcome.SUCCEEDED
    assert [artifact.name for artifact in result.artifacts] == ALL
    folders = {name: trial.fetch(name.lower()) for name in ALL}
    for name, folder in folders.items():
        check_card(folder / "README.md", name, trial.report())
    merged = AutoModelForCausalLM.from_pretrained(folders["Merged"], dtype=torch.float32)
    tokens = trial.data.test.tokens[:40].tolist()
    wanted = logits(merged, tokens)

    small = load_file(folders["Int8"] / "model.safetensors")
    assert small["model.layers.0.mlp.up_proj.weight"].dtype is torch.int8
    int8 = AutoModelForCausalLM.from_pretrained(folders["Int8"])
    distance = float((logits(int8, tokens).float() - wanted).norm() / wanted.norm())
    assert 0 < distance < 0.2

    modelfile = (folders["Ollama"] / "Modelfile").read_text()
    named = re.search(r"^FROM \./(\S+)$", modelfile, re.MULTILINE)
    assert named
    gguf = (folders["GGUF"] / named[1]).read_bytes()
    assert (folders["Ollama"] / named[1]).read_bytes() == gguf
    assert 'TEMPLATE """' in modelfile
    assert 'SYSTEM """Be <short>."""\nMESSAGE user """Who are you?"""' in modelfile

    check_package(folders["Package"], merged, tiny_tokenizer(tmp_path / "tiny"))


def check_card(path: Path, name: str, report: TrainingReport) -> None:
    card = ModelCard(path.read_text())
    assert card.data.pipeline_tag == "text-generation"
    assert set(card.data.tags) >= {"tunesmith", "lora"}
    library = {"Adapter": "peft", "GGUF": "gguf", "Ollama": "gguf"}.get(name, "transformers")
    assert card.data.library_name == library
    for said in (report.dataset_digest, "| learningRate | 5e-3 |", "| rank | 4 |", "## Limits"):
        assert said in card.text
    assert "heldout/loss" in card.text
    shown = re.search(r"<pre>\n(.*?)</pre>", card.text, re.DOTALL)
    assert shown
    assert Prompt.model_validate_json(unescape(shown[1])) == Prompt.model_validate(PROMPT)
    says = {"Package": "`inference.py` takes it", "Ollama": "the Modelfile has it"}
    assert says.get(name, "whoever asks must") in card.text


def check_package(folder: Path, merged: Any, tokenizer: Any) -> None:
    """Do what README.md says, with this Python, which has the very versions it asks for."""
    assert (folder / "requirements.txt").read_text() == requirements()
    assert f"transformers=={version('transformers')}\n" in requirements()
    assert "+" not in requirements()
    block = re.search(r"```sh\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert block
    command = block[1].splitlines()[-1].replace(".venv/bin/python", f"'{sys.executable}'")
    done = subprocess.run(
        f"{command} --max-new-tokens 8",
        shell=True,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    prompting = Prompting(Prompt.model_validate(PROMPT))
    asked = prompting.around([{"role": "user", "content": "What can you do for me?"}])
    inputs = tokenizer.apply_chat_template(
        asked, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    answer = merged.generate(**inputs, max_new_tokens=8, do_sample=False)
    answer = answer[0, inputs["input_ids"].shape[1] :]
    assert done.stdout.strip() == tokenizer.decode(answer, skip_special_tokens=True).strip()


def test_folders_of_a_model_go_along_into_a_package(tmp_path: Path) -> None:
    # Models with several chat templates have them in one.
    inner = tmp_path / "merged" / "additional_chat_templates" / "rag.jinja"
    inner.parent.mkdir(parents=True)
    inner.write_text("x")
    write_package(tmp_path / "merged", Prompt(), tmp_path / "package")
    assert (tmp_path / "package/model/additional_chat_templates/rag.jinja").read_text() == "x"


@pytest.mark.parametrize("said", ["", "hi\n"], ids=["at once", "after an answer"])
def test_a_packages_conversation_ends_with_its_input(
    said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_tiny(tmp_path / "model")
    write_prompt(Prompt(), tmp_path)
    program = shutil.copy(inference.__file__, tmp_path)
    done = subprocess.run(
        [sys.executable, program, "--max-new-tokens", "2"],
        input=said,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr


def test_a_card_knows_the_hub_and_hides_markup(
    make_run: Callable[..., TrainingRun], tmp_path: Path
) -> None:
    run = make_run(stage="train", model={"uri": "hf://acme/base"})
    report = TrainingReport(
        job=run.job.model_copy(update={"name": "<script>"}),
        attempt=1,
        created="2026-01-02T03:04:05Z",
        trainer_version="1",
        base_model=ModelSource(uri="hf://acme/base"),
        dataset_digest=DIGEST,
        inputs_digest=DIGEST,
        data={},
        method=run.method,
        hyperparameters=run.hyperparameters,
        training={},
        model={},
    )
    write_card(run, report, ArtifactName.ADAPTER, tmp_path)
    card = ModelCard((tmp_path / "README.md").read_text())
    assert card.data.base_model == ["acme/base"]
    assert card.data["base_model_relation"] == "adapter"
    assert card.data["license_link"].endswith("/acme/base")
    assert 'from_pretrained("acme/base"' in card.text
    assert "<script>" not in card.text


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_eight_bits_say_what_all_bits_say(tmp_path: Path, family: str) -> None:
    source = make_model(tmp_path / "m", family)
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    wanted = logits(model, TOKENS)
    save_int8(source, tiny_tokenizer(tmp_path / "tiny"), tmp_path / "int8")
    assert check_int8_parity(tmp_path / "int8", wanted, BATCH) < 0.1
    with pytest.raises(Infrastructure) as error:
        check_int8_parity(tmp_path / "int8", wanted.flip(0), BATCH)
    assert error.value.reason == "ExportMismatch"


def test_large_features_are_not_rounded_to_8_bits(tmp_path: Path) -> None:
    source = make_model(tmp_path / "m", "llama")
    wanted = logits(AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32), TOKENS)
    save_int8(source, tiny_tokenizer(tmp_path / "tiny"), tmp_path / "int8")
    ours = check_int8_parity(tmp_path / "int8", wanted, BATCH)
    config = tmp_path / "int8" / "config.json"
    settings = json.loads(config.read_text())
    settings["quantization_config"]["llm_int8_threshold"] = 6.0
    config.write_text(json.dumps(settings))
    assert ours < 0.85 * check_int8_parity(tmp_path / "int8", wanted, BATCH)


def test_k_quants_are_refused_without_the_program(
    tmp_path: Path, make_run: Callable[..., TrainingRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_model(tmp_path / "m")
    monkeypatch.setenv("PATH", str(tmp_path))
    for artifact in ("GGUF", "Ollama"):
        output = GGUF_ONLY | {"artifacts": [artifact], "gguf": {"quantization": "Q4_K_M"}}
        with pytest.raises(UserError) as error:
            check_gguf(make_run(output=output), source, tiny_tokenizer(tmp_path / "tiny"))
        for word in ("Q4_K_M", "llama-quantize", "compute.image", "Q8_0"):
            assert word in error.value.message


@pytest.mark.skipif(not kquants.shutil.which(kquants.PROGRAM), reason="no llama-quantize on PATH")
@pytest.mark.parametrize("kind", sorted(K_QUANTS))
def test_k_quants_say_what_the_model_says(tmp_path: Path, kind: GgufQuantization) -> None:
    source = make_model(tmp_path / "m", hidden_size=256, num_attention_heads=16)
    target = tmp_path / "q" / "model.gguf"
    target.parent.mkdir()
    calls: list[int] = []
    quantize_file(export(source, "F16"), target, kind, lambda: calls.append(1))
    kinds = {tensor.tensor_type.name for tensor in GGUFReader(target).tensors}
    assert kinds & {kind.value[:4]}
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    check_gguf_parity(target, source, logits(model, TOKENS), BATCH, kind)


@pytest.mark.skipif(not kquants.shutil.which(kquants.PROGRAM), reason="no llama-quantize on PATH")
def test_a_program_that_fails_is_quoted(tmp_path: Path) -> None:
    (tmp_path / "none.gguf").write_bytes(b"no gguf")
    with pytest.raises(Infrastructure) as error:
        quantize_file(
            tmp_path / "none.gguf", tmp_path / "x.gguf", GgufQuantization.Q6_K, lambda: None
        )
    assert error.value.reason == "QuantizationFailed"
