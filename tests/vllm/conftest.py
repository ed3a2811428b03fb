"""A model that was trained by the command line, and what transformers makes of it."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.cli.conftest import FinishedRun, tell, write_job
from tests.trainer.conftest import bucket, s3_server  # noqa: F401
from tests.vllm.program import QUESTION, Answer, artifact


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """Give a run that has taught the tiny model to say words."""
    learned = {"maxSteps": 120, "learningRate": "5e-3", "maxSequenceLength": 64}
    file = write_job(tmp_path_factory.mktemp("run"), hyperparameters=learned)
    finished = FinishedRun(file, tell("run", file))
    assert finished.told.returncode == 0, finished.told.stderr
    return finished


@pytest.fixture(scope="session")
def answer(run: FinishedRun) -> Answer:
    """Give what transformers makes of the question with the merged model."""
    folder = artifact(run, "merged")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": QUESTION}], add_generation_prompt=True, return_tensors="pt"
    )
    made = model.generate(
        **prompt,
        max_new_tokens=24,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    said = made.sequences[0][prompt["input_ids"].shape[1] :]
    chosen = torch.cat(made.logits).log_softmax(-1)[range(len(said)), said]
    text = tokenizer.decode(said, skip_special_tokens=True)
    assert text == "ccc"
    return Answer(text, chosen.mean().exp().item())
