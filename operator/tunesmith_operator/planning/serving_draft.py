"""A roll-out's decision in the making: the status to be written and the actions asked for so far.

Lives inside one call of ``decide_rollout`` and never outside it, so that stays a pure function.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from tunesmith_api.conditions import DeploymentCondition
from tunesmith_api.deploymentstatus import ModelDeploymentStatus, RolloutStatus
from tunesmith_api.meta import ConditionStatus
from tunesmith_api.modeldeployment import ModelDeploymentSpec
from tunesmith_operator.planning.actions import Emit
from tunesmith_operator.planning.conditions import condition, set_condition
from tunesmith_operator.planning.serving_actions import ServingAction, ServingDecision

# A rollback's last look must not spend the half second that the rollback has.
_SOONEST = timedelta(milliseconds=50)


@dataclass(slots=True)
class ServingDraft:
    """Collects what one pass decides."""

    status: ModelDeploymentStatus
    spec: ModelDeploymentSpec
    generation: int
    now: datetime
    wanted: str | None
    """Digest of the revision that the spec asks for; None while that cannot be told."""
    plan: str
    """Digest of what a canary is judged by, as the spec has it now."""
    actions: list[ServingAction] = field(default_factory=list)
    look_again: timedelta | None = None

    def update(self, **fields: object) -> None:
        """Set fields of the status."""
        self.status = self.status.model_copy(update=fields)

    def update_rollout(self, **fields: object) -> RolloutStatus:
        """Set fields of the roll-out in progress."""
        assert self.status.rollout is not None  # noqa: S101 - only called while there is one
        rollout = self.status.rollout.model_copy(update=fields)
        self.update(rollout=rollout)
        return rollout

    def say(
        self, kind: DeploymentCondition, status: ConditionStatus, reason: str, message: str
    ) -> None:
        """Set a condition. Its time has whole seconds, as Kubernetes times do."""
        new = condition(
            kind,
            status,
            reason,
            message,
            generation=self.generation,
            now=self.now.replace(microsecond=0),
        )
        self.update(conditions=set_condition(self.status.conditions, new))

    def act(self, action: ServingAction) -> None:
        """Ask for an action."""
        self.actions.append(action)

    def emit(self, kind: Literal["Normal", "Warning"], reason: str, message: str) -> None:
        """Ask for an Event."""
        self.act(Emit(kind, reason, message))

    def look_again_in(self, wait: timedelta) -> None:
        """Ask for another pass, at the earliest of all times asked for."""
        wait = max(wait, _SOONEST)
        if self.look_again is None or wait < self.look_again:
            self.look_again = wait

    def look_again_at(self, time: datetime) -> None:
        """Ask for another pass at ``time``."""
        self.look_again_in(time - self.now)

    def decision(self) -> ServingDecision:
        """Close the draft."""
        self.update(observed_generation=self.generation)
        return ServingDecision(self.status, tuple(self.actions), self.look_again)
