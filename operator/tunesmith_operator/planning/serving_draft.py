"""A roll-out's decision in the making: the status to be written and the actions asked for so far.

Lives inside one call of ``decide_rollout`` and never outside it, so that stays a pure function.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import ClassVar

from tunesmith_api.conditions import DeploymentCondition
from tunesmith_api.deploymentstatus import ModelDeploymentStatus, RolloutStatus
from tunesmith_api.meta import ConditionStatus
from tunesmith_api.modeldeployment import ModelDeploymentSpec
from tunesmith_operator.planning.conditions import condition, set_condition
from tunesmith_operator.planning.draft import Draft
from tunesmith_operator.planning.serving_actions import ServingAction, ServingDecision


@dataclass(slots=True, kw_only=True)
class ServingDraft(Draft[ModelDeploymentStatus, ServingAction]):
    """Collects what one pass over a ModelDeployment decides."""

    # A rollback's last look must not spend the half second that the rollback has.
    soonest: ClassVar[timedelta] = timedelta(milliseconds=50)

    spec: ModelDeploymentSpec
    wanted: str | None
    """Digest of the revision that the spec asks for; None while that cannot be told."""
    wanted_host: str
    """Deployment whose pods serve that revision beside others; empty where it has its own."""
    plan: str
    """Digest of what a canary is judged by, as the spec has it now."""

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

    def look_again_at(self, time: datetime) -> None:
        """Ask for another pass at ``time``."""
        self.look_again_in(time - self.now)

    def decision(self) -> ServingDecision:
        """Close the draft."""
        self.update(observed_generation=self.generation)
        return ServingDecision(self.status, tuple(self.actions), self.look_again)
