"""The real ``decide_rollout`` in a toy cluster: canaries that are bad, and data that is missing."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.simulation.rollout_parts import (
    DOWN,
    EMPTY,
    GOLDEN,
    IDLE,
    INVALID,
    NAN,
    RULES,
    TEXT,
    Model,
)
from tests.simulation.rollout_world import RolloutWorld
from tests.simulation.rollouts import (
    BURST_ONLY_BY_SAMPLES,
    at_weight,
    message,
    reason,
    rolled_back,
    serving,
    settle,
    until,
)
from tunesmith_api.analysis import Verdict
from tunesmith_api.conditions import DeploymentCondition, DeploymentReason
from tunesmith_api.deploymentstatus import (
    RollbackReason,
)
from tunesmith_operator.planning.conditions import find, is_true
from tunesmith_operator.planning.serving import MetricSample, Traffic

BAD = [
    pytest.param(
        Model(error_rate=1.0), {}, RollbackReason.CONSECUTIVE_ERRORS, "", 2, id="only errors"
    ),
    pytest.param(
        Model(error_rate=0.3), {}, RollbackReason.ANALYSIS_FAILED, "error-rate", 16, id="errors"
    ),
    pytest.param(Model(latency="3"), {}, RollbackReason.ANALYSIS_FAILED, "latency", 16, id="slow"),
    pytest.param(
        Model(latency="0.8"), {}, RollbackReason.ANALYSIS_FAILED, "latency", 16, id="slower"
    ),
    pytest.param(
        Model(quality="0.5"),
        {"analysis": {**RULES["analysis"], "metrics": [GOLDEN]}},
        RollbackReason.ANALYSIS_FAILED,
        "quality",
        16,
        id="worse answers",
    ),
    pytest.param(
        Model(crashes_after=5), {}, RollbackReason.CRASH_LOOPING, "", 20, id="crash-looping"
    ),
    pytest.param(
        Model(crashes_after=5),
        BURST_ONLY_BY_SAMPLES,
        RollbackReason.CANARY_UNHEALTHY,
        "",
        30,
        id="pods that are lost again and again, where restarts do not count",
    ),
]


def interruptions(world: RolloutWorld) -> int:
    return sum(e.reason == "CanaryInterrupted" for e in world.events)


@pytest.mark.parametrize(("model", "rules", "why", "metric", "seconds"), BAD)
def test_a_bad_canary_goes_and_the_spec_is_left_alone(
    model: Model, rules: dict[str, Any], why: RollbackReason, metric: str, seconds: int
) -> None:
    world = serving({2: model}, **rules)
    spec = world.deployment.spec
    last = rolled_back(world)
    assert (last.reason, last.metric) == (why, metric)
    assert last.detected_after_seconds <= seconds
    assert last.restored_after_milliseconds is not None
    assert last.restored_after_milliseconds <= 500
    assert world.deployment.spec == spec
    begun = [("Normal", "RolloutStarted"), ("Normal", "Promoted"), ("Normal", "RolloutStarted")]
    ended = [("Warning", why.value), ("Warning", "RolledBack")]
    lost = [("Warning", "CanaryInterrupted")] * interruptions(world)
    assert [(e.type, e.reason) for e in world.events] == [*begun, *lost, *ended]
    assert world.events[-1].message == f"revision 1 serves again: {last.message}"
    assert max(weight for _, weight in world.weights) == 25
    for _ in range(300):
        world.turn()
    assert max(weight for _, weight in world.weights[-1:]) == 0, "a rejected digest came back"


def test_a_burst_of_errors_waits_for_no_sample_of_any_kind() -> None:
    rare = {"intervalSeconds": 600, "confirmSeconds": 600, "dataTimeoutSeconds": 900}
    world = serving({2: Model(error_rate=1.0)}, analysis={**RULES["analysis"], **rare})
    last = rolled_back(world)
    assert last.reason is RollbackReason.CONSECUTIVE_ERRORS
    # Ten requests a second, twenty in a row.
    assert last.detected_after_seconds <= 3


def test_the_figures_of_a_rollback_are_those_of_the_world() -> None:
    world = serving({2: Model(error_rate=1.0)})
    last = rolled_back(world)
    assert last.from_revision == 2
    assert last.to_revision == 1
    canary = next(r for r in world.revisions.values() if r.number == 2)
    assert 0 < last.requests_served_by_rejected <= canary.failed
    assert canary.failed <= 2 * 10, "two seconds at 25 % of 40 requests a second"


def test_the_third_failed_sample_ends_it_and_not_a_fourth() -> None:
    analysis = {**RULES["analysis"], "confirmSeconds": RULES["analysis"]["intervalSeconds"]}
    world = serving({2: Model(latency="3")}, **BURST_ONLY_BY_SAMPLES, analysis=analysis)
    rolled_back(world)
    assert (world.samples, world.early_looks) == (3, 0)


def test_a_notification_is_sent_once() -> None:
    world = serving(
        {2: Model(error_rate=1.0)},
        rollback={"keepStableWarmSeconds": 60, "notify": {"url": "http://hook"}},
    )
    rolled_back(world)
    assert [n.url for n in world.notes] == ["http://hook"]
    assert world.notes[0].rollback.reason is RollbackReason.CONSECUTIVE_ERRORS


def test_a_canary_that_waits_for_a_gpu_is_given_up_and_stable_is_untouched() -> None:
    world = serving({2: Model(never_ready="0/4 nodes: insufficient nvidia.com/gpu")})
    until(world, lambda w: w.status.canary is not None)
    world.turn()
    waiting = find(world.status.conditions, DeploymentCondition.PROGRESSING)
    assert waiting is not None
    assert waiting.reason == DeploymentReason.WAITING_FOR_REPLICAS
    assert "nvidia.com/gpu" in waiting.message
    last = rolled_back(world)
    assert last.reason is RollbackReason.READY_TIMEOUT
    assert last.requests_served_by_rejected == 0
    assert "nvidia.com/gpu" in last.message
    assert not any("scale 1" in line for line in world.transcript[3:])
    assert is_true(world.status.conditions, DeploymentCondition.STALLED)


def test_pods_that_refuse_the_model_are_not_waited_for() -> None:
    world = serving({2: Model(refused="manifest has digest sha256:b")})
    last = rolled_back(world)
    assert last.reason is RollbackReason.MODEL_REFUSED
    assert last.detected_after_seconds <= 2


def test_one_evicted_canary_pod_is_nobodys_fault() -> None:
    world = at_weight(serving(), 25)
    canary = next(r for r in world.revisions.values() if r.number == 2)
    canary.pods[0].is_ready, canary.pods[0].starts_in = False, 3
    world.turn()
    assert world.traffic == Traffic(main=world.deployment.status.stable.name)  # type: ignore[union-attr]
    assert world.rollout.step == 0
    settle(world)
    assert world.status.stable is not None
    assert world.status.stable.revision == 2


def test_without_automatic_rollback_the_weight_stays_and_somebody_is_told() -> None:
    world = serving(
        {2: Model(error_rate=0.3)}, rollback={"automatic": False, "keepStableWarmSeconds": 60}
    )
    until(world, lambda w: is_true(w.status.conditions, DeploymentCondition.STALLED))
    assert reason(world, DeploymentCondition.STALLED) == DeploymentReason.ROLLBACK_DISABLED
    said = message(world, DeploymentCondition.STALLED)
    assert "error-rate is 0.3, above 0.05. rollback.automatic is false" in said
    assert "put the former source into the spec" in said
    for _ in range(120):
        world.turn()
    assert [e.reason for e in world.events].count(DeploymentReason.ROLLBACK_DISABLED) == 1
    assert world.weights[-1][1] == 25
    world.offer(1)
    settle(world)


@pytest.mark.parametrize(
    ("says", "why"),
    [
        pytest.param(DOWN, RollbackReason.PROVIDER_ERROR, id="the provider is down"),
        pytest.param(EMPTY, RollbackReason.PROVIDER_ERROR, id="answers are empty"),
        pytest.param(INVALID, RollbackReason.PROVIDER_ERROR, id="the query is wrong"),
        pytest.param(NAN, RollbackReason.PROVIDER_ERROR, id="answers are NaN"),
        pytest.param(TEXT, RollbackReason.PROVIDER_ERROR, id="answers are text"),
        pytest.param(IDLE, RollbackReason.INSUFFICIENT_DATA, id="nobody asks the canary"),
    ],
)
def test_missing_metrics_hold_and_then_go_back_at_the_deadline(
    says: Callable[[], MetricSample], why: RollbackReason
) -> None:
    world = serving()
    world.fail_provider(10_000, says)
    at_weight(world, 25)
    for _ in range(50):
        world.turn()
    assert world.traffic is not None
    assert world.traffic.weight == 25, "missing data never promotes"
    assert world.status.rollout is not None
    assert all(m.failures == 0 for m in world.rollout.metrics), "nor is it the canary's fault"
    assert {m.verdict for m in world.rollout.metrics} == {
        Verdict.PROVIDER_ERROR if why is RollbackReason.PROVIDER_ERROR else Verdict.NO_DATA
    }
    last = rolled_back(world)
    assert last.reason is why
    assert 60 <= last.detected_after_seconds <= 66


def test_a_provider_that_comes_back_in_time_changes_nothing() -> None:
    world = serving()
    world.fail_provider(60, DOWN)
    at_weight(world, 25)
    for _ in range(25):
        world.turn()
    words = reason(world, DeploymentCondition.PROGRESSING)
    assert words == DeploymentReason.PROVIDER_UNAVAILABLE
    assert "connection refused" in message(world, DeploymentCondition.PROGRESSING)
    settle(world)
    assert world.status.stable is not None
    assert world.status.stable.revision == 2


def test_a_query_that_does_not_parse_stalls_it_until_somebody_corrects_it() -> None:
    world = serving()
    world.fail_provider(10_000, INVALID)
    until(world, lambda w: is_true(w.status.conditions, DeploymentCondition.STALLED), 30)
    for kind in (DeploymentCondition.STALLED, DeploymentCondition.PROGRESSING):
        assert reason(world, kind) == DeploymentReason.QUERY_INVALID
        assert "correct its query: parse error" in message(world, kind)
    assert [e.reason for e in world.events].count(DeploymentReason.QUERY_INVALID) == 1
    assert is_true(world.status.conditions, DeploymentCondition.READY), "stable serves"
    world.fail_provider(0, INVALID)
    settle(world)
    assert world.status.stable is not None
    assert world.status.stable.revision == 2


def test_the_policy_rollback_waits_only_for_the_hold() -> None:
    world = serving(analysis={**RULES["analysis"], "onInsufficientData": "RollBack"})
    world.fail_provider(10_000, EMPTY)
    last = rolled_back(world)
    assert last.reason is RollbackReason.PROVIDER_ERROR
    assert last.detected_after_seconds <= 15


def test_little_traffic_holds_and_says_so() -> None:
    world = at_weight(serving(), 25)
    world.dry_for = 45
    for _ in range(40):
        world.turn()
    assert world.traffic is not None
    assert world.traffic.weight == 25
    words = reason(world, DeploymentCondition.PROGRESSING)
    assert words == DeploymentReason.INSUFFICIENT_TRAFFIC
    assert "requests, at least" in message(world, DeploymentCondition.PROGRESSING)
    settle(world)
    assert world.status.last_rollback is None
