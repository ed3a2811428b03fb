"""What an early look counts, row by row; tests/simulation/test_early.py plays it."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tunesmith_api.analysis import Analysis, Verdict
from tunesmith_api.deploymentstatus import MetricStatus, RolloutStatus
from tunesmith_operator.planning.early import next_look_time, take_early, urgent
from tunesmith_operator.planning.serving import MetricSample, Sampling

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DIGEST = "sha256:" + "a" * 64
COUNTED = {"name": "counted", "builtin": "ErrorRate", "max": "0.1"}
COMPARED = {
    "name": "compared",
    "builtin": "LatencyP95",
    "max": "1",
    "comparedWith": "Stable",
    "maxRegressionPercent": 20,
}
RESTARTS = {"name": "restarts", "builtin": "Restarts", "max": "0"}
GOLDEN = {"name": "golden", "goldenPrompts": {"configMapRef": {"name": "g"}}, "min": "0.9"}


def analysis(*metrics: dict[str, Any], **more: Any) -> Analysis:
    given = {"intervalSeconds": 30, "minRequests": 10, "metrics": metrics or (COUNTED,), **more}
    return Analysis.model_validate(given)


def rollout(*metrics: MetricStatus, **more: Any) -> RolloutStatus:
    return RolloutStatus(
        digest=DIGEST, plan=DIGEST, start_time=NOW, step_start_time=NOW, metrics=metrics, **more
    )


def known(verdict: Verdict, samples: int = 1, name: str = "counted") -> MetricStatus:
    return MetricStatus(name=name, verdict=verdict, samples=samples)


URGENT = [
    pytest.param((), ["counted", "compared"], id="what was not sampled yet"),
    pytest.param((known(Verdict.PASS),), ["compared"], id="not what has passed"),
    pytest.param((known(Verdict.FAIL),), ["counted", "compared"], id="what has failed"),
    pytest.param((known(Verdict.NO_DATA),), ["compared"], id="not what had too little"),
    pytest.param((known(Verdict.PASS, 0),), ["counted", "compared"], id="not in this step"),
]


@pytest.mark.parametrize(("seen", "names"), URGENT)
def test_what_is_urgent(seen: tuple[MetricStatus, ...], names: list[str]) -> None:
    rules = analysis(COUNTED, COMPARED, RESTARTS, GOLDEN)
    assert [m.name for m in urgent(rollout(*seen), rules)] == names


def test_what_others_count_is_never_urgent() -> None:
    prometheus = {"type": "Prometheus", "prometheus": {"url": "http://p"}}
    assert urgent(rollout(), analysis(provider=prometheus)) == ()
    assert urgent(rollout(), analysis(minRequests=0)) == ()


FAILED = known(Verdict.FAIL)
TIMES: list[Any] = [
    pytest.param({}, {}, 6, id="a fifth of the interval after the step began"),
    pytest.param({"confirmSeconds": 10}, {}, 10, id="as it is asked for"),
    pytest.param({"confirmSeconds": 30}, {}, None, id="turned off"),
    pytest.param({"intervalSeconds": 2}, {}, 1, id="at least a second"),
    pytest.param({}, {"look_time": NOW + timedelta(seconds=6)}, 12, id="again, if that saw little"),
    pytest.param({}, {"look_time": NOW + timedelta(seconds=24)}, None, id="the sample is due then"),
    pytest.param({}, {"sample_time": NOW + timedelta(seconds=30)}, 36, id="after a sample"),
    pytest.param({}, {"skips_analysis": True}, None, id="nothing is analysed"),
]


@pytest.mark.parametrize(("rules", "state", "seconds"), TIMES)
def test_when_it_looks(rules: dict[str, Any], state: dict[str, Any], seconds: int | None) -> None:
    expected = None if seconds is None else NOW + timedelta(seconds=seconds)
    assert next_look_time(rollout(FAILED, **state), analysis(**rules)) == expected


LOOKS = [
    pytest.param(MetricSample("compared", "9", "1", 9, 90), True, None, id="too few"),
    pytest.param(MetricSample("compared", "9", "1", 10, 10), True, Verdict.FAIL, id="just enough"),
    pytest.param(MetricSample("compared", "1", "1", 10, 10), True, Verdict.PASS, id="and good"),
    # Above its own limit, but the pods' counts would go on, and the next look count them again.
    pytest.param(MetricSample("compared", "9", "1", 10, 9), True, None, id="stable has too few"),
    pytest.param(MetricSample("compared", "9", "", 10, 0), False, Verdict.FAIL, id="no stable"),
    pytest.param(MetricSample("compared", error="refused"), True, None, id="nobody answers"),
]


@pytest.mark.parametrize(("sample", "has_stable", "verdict"), LOOKS)
def test_what_counts(sample: MetricSample, has_stable: bool, verdict: Verdict | None) -> None:
    rules, before = analysis(COUNTED, COMPARED, GOLDEN), known(Verdict.PASS, name="golden")
    looked = Sampling(DIGEST, NOW, (sample,), is_early=True)
    found = take_early(rules, rollout(before), looked, has_stable=has_stable)
    if verdict is None:
        assert found is None
        return
    assert found is not None
    (compared, golden) = found
    assert (compared.verdict, compared.samples, compared.recent) == (verdict, 1, (verdict,))
    assert golden == before, "what was left out is as it was"
