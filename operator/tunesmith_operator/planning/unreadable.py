"""What is said of an object that the API server took and this operator cannot read. Pure.

CRD and operator are of different versions then, or the object was stored under an older CRD. What
the status holds besides is kept as it is: it may be just as unreadable. Called by
``reconcile.unreadable``; what a later pass can read it says anew, so nothing has to be taken back.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from tunesmith_api.conditions import (
    ConditionType,
    DeploymentCondition,
    DeploymentReason,
    Reason,
    VersionCondition,
    VersionReason,
)
from tunesmith_api.deploymentstatus import RolloutPhase
from tunesmith_api.finetunejob import FineTuneJob
from tunesmith_api.meta import ConditionStatus
from tunesmith_api.modeldeployment import ModelDeployment
from tunesmith_api.modelversion import ModelVersion
from tunesmith_operator.planning.conditions import condition

_NAMED_FIELDS = 3
_VALUE_CHARACTERS = 40
_WHAT_TO_DO = (
    "Correct what is named, or upgrade CRDs and operator to the same version: helm upgrade"
)

_Kind = ConditionType | DeploymentCondition | VersionCondition
_FALSE, _TRUE, _UNKNOWN = ConditionStatus.FALSE, ConditionStatus.TRUE, ConditionStatus.UNKNOWN
_SAID: Mapping[str, Sequence[tuple[_Kind, ConditionStatus, str, str]]] = {
    FineTuneJob.KIND: ((ConditionType.ACCEPTED, _FALSE, Reason.INVALID_SPEC, ""),),
    ModelVersion.KIND: ((VersionCondition.VERIFIED, _UNKNOWN, VersionReason.INVALID_SPEC, ""),),
    ModelDeployment.KIND: tuple(
        (kind, status, DeploymentReason.INVALID_SPEC, "What serves is left as it is. ")
        for kind, status in (
            (DeploymentCondition.READY, _UNKNOWN),
            (DeploymentCondition.AVAILABLE, _UNKNOWN),
            (DeploymentCondition.PROGRESSING, _FALSE),
            (DeploymentCondition.STALLED, _TRUE),
        )
    ),
}


def explain(error: ValidationError) -> str:
    """Name the fields that cannot be read, with their values, and say what to do."""
    wrong = error.errors(include_url=False, include_context=False)
    named = "; ".join(
        f"{'.'.join(str(part) for part in one['loc'])}: {one['msg']}{_quoted(one['input'])}"
        for one in wrong[:_NAMED_FIELDS]
    )
    more = f"; and {len(wrong) - _NAMED_FIELDS} more" if len(wrong) > _NAMED_FIELDS else ""
    return f"{named}{more}. {_WHAT_TO_DO}"


def _quoted(value: object) -> str:
    """Give a value, shortened. Of what has parts, such as where one is missing, nothing."""
    if isinstance(value, dict | list):
        return ""
    text = repr(value)
    short = text if len(text) <= _VALUE_CHARACTERS else f"{text[: _VALUE_CHARACTERS - 1]}…"
    return f" (it is {short})"


def unreadable(
    kind: str, status: Mapping[str, Any], generation: int, why: str, now: datetime
) -> dict[str, Any] | None:
    """Give the fields of the status to be written; None where they say so already.

    Conditions of other types are given back as they came.
    """
    conditions = list(status.get("conditions") or ())
    before = {c.get("type"): c for c in conditions}
    for what, state, reason, besides in _SAID[kind]:
        new = condition(
            what,
            state,
            reason,
            f"This operator cannot read the object: {besides}{why}",
            generation=generation,
            now=now.replace(microsecond=0),
        ).model_dump(mode="json", by_alias=True)
        old = before.get(what, {})
        if old.get("status") == new["status"]:
            new["lastTransitionTime"] = old["lastTransitionTime"]
        conditions = [c for c in conditions if c.get("type") != what] + [new]
    if {c.get("type"): c for c in conditions} == before:
        return None
    said: dict[str, Any] = {"conditions": conditions, "observedGeneration": generation}
    if kind == ModelDeployment.KIND:
        said["phase"] = RolloutPhase.STALLED.value
    return said
