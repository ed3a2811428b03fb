"""Measurements beside the passes: one that fails is begun again, but not at once."""

import asyncio
import time

import pytest

from tunesmith_operator.kube.known import Key
from tunesmith_operator.planning.serving import Sampling
from tunesmith_operator.reconcile import measuring
from tunesmith_operator.reconcile.measuring import Measuring


async def test_a_measurement_that_cannot_be_made_is_no_hot_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(measuring, "FAILED_SECONDS", 0.2)
    key, ended, tasks = Key("ModelDeployment", "team", "chat"), asyncio.Event(), Measuring()

    async def take() -> Sampling:
        raise RuntimeError("a bug")

    began = time.monotonic()
    tasks.start(key, take, ended.set)
    await asyncio.wait_for(ended.wait(), 2)
    assert time.monotonic() - began >= 0.2
    assert tasks.result(key, "sha256:a") is None
