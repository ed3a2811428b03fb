"""Reads a GGUF file back with transformers' reader, which knows nothing of ours.

Called by `export`, to compare what was written with what it was made from.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import gguf
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, PreTrainedModel
from transformers import modeling_gguf_pytorch_utils as reader


def read_gguf(path: Path, source: Path) -> PreTrainedModel:
    """Give the model of a file in float32 on the CPU; `source` is the folder it was made from."""
    # The reader's idea of the configuration leaves out scaled positions, biases and head sizes.
    config = AutoConfig.from_pretrained(source)
    if config.model_type == "mistral":
        # In a GGUF file a Mistral is a Llama, and so it is to the reader.
        config = LlamaConfig.from_dict(config.to_dict() | {"model_type": "llama"})
    _make_gemma_known()
    with _one_table_of_names():
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, config=config, dtype=torch.float32
        )
    return model


def _make_gemma_known() -> None:
    """Have the reader take a Gemma 1 as it takes a Gemma 2, whose tensors are stored alike."""
    settings = reader.GGUF_TO_TRANSFORMERS_MAPPING["config"]
    settings.setdefault("gemma", settings["gemma2"])
    reader.TENSOR_PROCESSORS.setdefault("gemma", reader.TENSOR_PROCESSORS["gemma2"])
    if "gemma" not in reader.GGUF_SUPPORTED_ARCHITECTURES:
        reader.GGUF_SUPPORTED_ARCHITECTURES.append("gemma")


@contextmanager
def _one_table_of_names() -> Iterator[None]:
    """Keep the reader from making the table of all tensors' names anew for each module.

    Both grow with the number of layers, so the time does with its square: it is half of all that
    reading 30 layers takes.
    """
    build = gguf.get_tensor_name_map
    gguf.get_tensor_name_map = cache(build)
    try:
        yield
    finally:
        gguf.get_tensor_name_map = build
