"""Measured values of a model, and the judgement over them.

Measured by the trainer, judged by ``gates``; part of the result, of the report and of a
FineTuneJob's status. Decimals are strings.
"""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from tunesmith_api.meta import ShortText, Status, Text


class Metric(Status):
    """A measured value."""

    name: Annotated[str, Field(max_length=128)]
    """Name of the metric."""
    value: Annotated[str, Field(max_length=40)]
    """Value as a decimal number."""


class BaselineValue(Status):
    """A metric of a model other than the base model, on the same rows."""

    name: ShortText
    """Previous or Deployed."""
    value: Annotated[str, Field(max_length=40)]
    """Value of that model."""
    difference_low: Annotated[str, Field(max_length=40)] = ""
    """Lower end of the 95 % interval of the tuned model's value minus this one."""
    difference_high: Annotated[str, Field(max_length=40)] = ""
    """Upper end."""


class Measurement(Status):
    """A metric of the tuned and of the base model."""

    metric: Annotated[str, Field(max_length=128)]
    """SUITE/METRIC."""
    value: Annotated[str, Field(max_length=40)]
    """Value of the tuned model."""
    low: Annotated[str, Field(max_length=40)] = ""
    """Lower end of its 95 % interval; empty where there is none."""
    high: Annotated[str, Field(max_length=40)] = ""
    """Upper end."""
    base_value: Annotated[str, Field(max_length=40)] = ""
    """Value of the base model."""
    difference_low: Annotated[str, Field(max_length=40)] = ""
    """Lower end of the 95 % interval of value minus baseValue."""
    difference_high: Annotated[str, Field(max_length=40)] = ""
    """Upper end."""
    others: Annotated[tuple[BaselineValue, ...], Field(max_length=2)] = ()
    """The same of other baselines."""


class Verdict(StrEnum):
    """The judgement over all gates. A missing or broken measurement is never Passed."""

    PASSED = "Passed"
    FAILED = "Failed"
    INCONCLUSIVE = "Inconclusive"


class GateResult(Status):
    """What a gate asked and what was measured."""

    metric: Annotated[str, Field(max_length=128)]
    """SUITE/METRIC."""
    verdict: Verdict
    """The judgement."""
    value: Annotated[str, Field(max_length=40)] = ""
    """Value of the tuned model."""
    baseline: ShortText = ""
    """What it was compared with: Base, Previous, Deployed, or empty for a fixed limit."""
    baseline_value: Annotated[str, Field(max_length=40)] = ""
    """Value of that."""
    message: Text = ""
    """The judgement as a sentence."""


class EvaluationStatus(Status):
    """The judgement."""

    verdict: Verdict
    """Over all gates."""
    results: Annotated[tuple[GateResult, ...], Field(max_length=16)] = ()
    """One a gate."""
    measurements: Annotated[tuple[Measurement, ...], Field(max_length=32)] = ()
    """All that was measured."""
