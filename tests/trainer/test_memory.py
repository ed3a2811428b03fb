"""The estimate of GPU memory, held against what autograd really keeps; and what does not fit."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedConfig, Qwen2Config

from tests.trainer.conftest import Bucket, jsonl, pairs
from tunesmith_api.result import TrainerResult, UserErrorReason
from tunesmith_api.run import TrainingRun
from tunesmith_api.training import Full, Lora, Method, Optimizer, QLora, Switch
from tunesmith_trainer.memory import GIB, Workload, estimate, read_shape
from tunesmith_trainer.model import add_adapter, set_gradient_checkpointing
from tunesmith_trainer.outcome import UserError
from tunesmith_trainer.placing import place
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


def test_recomputing_keeps_the_inputs_of_layers_alone(tmp_path: Path) -> None:
    LLAMA.save_pretrained(tmp_path)
    shape, work = read_shape(tmp_path), Workload(ROWS, LONGEST, width=4, checkpointing=True)

    def kept(wanted: Switch) -> int:
        model = AutoModelForCausalLM.from_config(LLAMA)
        set_gradient_checkpointing(model, wanted, is_full=True)
        return kept_for_backward(model.train(), LLAMA.vocab_size)

    all_of_it, inputs = kept(Switch.DISABLED), kept(Switch.ENABLED)
    assert inputs < 0.4 * all_of_it
    # Auto is on for GPUs only, where memory is short.
    assert kept(Switch.AUTO) == all_of_it
    # The estimate adds the one layer that is computed again at a time.
    assert inputs < estimate(shape, Method(full=Full()), work).activations < all_of_it


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


@pytest.mark.parametrize(
    ("optimizer", "bytes_each"),
    [(Optimizer.ADAMW, 16), (Optimizer.ADAMW_8BIT, 10), (Optimizer.ADAFACTOR, 8)],
)
def test_the_update_rule_decides_what_a_trained_weight_takes(
    tmp_path: Path, optimizer: Optimizer, bytes_each: int
) -> None:
    LLAMA_8B.save_pretrained(tmp_path)
    work = Workload(1, 1024, width=2, checkpointing=True, optimizer=optimizer)
    full = estimate(read_shape(tmp_path), Method(full=Full()), work)
    assert full.trained == pytest.approx(bytes_each * 8.03e9, rel=0.01)


def test_logits_are_held_chunk_by_chunk(tmp_path: Path) -> None:
    LLAMA_8B.save_pretrained(tmp_path)
    shape, lora = read_shape(tmp_path), Method(lora=Lora())
    short, long = (
        estimate(shape, lora, Workload(8, length, width=2, checkpointing=True))
        for length in (1024, 4096)
    )
    assert short.logits == long.logits < 2 * GIB


def test_parts_hold_their_share_and_what_is_gathered(tmp_path: Path) -> None:
    LLAMA_8B.save_pretrained(tmp_path)
    shape, full = read_shape(tmp_path), Method(full=Full())
    work = Workload(1, 1024, width=2, checkpointing=True)
    whole, parts = (estimate(shape, full, replace(work, parts=parts)) for parts in (1, 8))
    assert parts.trained == whole.trained // 8
    assert (parts.activations, parts.logits) == (whole.activations, whole.logits)
    # Both embeddings with gradients, and three layers of 218 million weights, in 16 bits.
    assert parts.gathered == pytest.approx(4 * 1.05e9 + 4 * 218e6 + 6 * 218e6, rel=0.05)


PLACES = [
    pytest.param({"lora": {}}, 80, {}, "DDP", id="a whole copy fits"),
    pytest.param({"full": {}}, 80, {}, "FSDP", id="only a part fits"),
    pytest.param({"full": {}}, 0, {}, "DDP", id="the memory is not known"),
    pytest.param({"lora": {}}, 80, {"sharding": "FSDP"}, "FSDP", id="parts are asked for"),
    pytest.param({"qlora": {}}, 24, {}, "DDP", id="4 bits stay whole"),
    pytest.param({"lora": {}}, 24, {"ranks": 1}, "DDP", id="one GPU"),
]


@pytest.mark.parametrize(("method", "gib", "gpus", "expected"), PLACES)
def test_auto_takes_whole_copies_where_they_fit(
    make_run: MakeRun,
    tmp_path: Path,
    method: dict[str, object],
    gib: int,
    gpus: dict[str, object],
    expected: str,
) -> None:
    LLAMA_8B.save_pretrained(tmp_path)
    given = {"type": "A100", "memoryBytes": gib * GIB, "ranks": 8} | gpus
    run = make_run(plannedGpus=given, method=method, hyperparameters={"perDeviceBatchSize": 1})
    found = place(read_shape(tmp_path), run, 1024)
    assert found.sharding == expected
    assert ("train with " + expected in found.reason) == (given["ranks"] != 1)


@pytest.mark.parametrize(
    ("gpus", "hyperparameters", "said"),
    [
        pytest.param({"ranks": 1}, {}, "4 GPUs in all with compute.sharding Auto", id="one GPU"),
        pytest.param(
            {"ranks": 8, "sharding": "DDP"},
            {},
            "Use method.qlora .*compute.sharding FSDP",
            id="DDP",
        ),
        pytest.param({"ranks": 2}, {}, "in 2 parts takes at least .* 4 GPUs in all", id="two"),
        pytest.param(
            {"ranks": 8}, {"optimizer": "AdamW8bit"}, "with 8.* GiB or more", id="no parts"
        ),
    ],
)
def test_what_fits_nowhere_names_more_gpus(
    make_run: MakeRun,
    tmp_path: Path,
    gpus: dict[str, object],
    hyperparameters: dict[str, object],
    said: str,
) -> None:
    LLAMA_8B.save_pretrained(tmp_path)
    given = {"type": "A100", "memoryBytes": 60 * GIB} | gpus
    run = make_run(plannedGpus=given, method={"full": {}}, hyperparameters=hyperparameters)
    with pytest.raises(UserError, match=said) as caught:
        place(read_shape(tmp_path), run, 1024)
    assert caught.value.reason == UserErrorReason.DOES_NOT_FIT


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
    assert result.placement is not None
    assert GIB < result.placement.memory_bytes < 2 * GIB
    assert (result.placement.sharding, result.placement.reason) == ("DDP", "")
    again = do(make_run(plannedGpus=planned(24 * GIB), attempt=2), tmp_path / "2")
    assert again.placement == result.placement


def test_nothing_is_estimated_for_a_cpu(bucket: Bucket, make_run: MakeRun, tmp_path: Path) -> None:
    bucket.put("data/train.jsonl", jsonl(*pairs(20)))
    assert do(make_run(), tmp_path).placement is None


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
