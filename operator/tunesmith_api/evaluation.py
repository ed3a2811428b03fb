"""How a trained model is judged: gates and baselines.

Run inputs like those in :mod:`tunesmith_api.training`; what can be measured is in
:mod:`tunesmith_api.suites`.
"""

from enum import StrEnum
from typing import Annotated

from pydantic import ConfigDict, Field

from tunesmith_api.meta import (
    DecimalText,
    Rule,
    Spec,
    cel,
)
from tunesmith_api.suites import HeldOut, Suite
from tunesmith_api.training import HELD_OUT_SUITE

MetricName = Annotated[str, Field(max_length=128, pattern=r"^[a-z0-9-]+/[A-Za-z0-9_]+$")]


class Relation(StrEnum):
    """How a metric must stand to a value."""

    AT_MOST = "AtMost"
    AT_LEAST = "AtLeast"
    LOWER_BY = "LowerBy"
    HIGHER_BY = "HigherBy"


class Baseline(StrEnum):
    """A model that the tuned one is compared with, on the same rows."""

    BASE = "Base"
    PREVIOUS = "Previous"
    DEPLOYED = "Deployed"


class Confidence(StrEnum):
    """What of a measurement a gate looks at."""

    POINT = "Point"
    INTERVAL = "Interval"


class Gate(Spec):
    """One demand on a metric. A model becomes a ModelVersion only when all gates pass."""

    metric: MetricName
    """SUITE/METRIC, such as heldout/loss (nats per token), heldout/perplexity,
    heldout/token_accuracy, or of a suite with prompts NAME/exact. docs/evaluation.md has them
    all."""
    relation: Relation
    """AtMost and AtLeast compare with value; LowerBy and HigherBy ask for a distance of at least
    value from the metric of comparedWith."""
    value: DecimalText
    """The limit or the distance."""
    compared_with: Baseline = Baseline.BASE
    """Whose metric LowerBy and HigherBy measure from; it must be among evaluation.baselines. Where
    no such model exists yet, as before the first version, it is Base."""
    confidence: Confidence = Confidence.POINT
    """Point: the measured value decides, as if chance had no part in it. Interval: the whole 95 %
    interval must be on the right side of the limit to pass and on the wrong one to fail; a gate
    whose interval spans the limit, or that has none, is Inconclusive."""


def _default_suites() -> tuple[Suite, ...]:
    return (Suite(name=HELD_OUT_SUITE, held_out=HeldOut()),)


def _default_gates() -> tuple[Gate, ...]:
    return (Gate(metric=f"{HELD_OUT_SUITE}/loss", relation=Relation.LOWER_BY, value="0"),)


_GATES_MEASURED = Rule(
    "self.gates.all(g, self.suites.exists(s, !has(s.samples)"
    " && g.metric.startsWith(s.name + '/')))",
    "every gate's metric must begin with the name of a suite that measures; samples does not",
)
_GATES_COMPARED = Rule(
    "self.gates.all(g, !has(g.comparedWith) || g.comparedWith == 'Base'"
    " || g.comparedWith in self.baselines)",
    "a gate's comparedWith must be Base or among evaluation.baselines",
)


class Evaluation(Spec):
    """How the model is judged."""

    model_config = ConfigDict(json_schema_extra=cel(_GATES_MEASURED, _GATES_COMPARED))

    suites: Annotated[tuple[Suite, ...], Field(max_length=8)] = Field(
        default_factory=_default_suites,
        json_schema_extra={
            "default": [{"name": HELD_OUT_SUITE, "heldOut": {}}],
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["name"],
        },
    )
    """What is measured."""
    baselines: Annotated[tuple[Baseline, ...], Field(max_length=3)] = Field(
        default=(Baseline.BASE,), json_schema_extra={"x-kubernetes-list-type": "set"}
    )
    """What the tuned model is compared with on the same rows. Base: the model it was made from,
    always measured. Previous: the newest ModelVersion of the same model. Deployed: the version that
    the ModelDeployment of deployTo holds as stable. One that does not exist yet is left out."""
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
