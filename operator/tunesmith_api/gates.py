"""Whether a model is good enough: gates against measurements.

Pure. Called by the operator, whose verdict counts, and by the trainer, whose report shows people
the same. A missing or broken number is Inconclusive, never Passed.
"""

from collections.abc import Collection, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import NamedTuple

from tunesmith_api.evaluation import Baseline, Confidence, Evaluation, Gate, Relation
from tunesmith_api.measurements import EvaluationStatus, GateResult, Measurement, Verdict
from tunesmith_api.objectives import Objective

_WORDS = {
    Relation.AT_MOST: "at most",
    Relation.AT_LEAST: "at least",
    Relation.LOWER_BY: "lower by at least",
    Relation.HIGHER_BY: "higher by at least",
}
_MOST_DIGITS = 999
_RELATIVE = (Relation.LOWER_BY, Relation.HIGHER_BY)
_MODELS = {
    Baseline.BASE: "the base model",
    Baseline.PREVIOUS: "the previous version",
    Baseline.DEPLOYED: "the deployed version",
}
_NO_EARLIER = ", as there was no earlier version to compare with"


def unmeasured(evaluation: Evaluation, objective: Objective) -> str:
    """Say which gate asks for what no suite measures; empty where there is none."""
    known = {suite.name: suite.measures(objective) for suite in evaluation.suites}
    for gate in evaluation.gates:
        suite, _, metric = gate.metric.partition("/")
        found = known.get(suite, frozenset())
        if found is not None and metric not in found:
            return (
                f"evaluation.gates asks for {gate.metric}, which is not measured: suite {suite}"
                f" measures {', '.join(sorted(found)) or 'nothing'}. Name one of them, or add the"
                " metric to the suite."
            )
    return ""


class _Compared(NamedTuple):
    """What a gate looks at: the value, the baseline's, and the interval that decides."""

    value: Decimal | None
    baseline: Decimal | None
    low: Decimal | None
    high: Decimal | None


def judge(
    gates: Sequence[Gate],
    measurements: Sequence[Measurement],
    earlier: Collection[Baseline] = (),
) -> EvaluationStatus:
    """Judge all gates. The verdict over all is the worst: Failed, then Inconclusive.

    `earlier` are the baselines besides Base that the run was given to measure. A gate that is to be
    compared with another one is compared with Base: before the first version there is no other.
    """
    by_name = {m.metric: m for m in measurements}
    results = tuple(_judge_one(gate, by_name, earlier) for gate in gates)
    verdicts = {r.verdict for r in results}
    worst = next(
        (v for v in (Verdict.FAILED, Verdict.INCONCLUSIVE) if v in verdicts), Verdict.PASSED
    )
    return EvaluationStatus(verdict=worst, results=results, measurements=tuple(measurements[:32]))


def _judge_one(
    gate: Gate, measured: Mapping[str, Measurement], earlier: Collection[Baseline]
) -> GateResult:
    found = measured.get(gate.metric)
    relative = gate.relation in _RELATIVE
    other = gate.compared_with if gate.compared_with in earlier else Baseline.BASE
    seen = _compare(found, other if relative else None)
    verdict = _verdict(gate, seen)
    is_fallback = relative and other is not gate.compared_with
    return GateResult(
        metric=gate.metric,
        verdict=verdict,
        value=found.value if found else "",
        baseline=other.value if relative else "",
        baseline_value=str(seen.baseline) if seen.baseline is not None else "",
        message=_sentence(gate, verdict, seen, other) + (_NO_EARLIER if is_fallback else ""),
    )


def _compare(found: Measurement | None, other: Baseline | None) -> _Compared:
    """Pick out the numbers; `other` is the model to compare with, or None for a fixed limit."""
    if found is None:
        return _Compared(None, None, None, None)
    if other is None:
        texts = ("", found.low, found.high)
    elif other is Baseline.BASE:
        texts = (found.base_value, found.difference_low, found.difference_high)
    else:
        one = next((o for o in found.others if o.name == other.value), None)
        texts = (one.value, one.difference_low, one.difference_high) if one else ("", "", "")
    return _Compared(parse_number(found.value), *map(parse_number, texts))


def _verdict(gate: Gate, seen: _Compared) -> Verdict:
    relative = gate.relation in _RELATIVE
    if seen.value is None or (relative and seen.baseline is None):
        return Verdict.INCONCLUSIVE
    if gate.confidence is Confidence.POINT:
        point = seen.value - seen.baseline if relative and seen.baseline is not None else seen.value
        return Verdict.PASSED if _holds(gate, point) else Verdict.FAILED
    if seen.low is None or seen.high is None:
        return Verdict.INCONCLUSIVE
    ends = {_holds(gate, seen.low), _holds(gate, seen.high)}
    if len(ends) == 2:
        return Verdict.INCONCLUSIVE
    return Verdict.PASSED if ends.pop() else Verdict.FAILED


def _holds(gate: Gate, point: Decimal) -> bool:
    """Whether a value, or its difference from the baseline, is what the gate asks for."""
    limit = Decimal(gate.value)
    match gate.relation:
        case Relation.AT_MOST:
            return point <= limit
        case Relation.AT_LEAST:
            return point >= limit
        case Relation.LOWER_BY:
            # A distance of 0 asks for better, not for equal.
            return point <= -limit and point < 0
        case Relation.HIGHER_BY:
            return point >= limit and point > 0


def _sentence(gate: Gate, verdict: Verdict, seen: _Compared, other: Baseline) -> str:
    relative = gate.relation in _RELATIVE
    if seen.value is None:
        return f"{gate.metric} was not measured, or is not a number"
    wanted = f"{_WORDS[gate.relation]} {gate.value}"
    if Decimal(gate.value) == 0:
        wanted = wanted.removesuffix(f" by at least {gate.value}")
    if relative:
        if seen.baseline is None:
            return f"{gate.metric} of {_MODELS[other]} was not measured, or is not a number"
        wanted = f"{wanted} than {_MODELS[other]}'s {seen.baseline}"
    if gate.confidence is Confidence.POINT:
        is_met = "is" if verdict is Verdict.PASSED else "is not"
        return f"{gate.metric} {seen.value} {is_met} {wanted}"
    if seen.low is None or seen.high is None:
        return f"{gate.metric} {seen.value} has no 95 % interval, so it is not sure to be {wanted}"
    what = "difference" if relative else "value"
    sure = {
        Verdict.PASSED: "is",
        Verdict.FAILED: "is not",
        Verdict.INCONCLUSIVE: "may or may not be",
    }[verdict]
    return (
        f"{gate.metric} {seen.value} {sure} {wanted}"
        f" (95 % interval of the {what}: {seen.low} to {seen.high})"
    )


def parse_number(text: str) -> Decimal | None:
    """Give the finite number that ``text`` is, or None.

    Nothing that is measured has more than 999 digits, and to write or to add it could take forever.
    """
    try:
        number = Decimal(text)
    except InvalidOperation:
        return None
    return number if number.is_finite() and abs(number.adjusted()) <= _MOST_DIGITS else None
