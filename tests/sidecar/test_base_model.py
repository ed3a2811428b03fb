"""The base model of adapters: compared with what the trainer wrote down, each time it is loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.sidecar.test_adapters import Pod, options, pod, running  # noqa: F401
from tests.trainer.conftest import Bucket, make_run  # noqa: F401
from tests.trainer.test_sources import put_model
from tunesmith_api.adapters import AdapterPhase
from tunesmith_api.run import TrainingRun
from tunesmith_trainer.sources import fetch_tokenizer

pytestmark = pytest.mark.timeout(600)

WEIGHTS = "models/m/model.safetensors"


@pytest.fixture
def base(
    bucket: Bucket,
    make_run: Callable[..., TrainingRun],  # noqa: F811
    tmp_path: Path,
) -> dict[str, str]:
    """A base model in S3, with the revision that a job's ModelVersion names."""
    put_model(bucket, tmp_path / "made")
    uri = bucket.uri("models/m/")
    trained_on = fetch_tokenizer(make_run(model={"uri": uri}), tmp_path / "seen").revision
    return {"adapters_base_model": uri, "adapters_base_digest": trained_on}


async def test_an_adapter_is_loaded_only_onto_the_base_model_it_was_trained_on(
    pod: Pod,  # noqa: F811
    base: dict[str, str],
    tmp_path: Path,
) -> None:
    pod.want("chat-a", 8, base=base["adapters_base_model"])
    await pod.tell()
    await pod.until_loaded("chat-a")
    assert await pod.readiness() == (200, "ok")
    # What is in the engine's memory is what was compared; a restarted one loads what is there now.
    pod.bucket.put(WEIGHTS, b"somebody else's")
    pod.kill_engine()
    pod.start_engine()
    await pod.until(lambda said: said["chat-a"][0] is AdapterPhase.REFUSED)
    why = (await pod.report())["chat-a"][1]
    assert f"the adapter was trained on {base['adapters_base_digest']}" in why
    assert base["adapters_base_model"] in why
    assert (await pod.readiness())[0] == 503
    pod.bucket.put(WEIGHTS, (tmp_path / "made/model.safetensors").read_bytes())
    await pod.until_loaded("chat-a")
    assert await pod.readiness() == (200, "ok")
