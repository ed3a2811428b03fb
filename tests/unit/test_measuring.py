"""Measurements beside the passes: one that fails is a sample without values, that says why."""

import asyncio
from datetime import UTC, datetime

from tunesmith_api.analysis import Analysis, Verdict
from tunesmith_operator.kube.known import Key
from tunesmith_operator.planning.analysis import overall, take, unmeasured
from tunesmith_operator.planning.serving import Sampling
from tunesmith_operator.reconcile.measuring import Measuring

NOW = datetime(2026, 1, 1, tzinfo=UTC)
KEY = Key("ModelDeployment", "team", "chat")


async def test_a_measurement_that_cannot_be_made_is_an_error_of_every_metric() -> None:
    analysis, ended, tasks = Analysis(), asyncio.Event(), Measuring()

    async def fail() -> Sampling:
        raise RuntimeError("a bug")

    tasks.start(KEY, fail, lambda why: unmeasured(analysis, "sha256:a", NOW, why), ended.set)
    await asyncio.wait_for(ended.wait(), 60)
    sampling = tasks.result(KEY, "sha256:a")
    assert sampling is not None
    assert sampling.taken == NOW, "the next one comes an interval later: no hot loop"
    metrics = take(analysis, (), sampling, has_stable=True)
    assert overall(analysis, metrics) is Verdict.PROVIDER_ERROR
    assert "a bug" in metrics[0].message
    assert tasks.result(KEY, "sha256:a") is None, "given once"
