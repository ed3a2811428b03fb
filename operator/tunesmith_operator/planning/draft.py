"""A decision in the making: the status that will be written and the actions asked for so far.

Lives inside one call of ``decide`` and never outside it, so decide stays a pure function.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from tunesmith_api.conditions import ConditionType
from tunesmith_api.jobstatus import FineTuneJobStatus
from tunesmith_api.meta import ConditionStatus
from tunesmith_operator.planning.actions import Action, Decision, Emit
from tunesmith_operator.planning.conditions import condition, is_true, set_condition


@dataclass(slots=True)
class Draft:
    """Collects what one pass decides."""

    status: FineTuneJobStatus
    generation: int
    now: datetime
    actions: list[Action] = field(default_factory=list)
    look_again: timedelta | None = None

    def update(self, **fields: object) -> None:
        """Set fields of the status."""
        self.status = self.status.model_copy(update=fields)

    def say(
        self,
        kind: ConditionType,
        status: ConditionStatus,
        reason: str,
        message: str,
    ) -> None:
        """Set a condition."""
        new = condition(kind, status, reason, message, generation=self.generation, now=self.now)
        self.update(conditions=set_condition(self.status.conditions, new))

    def yes(self, kind: ConditionType, reason: str, message: str) -> None:
        """Set a condition to True."""
        self.say(kind, ConditionStatus.TRUE, reason, message)

    def no(self, kind: ConditionType, reason: str, message: str) -> None:
        """Set a condition to False."""
        self.say(kind, ConditionStatus.FALSE, reason, message)

    def act(self, action: Action) -> None:
        """Ask for an action."""
        self.actions.append(action)

    def emit(self, kind: Literal["Normal", "Warning"], reason: str, message: str) -> None:
        """Ask for an Event."""
        self.act(Emit(kind, reason, message))

    def look_again_in(self, wait: timedelta) -> None:
        """Ask for another pass, at the earliest of all times asked for."""
        wait = max(wait, timedelta(milliseconds=200))
        if self.look_again is None or wait < self.look_again:
            self.look_again = wait

    def holds(self, kind: ConditionType) -> bool:
        """Whether a condition is True by now."""
        return is_true(self.status.conditions, kind)

    def decision(self) -> Decision:
        """Close the draft. Every condition is said of the spec that was just looked at."""
        self.update(
            observed_generation=self.generation,
            conditions=tuple(
                c.model_copy(update={"observed_generation": self.generation})
                for c in self.status.conditions
            ),
        )
        return Decision(self.status, tuple(self.actions), self.look_again)
