"""The arithmetic and the verdicts of a roll-out, row by row."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tunesmith_api.analysis import Analysis, AnalysisMetric, Verdict
from tunesmith_api.deploymentstatus import (
    MetricStatus,
    ModelDeploymentStatus,
    RevisionStatus,
    RollbackReason,
)
from tunesmith_api.modeldeployment import ModelDeployment
from tunesmith_api.revision import RevisionTemplate
from tunesmith_api.rollout import CapacityMode
from tunesmith_api.router import RouterReport, RouterSplit
from tunesmith_operator.planning.analysis import begin_step, failed, judge, overall, take
from tunesmith_operator.planning.capacity import (
    Sizing,
    canary_asks,
    canary_needs,
    carried_weight,
    stable_keeps,
)
from tunesmith_operator.planning.conditions import find
from tunesmith_operator.planning.rejection import reason_to_reject
from tunesmith_operator.planning.rollout import decide_rollout
from tunesmith_operator.planning.routing import RouterAnswer, read_answers
from tunesmith_operator.planning.serving import (
    MetricSample,
    Sampling,
    SeenHost,
    SeenRevision,
    SeenRouter,
    ServingObservation,
    ServingPod,
    Traffic,
)
from tunesmith_operator.planning.traffic import choose_traffic

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DIGEST = "sha256:" + "a" * 64
OTHER = "sha256:" + "b" * 64


def metric(**fields: Any) -> AnalysisMetric:
    return AnalysisMetric.model_validate({"name": "m", "builtin": "LatencyP95", **fields})


def relative(percent: int, **fields: Any) -> AnalysisMetric:
    return metric(comparedWith="Stable", maxRegressionPercent=percent, **fields)


HIGHER = {"builtin": "TokensPerSecond"}
JUDGED = [
    pytest.param(metric(max="1"), MetricSample("m", "1"), Verdict.PASS, id="at its limit"),
    pytest.param(metric(max="1"), MetricSample("m", "1.01"), Verdict.FAIL, id="above its limit"),
    pytest.param(metric(min="1"), MetricSample("m", "0.9"), Verdict.FAIL, id="below its limit"),
    pytest.param(metric(max="1"), MetricSample("m"), Verdict.PROVIDER_ERROR, id="no value"),
    pytest.param(
        metric(max="1"), MetricSample("m", "NaN"), Verdict.PROVIDER_ERROR, id="not a number"
    ),
    pytest.param(metric(max="1"), MetricSample("m", "inf"), Verdict.PROVIDER_ERROR, id="infinite"),
    pytest.param(metric(max="1"), MetricSample("m", "a lot"), Verdict.PROVIDER_ERROR, id="text"),
    pytest.param(
        metric(max="1"), MetricSample("m", "", "", 10), Verdict.PROVIDER_ERROR, id="of enough"
    ),
    pytest.param(
        metric(max="1"), MetricSample("m", "NaN", "", 9), Verdict.NO_DATA, id="NaN, but of few"
    ),
    pytest.param(
        metric(max="1"), MetricSample("m", "9", requests=9), Verdict.NO_DATA, id="bad, but of few"
    ),
    pytest.param(
        metric(max="1"), MetricSample("m", "0", requests=10), Verdict.PASS, id="just enough"
    ),
    pytest.param(
        metric(max="1"),
        MetricSample("m", "9", error="refused"),
        Verdict.PROVIDER_ERROR,
        id="a provider that is down, whatever value it had",
    ),
    pytest.param(relative(20), MetricSample("m", "1.2", "1"), Verdict.PASS, id="as bad as may be"),
    pytest.param(relative(20), MetricSample("m", "1.21", "1"), Verdict.FAIL, id="too much worse"),
    pytest.param(relative(20), MetricSample("m", "0.1", "1"), Verdict.PASS, id="much better"),
    pytest.param(relative(0), MetricSample("m", "0", "0"), Verdict.PASS, id="both at nothing"),
    pytest.param(
        relative(20, **HIGHER), MetricSample("m", "79", "100"), Verdict.FAIL, id="too few tokens"
    ),
    pytest.param(
        relative(20, **HIGHER), MetricSample("m", "200", "100"), Verdict.PASS, id="more tokens"
    ),
    pytest.param(relative(20), MetricSample("m", "1"), Verdict.NO_DATA, id="nothing to compare to"),
    pytest.param(
        relative(20), MetricSample("m", "1", "NaN"), Verdict.PROVIDER_ERROR, id="stable's is none"
    ),
    pytest.param(
        relative(20),
        MetricSample("m", "1", "NaN", 10, 3),
        Verdict.NO_DATA,
        id="stable's is none, of too few requests",
    ),
    pytest.param(
        relative(20),
        MetricSample("m", "1", "1", 10, 3),
        Verdict.NO_DATA,
        id="stable had too few requests",
    ),
]


@pytest.mark.parametrize(("rule", "sample", "verdict"), JUDGED)
def test_a_value_is_judged(rule: AnalysisMetric, sample: MetricSample, verdict: Verdict) -> None:
    judged = judge(rule, sample, 10, has_stable=True)
    assert judged.verdict is verdict
    assert judged.message.startswith("m ")


def test_nothing_of_no_requests_is_no_data_even_where_none_are_needed() -> None:
    judged = judge(metric(max="1"), MetricSample("m", requests=0), 0, has_stable=True)
    assert judged.verdict is Verdict.NO_DATA
    assert judged.message == "m was taken over 0 requests, at least 1 are needed"


def test_a_dead_stable_is_no_yardstick_but_a_limit_of_its_own_still_is() -> None:
    alone = MetricSample("m", "1")
    both = judge(relative(20, max="2"), alone, 0, has_stable=False)
    assert both.verdict is Verdict.PASS
    only = judge(relative(20), alone, 0, has_stable=False)
    assert only.verdict is Verdict.NO_DATA


def analysis(**fields: Any) -> Analysis:
    metrics = [{"name": "m", "builtin": "LatencyP95", "max": "1"}]
    return Analysis.model_validate({"metrics": metrics, "minRequests": 0, **fields})


def sampled(rules: Analysis, *values: str) -> tuple[MetricStatus, ...]:
    known: tuple[MetricStatus, ...] = ()
    for value in values:
        error = "down" if value == "down" else ""
        sample = MetricSample("m", value, requests=0 if value == "few" else None, error=error)
        known = take(rules, known, Sampling(DIGEST, NOW, (sample,)), has_stable=True)
    return known


WINDOWS = [
    pytest.param(["9", "9"], False, Verdict.FAIL, id="two failures are one too few"),
    pytest.param(["9", "9", "9"], True, Verdict.FAIL, id="three are enough"),
    pytest.param(["9", "0", "9", "0", "9"], True, Verdict.FAIL, id="not only in a row"),
    pytest.param(
        ["9", "few", "few", "9", "", "down", "few", "9"],
        True,
        Verdict.FAIL,
        id="with little traffic and a provider that comes and goes",
    ),
    pytest.param(
        ["9", "9", "0", "0", "0", "9"], False, Verdict.FAIL, id="what left the window is forgotten"
    ),
    pytest.param(["down"] * 9, False, Verdict.PROVIDER_ERROR, id="a provider is no bad canary"),
    pytest.param(["", "NaN", ""], False, Verdict.PROVIDER_ERROR, id="nor one without numbers"),
    pytest.param(["few", "few"], False, Verdict.NO_DATA, id="few requests are no failures"),
    pytest.param(["9", "0"], False, Verdict.PASS, id="the last one passes"),
]


@pytest.mark.parametrize(("values", "is_over", "verdict"), WINDOWS)
def test_failures_count_within_the_window(
    values: list[str], is_over: bool, verdict: Verdict
) -> None:
    rules = analysis()
    known = sampled(rules, *values)
    assert (failed(rules, known) is not None) is is_over
    assert overall(rules, known) is verdict


def test_a_new_step_has_no_data_but_remembers_failures() -> None:
    rules = analysis()
    known = begin_step(sampled(rules, "9", "9", "0"))
    assert overall(rules, known) is Verdict.NO_DATA
    assert known[0].failures == 2


SURGE = Sizing(4, CapacityMode.SURGE)
LEAN = Sizing(4, CapacityMode.NO_SURGE)
NEEDS = [
    pytest.param(SURGE, 0, 1, 4, id="a dark launch needs a pod"),
    pytest.param(SURGE, 10, 1, 4, id="ten percent too"),
    pytest.param(SURGE, 26, 2, 4, id="a little more than a quarter needs two"),
    pytest.param(SURGE, 100, 4, 4, id="everything needs all, beside all of stable's"),
    pytest.param(LEAN, 50, 2, 2, id="without surge two of four come from stable"),
    pytest.param(LEAN, 100, 3, 1, id="and the last one only when it has no traffic"),
]


@pytest.mark.parametrize(("size", "weight", "canary", "stable"), NEEDS)
def test_pods_that_a_weight_needs(size: Sizing, weight: int, canary: int, stable: int) -> None:
    assert canary_needs(size, weight) == canary
    assert stable_keeps(size, canary) == stable


@pytest.mark.parametrize(
    ("replicas", "share", "kept"),
    [
        pytest.param(4, 84, 4, id="five are asked for now, and its traffic needs four of them"),
        pytest.param(4, 80, 3, id="the traffic has moved on"),
        pytest.param(3, 100, 3, id="it takes no pod back before the canary's are gone"),
    ],
)
def test_pods_that_stable_keeps_when_fewer_are_asked_for(
    replicas: int, share: int, kept: int
) -> None:
    size = Sizing(5, CapacityMode.NO_SURGE)
    assert stable_keeps(size, 2, replicas=replicas, share=share) == kept


ASKED = [
    pytest.param(0, 0, 0, 1, id="begins with one"),
    pytest.param(1, 0, 0, 1, id="waits for it"),
    pytest.param(1, 1, 0, 1, id="waits until it has its share"),
    pytest.param(1, 1, 25, 2, id="then asks for the next"),
    pytest.param(2, 2, 50, 2, id="stops at what the step needs"),
]


@pytest.mark.parametrize(("replicas", "ready", "share", "asked"), ASKED)
def test_pods_change_hands_one_at_a_time(replicas: int, ready: int, share: int, asked: int) -> None:
    assert canary_asks(LEAN, 50, replicas=replicas, ready=ready, share=share) == asked
    assert carried_weight(LEAN, 1, 50) == 25


def template(**fields: Any) -> RevisionTemplate:
    given = {
        "model": {"uri": "s3://models/v1/", "digest": DIGEST},
        "delivery": "Merged",
        "engine": {},
    }
    return RevisionTemplate.model_validate({**given, **fields})


def role(number: int) -> RevisionStatus:
    return RevisionStatus(revision=number, name=f"r{number}", digest=DIGEST)


def revision(number: int, ready: int, replicas: int = 4) -> SeenRevision:
    return SeenRevision(
        f"r{number}", "", DIGEST, number, template(), replicas=replicas, ready_replicas=ready
    )


def rollout(weight: int, **more: Any) -> dict[str, Any]:
    given = {"digest": DIGEST, "plan": DIGEST, "startTime": NOW, "weight": weight}
    return {"rollout": {**given, **more}}


ABORT = {"abort": {"reason": "AnalysisFailed", "time": NOW}}
SPLIT = Traffic("r1", "r2", 25)
ROWS = [
    pytest.param(4, 1, rollout(25), Traffic("r1"), SPLIT, id="what was granted"),
    pytest.param(4, 0, rollout(25), SPLIT, Traffic("r1"), id="a canary without pods gets nothing"),
    pytest.param(4, 4, rollout(100), SPLIT, Traffic("r2"), id="everything"),
    pytest.param(
        4, 1, rollout(25, **ABORT), SPLIT, Traffic("r1"), id="a rejected canary gets nothing"
    ),
    pytest.param(0, 4, rollout(25), SPLIT, Traffic("r2"), id="a stand-in for a dead stable"),
    pytest.param(0, 2, rollout(25), SPLIT, SPLIT, id="nobody is whole: leave it"),
    pytest.param(
        0, 4, rollout(25, **ABORT), SPLIT, Traffic("r2"), id="bad answers beat none at all"
    ),
    pytest.param(
        1,
        4,
        rollout(25, **ABORT),
        Traffic("r2"),
        Traffic("r1"),
        id="few good pods beat bad ones",
    ),
    pytest.param(
        1, 4, rollout(25), Traffic("r2"), Traffic("r2"), id="stable comes back with all its pods"
    ),
]


@pytest.mark.parametrize(("stable", "canary", "state", "now", "then"), ROWS)
def test_each_row_says_where_the_traffic_ends(
    stable: int, canary: int, state: dict[str, Any], now: Traffic, then: Traffic
) -> None:
    status = ModelDeploymentStatus.model_validate({"stable": role(1), "canary": role(2), **state})
    deployment = {"metadata": {"name": "d"}, "spec": {"source": {"modelVersion": "m"}}}
    seen = ServingObservation(
        ModelDeployment.model_validate(deployment),
        revisions=(revision(1, stable), revision(2, canary, 1 if canary == 1 else 4)),
        router=SeenRouter(now),
    )
    assert choose_traffic(seen, status, 0) == then


def test_a_rollback_took_as_long_as_until_the_routers_confirmed_it() -> None:
    """Not until the look that found it so, which comes when it comes."""
    deployment = {
        "metadata": {"name": "d"},
        "spec": {"source": {"modelVersion": "m"}},
        "status": {"stable": role(1), "canary": role(2), **rollout(0, **ABORT)},
    }
    seen = ServingObservation(
        ModelDeployment.model_validate(deployment),
        revisions=(revision(1, 4), revision(2, 1, 1)),
        router=SeenRouter(Traffic("r1"), since=NOW + timedelta(milliseconds=80)),
    )
    last = decide_rollout(seen, NOW + timedelta(seconds=7)).status.last_rollback
    assert last is not None
    assert last.restored_after_milliseconds == 80


@pytest.mark.parametrize(
    ("takes_requests", "expected"),
    [
        pytest.param([True, True], ("True", "Serving"), id="both are ready"),
        pytest.param([False, True], ("True", "Serving"), id="one is, which is enough"),
        pytest.param([False, False], ("False", "RouterUnavailable"), id="nobody gets through yet"),
    ],
)
def test_nothing_is_ready_before_a_router_pod_takes_requests(
    takes_requests: list[bool], expected: tuple[str, str]
) -> None:
    """All of them have the split: the kubelet looks a second later."""
    report = RouterReport(split=RouterSplit(main="r1"), counts=())
    pods = [
        ServingPod(f"p{n}", f"p{n}", 0, is_ready=ready) for n, ready in enumerate(takes_requests)
    ]
    deployment = {
        "metadata": {"name": "d"},
        "spec": {"source": {"modelVersion": "m"}},
        "status": {"stable": role(1)},
    }
    seen = ServingObservation(
        ModelDeployment.model_validate(deployment),
        revisions=(revision(1, 4),),
        router=read_answers([RouterAnswer(pod, report) for pod in pods]),
    )
    conditions = decide_rollout(seen, NOW).status.conditions
    for kind in ("Ready", "Available"):
        condition = find(conditions, kind)
        assert condition is not None
        assert (condition.status, condition.reason) == expected


@pytest.mark.parametrize(
    ("ended", "loops", "is_rejected"),
    [
        pytest.param(timedelta(seconds=-1), False, False, id="a second before it"),
        pytest.param(timedelta(0), False, True, id="in the same second, as far as Kubernetes says"),
        pytest.param(timedelta(seconds=2), False, True, id="after it"),
        pytest.param(timedelta(seconds=2), True, False, id="as it did before the canary came"),
    ],
)
def test_an_engine_that_ends_right_after_a_canary_on_its_pods_had_traffic_is_the_canarys(
    ended: timedelta, loops: bool, is_rejected: bool
) -> None:
    exposed = NOW + timedelta(milliseconds=400)
    shared = [replace(revision(n, 4), host="base") for n in (1, 2)]
    host = SeenHost("base", "u", 4, restarts=1, last_restart=NOW + ended)
    state = rollout(25, exposedTime=exposed, stableCrashLoops=loops)
    deployment = {
        "metadata": {"name": "d"},
        "spec": {"source": {"modelVersion": "m"}},
        "status": {"stable": role(1), "canary": role(2), **state},
    }
    seen = ServingObservation(
        ModelDeployment.model_validate(deployment), revisions=tuple(shared), hosts=(host,)
    )
    canary = seen.deployment.status.rollout
    assert canary is not None
    why = reason_to_reject(seen, canary, shared[1], NOW + timedelta(seconds=3))
    assert (why is not None) is is_rejected
    assert why is None or why.reason is RollbackReason.CRASH_LOOPING
