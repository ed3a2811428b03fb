"""The judgement, row by row."""

import pytest

from tunesmith_api.evaluation import Baseline, Gate
from tunesmith_api.gates import judge
from tunesmith_api.measurements import BaselineValue, Measurement, Verdict


def gate(relation: str, value: str) -> Gate:
    return Gate.model_validate({"metric": "heldout/loss", "relation": relation, "value": value})


def measured(value: str, base: str = "") -> list[Measurement]:
    return [Measurement(metric="heldout/loss", value=value, base_value=base)]


@pytest.mark.parametrize(
    ("relation", "limit", "value", "base", "verdict"),
    [
        pytest.param("AtMost", "1.5", "1.5", "", Verdict.PASSED, id="a limit that is just met"),
        pytest.param("AtMost", "1.5", "1.51", "", Verdict.FAILED, id="a limit that is passed"),
        pytest.param("AtLeast", "0.8", "0.8", "", Verdict.PASSED, id="a floor that is just met"),
        pytest.param("AtLeast", "0.8", "0.79", "", Verdict.FAILED, id="below the floor"),
        pytest.param("LowerBy", "0.3", "1.7", "2.0", Verdict.PASSED, id="lower by just enough"),
        pytest.param("LowerBy", "0.3", "1.71", "2.0", Verdict.FAILED, id="lower, but not enough"),
        pytest.param("LowerBy", "0", "2.0", "2.0", Verdict.FAILED, id="equal is not lower"),
        pytest.param("HigherBy", "0", "0.9", "0.8", Verdict.PASSED, id="higher by anything"),
        pytest.param("HigherBy", "0", "0.8", "0.8", Verdict.FAILED, id="equal is not higher"),
        pytest.param("LowerBy", "0", "1.0", "", Verdict.INCONCLUSIVE, id="no baseline"),
        pytest.param("AtMost", "1", "nan", "", Verdict.INCONCLUSIVE, id="not a number"),
        pytest.param("AtMost", "1", "-inf", "", Verdict.INCONCLUSIVE, id="infinitely good"),
        pytest.param("AtMost", "1", "good", "", Verdict.INCONCLUSIVE, id="text"),
        pytest.param("LowerBy", "0", "1", "nan", Verdict.INCONCLUSIVE, id="a broken baseline"),
        pytest.param("AtMost", "1e-3", "0.0009", "", Verdict.PASSED, id="a limit with exponent"),
    ],
)
def test_a_gate(relation: str, limit: str, value: str, base: str, verdict: Verdict) -> None:
    result = judge([gate(relation, limit)], measured(value, base))
    assert result.verdict is verdict
    assert result.results[0].message


def test_a_metric_that_was_not_measured_is_inconclusive() -> None:
    assert judge([gate("AtMost", "1")], []).verdict is Verdict.INCONCLUSIVE


def test_one_failure_outweighs_everything() -> None:
    gates = [gate("AtMost", "9"), gate("AtMost", "1"), gate("LowerBy", "0")]
    assert judge(gates, measured("2")).verdict is Verdict.FAILED


def test_a_gate_without_a_distance_reads_as_one_says_it() -> None:
    result = judge([gate("LowerBy", "0")], measured("1.9", "2.0")).results[0]
    assert result.message == "heldout/loss 1.9 is lower than the base model's 2.0"


def test_the_sentence_names_both_numbers() -> None:
    result = judge([gate("LowerBy", "0.3")], measured("1.9", "2.0")).results[0]
    assert result.message == (
        "heldout/loss 1.9 is not lower by at least 0.3 than the base model's 2.0"
    )


SURE = {"low": "1.6", "high": "1.8", "difference_low": "-0.4", "difference_high": "-0.2"}


@pytest.mark.parametrize(
    ("relation", "limit", "verdict"),
    [
        pytest.param("AtMost", "1.8", Verdict.PASSED, id="all of it below"),
        pytest.param(
            "AtMost", "1.7", Verdict.INCONCLUSIVE, id="the value is met, not the interval"
        ),
        pytest.param("AtMost", "1.5", Verdict.FAILED, id="all of it above"),
        pytest.param("AtLeast", "1.6", Verdict.PASSED, id="all of it above the floor"),
        pytest.param("AtLeast", "1.65", Verdict.INCONCLUSIVE, id="the floor is inside"),
        pytest.param("LowerBy", "0.2", Verdict.PASSED, id="surely lower by so much"),
        pytest.param("LowerBy", "0.3", Verdict.INCONCLUSIVE, id="perhaps lower by so much"),
        pytest.param("LowerBy", "0.5", Verdict.FAILED, id="surely not lower by so much"),
        pytest.param("HigherBy", "0", Verdict.FAILED, id="surely not higher"),
    ],
)
def test_a_gate_on_the_interval(relation: str, limit: str, verdict: Verdict) -> None:
    asked = gate(relation, limit).model_copy(update={"confidence": "Interval"})
    seen = Measurement(metric="heldout/loss", value="1.7", base_value="2.0", **SURE)
    result = judge([asked], [seen])
    assert result.verdict is verdict
    assert "95 % interval" in result.results[0].message


def test_equal_is_not_sure_to_be_lower() -> None:
    asked = gate("LowerBy", "0").model_copy(update={"confidence": "Interval"})
    ends = {"difference_low": "-0.1", "difference_high": "0"}
    seen = Measurement(metric="heldout/loss", value="1.9", base_value="2.0", **ends)
    assert judge([asked], [seen]).verdict is Verdict.INCONCLUSIVE


def test_a_gate_on_an_interval_that_is_not_there_is_inconclusive() -> None:
    asked = gate("AtMost", "5").model_copy(update={"confidence": "Interval"})
    result = judge([asked], measured("1"))
    assert result.verdict is Verdict.INCONCLUSIVE
    assert "has no 95 % interval" in result.results[0].message


def test_a_gate_without_confidence_looks_at_the_value_alone() -> None:
    seen = Measurement(metric="heldout/loss", value="1.7", base_value="2.0", **SURE)
    assert judge([gate("AtMost", "1.7")], [seen]).verdict is Verdict.PASSED


DEPLOYED = {
    "metric": "heldout/loss",
    "relation": "LowerBy",
    "value": "0",
    "comparedWith": "Deployed",
}


@pytest.mark.parametrize(
    ("others", "earlier", "verdict", "words"),
    [
        pytest.param(
            [("Deployed", "1.6")],
            ["Deployed"],
            Verdict.FAILED,
            "deployed version's 1.6",
            id="worse",
        ),
        pytest.param(
            [("Previous", "1.6")],
            ["Previous", "Deployed"],
            Verdict.INCONCLUSIVE,
            "of the deployed version was not measured",
            id="given, but not measured",
        ),
        pytest.param([], [], Verdict.PASSED, "no earlier version", id="nothing is deployed yet"),
    ],
)
def test_a_gate_against_an_earlier_version(
    others: list[tuple[str, str]], earlier: list[str], verdict: Verdict, words: str
) -> None:
    seen = Measurement(
        metric="heldout/loss",
        value="1.7",
        base_value="2.0",
        others=tuple(BaselineValue(name=name, value=value) for name, value in others),
    )
    result = judge([Gate.model_validate(DEPLOYED)], [seen], [Baseline(name) for name in earlier])
    assert result.verdict is verdict
    assert words in result.results[0].message
