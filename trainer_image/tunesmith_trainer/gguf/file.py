"""Writes a complete model, as safetensors on the local disk, as one GGUF file.

Tensor after tensor: memory holds one at a time, whatever the model's size. Called by `publish`;
`check_gguf` by `prepare` and `recipe`, before anything is trained.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Final

import numpy as np
from gguf import (
    GGML_QUANT_SIZES,
    GGML_QUANT_VERSION,
    GGMLQuantizationType,
    GGUFType,
    GGUFWriter,
    LlamaFileType,
    get_tensor_name_map,
    quant_shape_to_byte_shape,
    size_label,
)
from gguf.constants import MODEL_ARCH_NAMES
from gguf.quants import quantize

from tunesmith_api.output import ArtifactName, Gguf, GgufQuantization
from tunesmith_api.run import TrainingRun
from tunesmith_trainer.data.newtokens import NONE, NewTokens
from tunesmith_trainer.disk import room_for
from tunesmith_trainer.gguf.arrangement import (
    Floats,
    add_hyperparameters,
    arranged,
    arranged_shape,
    rope_factors,
)
from tunesmith_trainer.gguf.configuration import Hyperparameters, read_hyperparameters
from tunesmith_trainer.gguf.kquants import check_llama_quantize
from tunesmith_trainer.gguf.vocabulary import Vocabulary
from tunesmith_trainer.logs import log

_LOG_SECONDS = 10.0
_ROPE_FACTORS: Final = "rope_freqs.weight"
_POSITIONS: Final = "position_embd.weight"
_FULL = GGMLQuantizationType.F32
# llama-quantize keeps these two at more bits in its 4-bit files as well: errors in them are errors
# of every token.
_TOKENS: Final = frozenset({"token_embd.weight", "output.weight"})


@dataclass(frozen=True)
class _Source:
    """A tensor to be written."""

    name: str
    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    read: Callable[[], Floats]

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """The shape in bytes."""
        return quant_shape_to_byte_shape(self.shape, self.kind)


def check_gguf(run: TrainingRun, directory: Path, tokenizer: Any, tokens: NewTokens = NONE) -> None:
    """Raise UserError where the run asks for a GGUF that cannot be made of its base model.

    `directory` holds the model's config.json, no weights are needed; `tokens` are those of
    `tokenizer` that the model gets rows for.
    """
    if {ArtifactName.GGUF, ArtifactName.OLLAMA} & set(run.output.artifacts):
        check_llama_quantize((run.output.gguf or Gguf()).quantization)
        Vocabulary(tokenizer, max(read_hyperparameters(directory).vocab_size, tokens.rows))


def file_name(quantization: GgufQuantization) -> str:
    """Give the name of the file in the artifact's folder."""
    return f"model-{quantization.value}.gguf"


def write_gguf(
    source: Path,
    tokenizer: Any,
    target: Path,
    quantization: GgufQuantization,
    *,
    name: str,
    on_tensor: Callable[[], None],
) -> None:
    """Write the model in the folder `source` to the file `target`; `name` is what people see.

    `on_tensor` is called after each tensor and may raise to end the work. Raises UserError as
    :func:`check_gguf` does, and Infrastructure (DiskFull).
    """
    settings = read_hyperparameters(source)
    with ExitStack() as stack:
        tensors = list(_tensors(source, settings, quantization, stack))
        needed = sum(prod(tensor.stored_shape) for tensor in tensors)
        # Entered before the writer, whose closing meets a full disk once more.
        stack.enter_context(room_for(target.parent, needed, f"the file {target.name}"))
        writer = GGUFWriter(target, MODEL_ARCH_NAMES[settings.family.arch])
        stack.callback(writer.close)
        _add_metadata(writer, settings, quantization, name, tensors)
        Vocabulary(tokenizer, settings.vocab_size).add_to(writer)
        for tensor in tensors:
            # Sizes of all come before the data of the first, and are known without reading.
            shape = tensor.stored_shape
            writer.add_tensor_info(
                tensor.name, shape, np.dtype(np.uint8), prod(shape), raw_dtype=tensor.kind
            )
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        _write_data(writer, settings, tensors, on_tensor)


def _write_data(
    writer: GGUFWriter,
    settings: Hyperparameters,
    tensors: list[_Source],
    on_tensor: Callable[[], None],
) -> None:
    logged = time.monotonic()
    for done, tensor in enumerate(tensors, start=1):
        values = arranged(settings, tensor.name, tensor.read())
        writer.write_tensor_data(quantize(np.ascontiguousarray(values), tensor.kind))
        on_tensor()
        if time.monotonic() - logged > _LOG_SECONDS:
            log.info("writing GGUF", tensors_done=done, tensors=len(tensors))
            logged = time.monotonic()


def _tensors(
    source: Path, settings: Hyperparameters, quantization: GgufQuantization, stack: ExitStack
) -> Iterator[_Source]:
    """Give all tensors in the order of the files, which stay open as long as `stack`."""
    from safetensors import safe_open

    factors = rope_factors(settings)
    if factors is not None:
        yield _Source(_ROPE_FACTORS, factors.shape, _FULL, lambda: factors)
    names = get_tensor_name_map(settings.family.arch, settings.num_hidden_layers)
    for path in sorted(source.glob("*.safetensors")):
        file = stack.enter_context(safe_open(path, framework="pt"))
        for key in file.keys():  # noqa: SIM118 - no dictionary, it cannot be iterated
            name = names.get_name(key, try_suffixes=(".weight", ".bias"))
            if name is None:
                raise ValueError(f"the weights have a tensor {key} that the family does not have")
            shape = arranged_shape(settings, name, tuple(file.get_slice(key).get_shape()))
            yield _Source(name, shape, _kind(name, shape, quantization), _reader(file, key))


def _reader(file: Any, key: str) -> Callable[[], Floats]:
    # numpy has no bfloat16, hence through torch.
    return lambda: file.get_tensor(key).float().numpy()


def _kind(
    name: str, shape: tuple[int, ...], quantization: GgufQuantization
) -> GGMLQuantizationType:
    """Choose as llama.cpp's converter does: vectors, norms and learned positions in
    full, matrices as asked for."""
    if len(shape) == 1 or name.endswith("_norm.weight") or name == _POSITIONS:
        return _FULL
    wanted = quantization
    if wanted is GgufQuantization.Q4_0 and name in _TOKENS:
        wanted = GgufQuantization.Q8_0
    kind = GGMLQuantizationType[wanted.value]
    block, _ = GGML_QUANT_SIZES[kind]
    # Blocks may not reach over the end of a row.
    return kind if shape[-1] % block == 0 else GGMLQuantizationType.F16


def _add_metadata(
    writer: GGUFWriter,
    settings: Hyperparameters,
    quantization: GgufQuantization,
    name: str,
    tensors: list[_Source],
) -> None:
    parameters = sum(prod(tensor.shape) for tensor in tensors)
    writer.add_type(GGUFType.MODEL)
    writer.add_name(name)
    writer.add_size_label(size_label(parameters, parameters, 0, 0))
    add_hyperparameters(writer, settings)
    writer.add_file_type(LlamaFileType[f"MOSTLY_{quantization.value}"])
    writer.add_quantization_version(GGML_QUANT_VERSION)
