"""Two ranks that each hold a part of the model: the same run as with whole copies."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.trainer.test_ranks import INTERRUPTED, TWO_CPUS, TWO_GPUS, go_as_two
from tests.trainer.trials import Trial, echo_pairs, echo_rows

LORA = {"method": {"lora": {"rank": 4, "alpha": 8, "dropout": "0"}}}
FULL = {"method": {"full": {}}}
SUITES = {
    "suites": [
        {"name": "heldout", "heldOut": {}},
        {"name": "rows", "prompts": {"metrics": ["exact", "similarity"], "maxNewTokens": 8}},
        {"name": "speed", "speed": {"promptTokens": 4, "newTokens": 4, "repeats": 2}},
    ]
}

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def make_trial(bucket: Any, make_run: Any, tmp_path: Path) -> Callable[..., Trial]:
    """Give trials of two ranks, of CPUs by default, held in the way that is asked for."""

    def make(sharding: str, sections: dict[str, Any], **settings: Any) -> Trial:
        ranks = settings.pop("world", {"nodes": 2})
        world = {"world": ranks | {"sharding": sharding}}
        # 22 rows leave a last batch in which rank 1 has fewer rows than rank 0.
        settings = {"rows": (22, 4, 5)} | settings
        name = settings.pop("name", sharding.lower())
        return Trial(bucket, make_run, tmp_path, name=name, sections=sections | world, **settings)

    return make


@pytest.mark.parametrize("world", [TWO_CPUS, TWO_GPUS])
@pytest.mark.parametrize(
    ("sections", "make_rows"),
    [
        pytest.param(LORA | {"evaluation": SUITES}, echo_rows, id="LoRA"),
        pytest.param(
            FULL | {"evaluation": SUITES, "artifacts": ["Merged"]}, echo_rows, id="all weights"
        ),
        pytest.param(LORA | {"objective": "DPO"}, echo_pairs, id="DPO"),
    ],
)
def test_parts_learn_what_whole_copies_learn(
    make_trial: Callable[..., Trial],
    sections: dict[str, Any],
    make_rows: Callable[..., Any],
    world: dict[str, int],
) -> None:
    form = sections.get("artifacts", ["Adapter"])[0]
    output = {"output": {"uri": "s3://any/", "artifacts": [form]}}
    sections = {k: v for k, v in sections.items() if k != "artifacts"} | output
    settings = {"perDeviceBatchSize": 2, "gradientAccumulationSteps": 2, "precision": "FP32"}
    whole, parts = (
        make_trial(kind, sections, make_rows=make_rows, hyperparameters=settings, world=world)
        for kind in ("DDP", "FSDP")
    )
    assert go_as_two(whole, 1) == [0, 0]
    assert go_as_two(parts, 1) == [0, 0]
    # GPUs add up in another order each time.
    rel = 1e-3 if "gpusPerNode" in world else 1e-5
    assert parts.losses() == pytest.approx(whole.losses(), rel=rel)
    assert norms(parts) == pytest.approx(norms(whole), rel=10 * rel)
    measured = [
        {m.metric: float(m.value) for m in trial.report().measurements if "speed" not in m.metric}
        for trial in (whole, parts)
    ]
    assert measured[1] == pytest.approx(measured[0], rel=max(rel, 1e-3))
    mine, theirs = weights(parts, form), weights(whole, form)
    assert mine.keys() == theirs.keys()
    assert all((mine[name] - theirs[name]).abs().max() < 1e-3 for name in mine)


@pytest.mark.parametrize("method", [LORA, FULL], ids=["LoRA", "all weights"])
def test_parts_are_gathered_in_16_bits(
    make_trial: Callable[..., Trial], method: dict[str, Any]
) -> None:
    output = {"output": {"uri": "s3://any/", "artifacts": ["Merged"]}}
    settings = {"precision": "BF16", "epochs": "1"}
    whole, parts = (
        make_trial(kind, method | output, hyperparameters=settings) for kind in ("DDP", "FSDP")
    )
    assert go_as_two(whole, 1) == [0, 0]
    assert go_as_two(parts, 1) == [0, 0]
    assert parts.losses() == pytest.approx(whole.losses(), rel=0.02)
    # What was trained is kept in 32 bits all the same.
    assert {w.dtype for w in weights(parts, "Merged").values()} == {torch.float32}


def test_parts_go_on_from_a_checkpoint_as_parts_and_as_a_whole(
    make_trial: Callable[..., Trial],
) -> None:
    output = {"output": {"uri": "s3://any/", "artifacts": ["Merged"]}}
    settings = {"perDeviceBatchSize": 2, "gradientCheckpointing": "Enabled"}
    undisturbed, parts, alone = (
        make_trial("FSDP", FULL | output, name=name, hyperparameters=settings)
        for name in ("undisturbed", "parts", "alone")
    )
    assert go_as_two(undisturbed, 1) == [0, 0]
    for trial in (parts, alone):
        assert go_as_two(trial, 1, stop_at=7) == [INTERRUPTED, INTERRUPTED]
    assert go_as_two(parts, 2) == [0, 0]
    assert parts.curve() == undisturbed.curve()
    assert parts.artifact("merged") == undisturbed.artifact("merged")
    # What two ranks have saved in parts, one goes on from with all of the batch.
    alone.sections |= {"world": {}}
    alone.go(perDeviceBatchSize=4)
    assert alone.losses() == pytest.approx(undisturbed.losses(), rel=1e-5)
    assert [t.report().resumed_from_step for t in (parts, alone)] == [7, 7]


def weights(trial: Trial, form: str) -> dict[str, torch.Tensor]:
    return load_file(next(trial.fetch(form.lower()).glob("*.safetensors")))


def norms(trial: Trial) -> list[float]:
    return [float(json.loads(line)["gradientNorm"]) for line in trial.curve()]
