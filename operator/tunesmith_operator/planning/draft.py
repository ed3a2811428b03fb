"""A decision in the making: the status that will be written and the actions asked for so far.

Lives inside one call of ``decide`` and never outside it, so decide stays a pure function. Here is
what the drafts of all kinds have in common, and a FineTuneJob's; a roll-out's is in
``serving_draft``.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import ClassVar, Generic, Literal, TypeVar

from tunesmith_api.conditions import ConditionType
from tunesmith_api.jobstatus import FineTuneJobStatus
from tunesmith_api.meta import ConditionStatus, Status
from tunesmith_operator.planning.actions import Action, Decision, Emit
from tunesmith_operator.planning.conditions import condition, is_true, set_condition

StatusT = TypeVar("StatusT", bound=Status)
ActionT = TypeVar("ActionT")


@dataclass(slots=True, kw_only=True)
class Draft(Generic[StatusT, ActionT]):
    """Collects what one pass decides."""

    soonest: ClassVar[timedelta] = timedelta(milliseconds=200)
    """The shortest time to the next pass."""

    status: StatusT
    generation: int
    now: datetime
    actions: list[ActionT | Emit] = field(default_factory=list)
    look_again: timedelta | None = None

    def update(self, **fields: object) -> None:
        """Set fields of the status."""
        self.status = self.status.model_copy(update=fields)

    def act(self, action: ActionT | Emit) -> None:
        """Ask for an action."""
        self.actions.append(action)

    def emit(self, kind: Literal["Normal", "Warning"], reason: str, message: str) -> None:
        """Ask for an Event."""
        self.act(Emit(kind, reason, message))

    def look_again_in(self, wait: timedelta) -> None:
        """Ask for another pass, at the earliest of all times asked for."""
        wait = max(wait, self.soonest)
        if self.look_again is None or wait < self.look_again:
            self.look_again = wait


@dataclass(slots=True, kw_only=True)
class JobDraft(Draft[FineTuneJobStatus, Action]):
    """Collects what one pass over a FineTuneJob decides."""

    before_start: FineTuneJobStatus | None = None
    """The status as it was before an attempt was started in it."""

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
        return Decision(self.status, tuple(self.actions), self.look_again, self.before_start)
