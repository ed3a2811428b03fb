"""Intents and entities: what an answer in JSON says, against what was expected.

Pure. Called by `evaluation`, and by `questions` before anything is trained: an expected answer
that is no such JSON is an error of the job. A reply that is none is a wrong answer.
"""

from collections.abc import Sequence
from typing import NamedTuple

import orjson

from tunesmith_api.result import UserErrorReason
from tunesmith_trainer.intervals import Observed, Statistic, mean, observe
from tunesmith_trainer.outcome import UserError, shorten


class Meaning(NamedTuple):
    """What an answer says."""

    intent: str
    entities: frozenset[tuple[str, str]]
    """Names with values."""


def parse_meaning(text: str) -> Meaning | None:
    """Read {"intent": ..., "entities": {NAME: VALUE or [VALUE]}}; None for anything else.

    What stands before the first brace and behind the last one is left out: models like to put JSON
    between marks of code.
    """
    try:
        found = orjson.loads(text[text.index("{") : text.rindex("}") + 1])
    except ValueError:
        return None
    if not isinstance(found, dict) or not isinstance(found.get("intent"), str):
        return None
    entities = found.get("entities")
    if entities is None:
        entities = {}
    if not isinstance(entities, dict):
        return None
    pairs = {
        (name, _normal(one))
        for name, value in entities.items()
        for one in (value if isinstance(value, list) else [value])
    }
    return Meaning(_normal(found["intent"]), frozenset(pairs))


def compare_intents(
    suite: str, replies: Sequence[str], expected: Sequence[str]
) -> tuple[Observed, ...]:
    """Measure accuracy, f1, entity_f1 and parsed. Raises UserError InvalidRun."""
    wanted = parse_expected(suite, expected)
    given = [parse_meaning(reply) for reply in replies]
    pairs = list(zip(given, wanted, strict=True))
    return (
        mean(
            f"{suite}/accuracy", [float(g is not None and g.intent == w.intent) for g, w in pairs]
        ),
        _macro(f"{suite}/f1", pairs),
        _entities(f"{suite}/entity_f1", pairs),
        mean(f"{suite}/parsed", [float(g is not None) for g in given]),
    )


def _macro(name: str, pairs: Sequence[tuple[Meaning | None, Meaning]]) -> Observed:
    """Count for each intent, expected or given, what scikit-learn's f1_score counts."""
    labels = sorted({w.intent for _, w in pairs} | {g.intent for g, _ in pairs if g})
    columns = []
    for label in labels:
        said = [g is not None and g.intent == label for g, _ in pairs]
        meant = [w.intent == label for _, w in pairs]
        columns += _counts(said, meant)
    return observe(name, Statistic.MACRO_F1, *columns)


def _counts(said: list[bool], meant: list[bool]) -> list[list[float]]:
    both = list(zip(said, meant, strict=True))
    return [
        [float(s and m) for s, m in both],
        [float(s and not m) for s, m in both],
        [float(m and not s) for s, m in both],
    ]


def _entities(name: str, pairs: Sequence[tuple[Meaning | None, Meaning]]) -> Observed:
    rows = []
    for given, wanted in pairs:
        said = given.entities if given else frozenset()
        meant = wanted.entities
        rows.append([len(said & meant), len(said - meant), len(meant - said)])
    return observe(name, Statistic.F1, *zip(*rows, strict=True))


def parse_expected(suite: str, expected: Sequence[str]) -> list[Meaning]:
    """Read all expected answers; raise UserError InvalidRun for the first that is none."""
    return [_expected(suite, number, text) for number, text in enumerate(expected, 1)]


def _expected(suite: str, number: int, text: str) -> Meaning:
    found = parse_meaning(text)
    if found is None:
        raise UserError(
            UserErrorReason.INVALID_RUN,
            f'Suite {suite}: the expected answer of question {number} is not {{"intent": ..., '
            f'"entities": {{...}}}}, but {shorten(text, 120)!r}. Correct it, or measure these rows '
            "with a suite of the kind prompts.",
        )
    return found


def _normal(value: object) -> str:
    return " ".join(str(value).casefold().split())
