"""The estimate of GPU memory, held against what autograd really keeps; and what does not fit."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedConfig, Qwen2Config

from tests.trainer.conftest import Bucket, jsonl, pairs
from tunesmith_api.result import TrainerResult, UserErrorReason
from tunesmith_api.run import TrainingRun
from tunesmith_api.training import Full, Lora, Method, QLora
from tunesmith_trainer.memory import GIB, Workload, estimate, read_shape
from tunesmith_trainer.model import add_adapter
from tunesmith_trainer.outcome import UserError
from tunesmith_trainer.prepare import prepare
from tunesmith_trainer.progress import Progress
from tunesmith_trainer.stopping import StopSignal

MakeRun = Callable[..., TrainingRun]

LLAMA = LlamaConfig(
    hidden_size=128,
    intermediate_size=384,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=300,
)
QWEN = Qwen2Config(
    hidden_size=128,
    intermediate_size=512,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=4,
    vocab_size=300,
)
# As in its config.json.
LLAMA_8B = LlamaConfig(
    hidden_size=4096,
    intermediate_size=14336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    vocab_size=128256,
    tie_word_embeddings=False,
)
ROWS, LONGEST = 4, 96


def kept_for_backward(model: torch.nn.Module, vocabulary: int) -> int:
    """Give the bytes of all storages that a forward pass leaves behind, without the weights."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    rows = torch.randint(5, vocabulary, (ROWS, LONGEST))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(input_ids=rows, use_cache=False)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize("config", [LLAMA, QWEN], ids=["llama", "qwen2"])
@pytest.mark.parametrize(
    "method",
    [Method(full=Full()), Method(lora=Lora()), Method(lora=Lora(dropout="0"))],
    ids=["full", "lora", "lora without dropout"],
)
def test_activations_are_what_autograd_keeps(
    config: PreTrainedConfig, method: Method, tmp_path: Path
) -> None:
    config.save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_config(config)
    trained = add_adapter(model, method.adapter) if method.adapter else model
    measured = kept_for_backward(trained.train(), config.vocab_size)
    work = Workload(ROWS, LONGEST, width=4, checkpointing=False)
    estimated = estimate(read_shape(tmp_path), method, work).activations
    assert estimated == pytest.approx(measured, rel=0.1)


def test_a_model_of_8_billion_takes_what_people_know(tmp_path: Path) -> None:
    LLAMA_8B.save_pretrained(tmp_path)
    shape = read_shape(tmp_path)
    assert shape.parameters == 8_030_261_248
    work = Workload(1, 1024, width=2, checkpointing=True)
    lora = estimate(shape, Method(lora=Lora()), work)
    qlora = estimate(shape, Method(qlora=QLora()), work)
    full = estimate(shape, Method(full=Full()), work)
    assert lora.weights == pytest.approx(15 * GIB, rel=0.01)
    # The checkpoints that bitsandbytes makes of it have 5.7 GB.
    assert qlora.weights == pytest.approx(5.7e9, rel=0.03)
    assert full.trained == pytest.approx(16 * 8.03e9, rel=0.01)
    assert qlora.total < 12 * GIB < lora.total < 24 * GIB < full.total


def planned(memory: int) -> dict[str, object]:
    return {"type": "L4", "memoryBytes": memory}


def do(run: TrainingRun, work: Path) -> TrainerResult:
    return prepare(run, work, Progress.of(run), StopSignal())


def test_preparation_says_what_a_gpu_will_hold(
    bucket: Bucket, make_run: MakeRun, tmp_path: Path
) -> None:
    bucket.put("data/train.jsonl", jsonl(*pairs(20)))
    run = make_run(plannedGpus=planned(24 * GIB))
    result = do(run, tmp_path / "1")
    assert result.estimated_gpu_memory_bytes is not None
    assert GIB < result.estimated_gpu_memory_bytes < 2 * GIB
    again = do(make_run(plannedGpus=planned(24 * GIB), attempt=2), tmp_path / "2")
    assert again.estimated_gpu_memory_bytes == result.estimated_gpu_memory_bytes


def test_nothing_is_estimated_for_a_cpu(bucket: Bucket, make_run: MakeRun, tmp_path: Path) -> None:
    bucket.put("data/train.jsonl", jsonl(*pairs(20)))
    assert do(make_run(), tmp_path).estimated_gpu_memory_bytes is None


def test_what_cannot_fit_ends_before_a_gpu_is_taken(
    bucket: Bucket, make_run: MakeRun, tmp_path: Path
) -> None:
    bucket.put("data/train.jsonl", jsonl(*pairs(20)))
    with pytest.raises(
        UserError, match=r"at least 1\.0 GiB of GPU memory, the largest L4 has 0\.5"
    ) as caught:
        do(make_run(plannedGpus=planned(GIB // 2)), tmp_path)
    assert caught.value.reason == UserErrorReason.DOES_NOT_FIT
    assert "compute.gpuType with 1.0 GiB or more" in str(caught.value)
