"""Whether a model is good enough: gates against measurements. Pure; called by the operator and the
command line, which judge in the same words.

A missing or broken number is Inconclusive, never Passed.
"""

from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation

from tunesmith_api.evaluation import Gate, Relation
from tunesmith_api.jobstatus import EvaluationStatus, GateResult, Measurement, Verdict

_WORDS = {
    Relation.AT_MOST: "at most",
    Relation.AT_LEAST: "at least",
    Relation.LOWER_BY: "lower by at least",
    Relation.HIGHER_BY: "higher by at least",
}


def judge(gates: Sequence[Gate], measurements: Sequence[Measurement]) -> EvaluationStatus:
    """Judge all gates. The verdict over all is the worst: Failed, then Inconclusive."""
    by_name = {m.metric: m for m in measurements}
    results = tuple(_judge_one(gate, by_name) for gate in gates)
    verdicts = {r.verdict for r in results}
    worst = next(
        (v for v in (Verdict.FAILED, Verdict.INCONCLUSIVE) if v in verdicts), Verdict.PASSED
    )
    return EvaluationStatus(verdict=worst, results=results, measurements=tuple(measurements[:32]))


def _judge_one(gate: Gate, measured: Mapping[str, Measurement]) -> GateResult:
    found = measured.get(gate.metric)
    relative = gate.relation in (Relation.LOWER_BY, Relation.HIGHER_BY)
    value = parse_number(found.value) if found else None
    base = parse_number(found.base_value) if found else None
    verdict = _verdict(gate, value, base)
    return GateResult(
        metric=gate.metric,
        verdict=verdict,
        value=found.value if found else "",
        baseline=gate.compared_with if relative else "",
        baseline_value=found.base_value if found and relative else "",
        message=_sentence(gate, verdict, value, base if relative else None),
    )


def _verdict(gate: Gate, value: Decimal | None, base: Decimal | None) -> Verdict:
    limit = Decimal(gate.value)
    if value is None:
        return Verdict.INCONCLUSIVE
    match gate.relation:
        case Relation.AT_MOST:
            passed = value <= limit
        case Relation.AT_LEAST:
            passed = value >= limit
        case Relation.LOWER_BY | Relation.HIGHER_BY if base is None:
            return Verdict.INCONCLUSIVE
        case Relation.LOWER_BY:
            # A distance of 0 asks for better, not for equal.
            passed = base - value >= limit and value < base
        case Relation.HIGHER_BY:
            passed = value - base >= limit and value > base
    return Verdict.PASSED if passed else Verdict.FAILED


def _sentence(gate: Gate, verdict: Verdict, value: Decimal | None, base: Decimal | None) -> str:
    if value is None:
        return f"{gate.metric} was not measured, or is not a number"
    wanted = f"{_WORDS[gate.relation]} {gate.value}"
    if Decimal(gate.value) == 0:
        wanted = wanted.removesuffix(f" by at least {gate.value}")
    if gate.relation in (Relation.LOWER_BY, Relation.HIGHER_BY):
        if base is None:
            return f"{gate.metric} of the base model was not measured, or is not a number"
        wanted = f"{wanted} than the base model's {base}"
    is_met = "is" if verdict is Verdict.PASSED else "is not"
    return f"{gate.metric} {value} {is_met} {wanted}"


def parse_number(text: str) -> Decimal | None:
    """Give the finite number that ``text`` is, or None."""
    try:
        number = Decimal(text)
    except InvalidOperation:
        return None
    return number if number.is_finite() else None
