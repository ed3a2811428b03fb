"""How the benchmark of roll-backs counts and judges."""

import pytest

from benchmarks import bench_rollback
from benchmarks.bench_rollback import PEER, Cost, cost, misses
from deploy.load import Answer
from deploy.rollout_status import DeploymentStatus, Revision, Rollout
from deploy.shell import StepError

GOOD = Cost(detected=2.0, restored=0.1, bad=20)


def answer(sent: float, code: int = 500, revision: str = "canary", seconds: float = 0.5) -> Answer:
    return Answer(sent=sent, seconds=seconds, code=code, revision=revision)


def test_time_counts_from_when_answers_came() -> None:
    answers = [answer(10.0), answer(11.0), answer(12.0), answer(9.0, 200, "stable")]
    found = cost(answers, "canary", verdict=12.25, reason="AnalysisFailed")
    assert found == Cost(detected=1.75, restored=0.25, bad=3, reason="AnalysisFailed")


def test_no_bad_answer_after_the_verdict_is_no_time_at_all() -> None:
    assert cost([answer(10.0)], "canary", verdict=20.0).restored == 0.0


def test_what_the_canary_did_not_answer_stable_has_failed() -> None:
    answers = [answer(1.0), answer(1.0, 503, "stable"), answer(1.0, 0, "")]
    assert cost(answers, "canary", verdict=3.0).failed_by_stable == 2


def test_a_canary_that_fails_nobody_is_no_measurement() -> None:
    with pytest.raises(StepError, match="no bad answer"):
        cost([answer(1.0, 200)], "canary", verdict=3.0)


@pytest.mark.parametrize(
    ("sampled", "fast", "missed"),
    [
        pytest.param(GOOD, GOOD, [], id="all is well"),
        pytest.param(
            Cost(PEER.detected, 0.1, PEER.bad),
            GOOD,
            ["verdict, by samples", "bad answers, by samples"],
            id="samples take as long as the peer's",
        ),
        pytest.param(Cost(7.0, 0.5, 80), GOOD, ["way back, by samples"], id="slow way back"),
        pytest.param(GOOD, Cost(7.3, 0.1, 20), ["verdict, with failFast"], id="late verdict"),
        pytest.param(GOOD, Cost(2.0, 0.41, 20), ["way back, with failFast"], id="slow, at once"),
        pytest.param(GOOD, Cost(2.0, 0.1, 87), ["bad answers, with failFast"], id="many"),
        pytest.param(GOOD, Cost(7.2, 0.4, 86), [], id="just half of the peer's"),
        pytest.param(
            Cost(2.0, 0.1, 20, failed_by_stable=1),
            GOOD,
            ["1 requests failed on stable, by samples"],
            id="stable failed somebody",
        ),
    ],
)
def test_what_is_a_miss(sampled: Cost, fast: Cost, missed: list[str]) -> None:
    assert [one.split(":")[0] for one in misses(sampled, fast)] == missed


def test_the_table_has_both_runs_beside_the_peer_with_ratios() -> None:
    lines = bench_rollback.table(Cost(7.2, 0.4, 173), GOOD).splitlines()
    assert lines[1].split()[-5:] == ["7.20", "0.50", "2.00", "0.14", "14.40"]
    assert lines[3].split()[-5:] == ["173", "1.00", "20", "0.12", "173"]


def test_stable_is_settled_without_a_rollout() -> None:
    stable = DeploymentStatus(phase="Stable", stable=Revision(revision=1, name="a"))
    assert bench_rollback.is_settled(stable)
    assert not bench_rollback.is_settled(stable.model_copy(update={"rollout": Rollout()}))
    assert not bench_rollback.is_settled(stable.model_copy(update={"phase": "RolledBack"}))
