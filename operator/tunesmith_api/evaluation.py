"""How a trained model is judged: suites and gates.

Run inputs like those in :mod:`tunesmith_api.training`.
"""

from enum import StrEnum
from typing import Annotated

from pydantic import ConfigDict, Field

from tunesmith_api.meta import (
    DecimalText,
    Rule,
    Spec,
    cel,
    exactly_one,
)
from tunesmith_api.training import HELD_OUT_SUITE

MetricName = Annotated[str, Field(max_length=128, pattern=r"^[a-z0-9-]+/[a-z0-9_]+$")]


class HeldOut(Spec):
    """Loss, perplexity and token accuracy on the test rows, of the tuned and the base model."""


class Samples(Spec):
    """Answers of the base and of the tuned model, side by side in the report. Not judged."""

    prompts: Annotated[
        tuple[Annotated[str, Field(max_length=1024, min_length=1)], ...],
        Field(min_length=1, max_length=10),
    ]
    """Questions to ask."""
    max_new_tokens: Annotated[int, Field(ge=1, le=1024)] = 64
    """Longest answer, in tokens."""


class Suite(Spec):
    """One thing that is measured. Exactly one member besides the name is set."""

    model_config = ConfigDict(json_schema_extra=cel(exactly_one("heldOut", "samples")))

    name: Annotated[str, Field(max_length=63, pattern=r"^[a-z0-9-]+$")]
    """First part of the names of the suite's metrics, as in heldout/loss."""
    held_out: HeldOut | None = None
    """Metrics on the test rows."""
    samples: Samples | None = None
    """Answers to look at."""


class Relation(StrEnum):
    """How a metric must stand to a value."""

    AT_MOST = "AtMost"
    AT_LEAST = "AtLeast"
    LOWER_BY = "LowerBy"
    HIGHER_BY = "HigherBy"


class ComparedWith(StrEnum):
    """What LowerBy and HigherBy measure from."""

    BASE = "Base"


class Gate(Spec):
    """One demand on a metric. A model becomes a ModelVersion only when all gates pass."""

    metric: MetricName
    """SUITE/METRIC: heldout/loss (nats per token), heldout/perplexity or heldout/token_accuracy."""
    relation: Relation
    """AtMost and AtLeast compare with value; LowerBy and HigherBy ask for a distance of at least
    value from the metric of comparedWith."""
    value: DecimalText
    """The limit or the distance."""
    compared_with: ComparedWith = ComparedWith.BASE
    """Whose metric LowerBy and HigherBy measure from."""


def _default_suites() -> tuple[Suite, ...]:
    return (Suite(name=HELD_OUT_SUITE, held_out=HeldOut()),)


def _default_gates() -> tuple[Gate, ...]:
    return (Gate(metric=f"{HELD_OUT_SUITE}/loss", relation=Relation.LOWER_BY, value="0"),)


_GATES_MEASURED = Rule(
    "self.gates.all(g, self.suites.exists(s, has(s.heldOut) && g.metric.startsWith(s.name + '/')))",
    "every gate's metric must begin with the name of a heldOut suite",
)


class Evaluation(Spec):
    """How the model is judged."""

    model_config = ConfigDict(json_schema_extra=cel(_GATES_MEASURED))

    suites: Annotated[tuple[Suite, ...], Field(max_length=8)] = Field(
        default_factory=_default_suites,
        json_schema_extra={
            "default": [{"name": HELD_OUT_SUITE, "heldOut": {}}],
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["name"],
        },
    )
    """What is measured."""
    gates: Annotated[tuple[Gate, ...], Field(max_length=16)] = Field(
        default_factory=_default_gates,
        json_schema_extra={
            "default": [{"metric": f"{HELD_OUT_SUITE}/loss", "relation": "LowerBy", "value": "0"}],
            "x-kubernetes-list-type": "atomic",
        },
    )
    """What is asked for. Default: a lower held-out loss than the base model's."""
    allow_ungated: bool = False
    """Whether a ModelVersion may be made without any gate."""
