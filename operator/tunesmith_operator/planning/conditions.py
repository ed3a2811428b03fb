"""The one place where conditions are set and read."""

from collections.abc import Iterable
from datetime import datetime

from tunesmith_api.conditions import ConditionType, DeploymentCondition, VersionCondition
from tunesmith_api.meta import Condition, ConditionStatus

_MESSAGE_CHARACTERS = 2000
_KINDS = (*ConditionType, *VersionCondition, *DeploymentCondition)
_ORDER: dict[str, int] = {kind: place for place, kind in enumerate(_KINDS)}


def set_condition(current: Iterable[Condition], new: Condition) -> tuple[Condition, ...]:
    """Give the conditions with ``new`` in them; the time stays while the status is the same."""
    rest = []
    for old in current:
        if old.type != new.type:
            rest.append(old)
        elif old.status == new.status:
            new = new.model_copy(update={"last_transition_time": old.last_transition_time})
    return tuple(sorted((*rest, new), key=lambda c: _ORDER.get(c.type, len(_ORDER))))


def condition(
    kind: ConditionType | VersionCondition | DeploymentCondition,
    status: ConditionStatus,
    reason: str,
    message: str,
    *,
    generation: int,
    now: datetime,
) -> Condition:
    """Make a condition; a message longer than people read is cut."""
    if len(message) > _MESSAGE_CHARACTERS:
        message = message[: _MESSAGE_CHARACTERS - 1] + "…"
    return Condition(
        type=kind,
        status=status,
        reason=reason,
        message=message,
        observed_generation=generation,
        last_transition_time=now,
    )


def find(
    conditions: Iterable[Condition], kind: ConditionType | VersionCondition | DeploymentCondition
) -> Condition | None:
    """Give the condition of this type, if it was ever set."""
    return next((c for c in conditions if c.type == kind), None)


def is_true(conditions: Iterable[Condition], kind: ConditionType | DeploymentCondition) -> bool:
    """Whether the condition is there and True."""
    found = find(conditions, kind)
    return found is not None and found.status is ConditionStatus.TRUE
