"""The state of a toy world of training, and what must never be in it."""

import random
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

from tests.simulation.training_parts import DEPLOYMENTS, IMAGE_DIGEST, SPEC, START, Attempt, Faults
from tunesmith_api.attempts import AttemptReason
from tunesmith_api.conditions import ConditionType, Reason
from tunesmith_api.finetunejob import FineTuneJob
from tunesmith_api.jobstatus import FineTuneJobStatus
from tunesmith_api.modelversion import ModelVersionSpec
from tunesmith_api.result import TrainerResult, UserErrorReason
from tunesmith_operator.planning.actions import (
    Emit,
)
from tunesmith_operator.planning.conditions import find, is_true
from tunesmith_operator.planning.observed import (
    SeenVersion,
)

REASONS = {*Reason, *UserErrorReason, AttemptReason.OUT_OF_MEMORY}


@dataclass
class TrainingState:
    seed: int
    faults: Faults = field(default_factory=Faults)
    spec: dict[str, Any] = field(default_factory=lambda: dict(SPEC))
    image_id: str = f"registry/trainer@{IMAGE_DIGEST}"

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.now = START
        self.job: FineTuneJob | None = FineTuneJob.model_validate(
            {"metadata": {"name": "demo", "uid": "u" * 36, "generation": 1}, "spec": self.spec}
        )
        self.attempts: dict[str, Attempt] = {}
        self.strays: list[Attempt] = []
        self.versions: list[SeenVersion] = []
        self.made: list[ModelVersionSpec] = []
        self.deployment = DEPLOYMENTS[0]
        self.events: list[Emit] = []
        self.created: list[str] = []
        self.deleted_by_hand: set[str] = set()
        self.transcript: list[str] = []
        self.saved_step = 0
        self.refusal = "Error creating: no PriorityClass with name urgent was found"
        """What the API server says when the Job controller may not make a pod."""
        self.is_prepared = False
        self.report: TrainerResult | None = None
        self.notes: tuple[str, ...] = ()
        """What the trainer says of checkpoints that it did not use."""
        self.is_worse = self.chance(self.faults.worse_than_base)
        self.watched: object = None
        """What the watches had shown when the operator last looked."""
        self.due: datetime | None = START
        self.limits = self.job_limits()
        """The highest that failures and disruptions were ever allowed: an edit may lower them."""

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def wants_offer(self) -> bool:
        return self.job is not None and self.job.spec.deploy_to is not None

    def job_limits(self) -> tuple[int, ...]:
        assert self.job is not None
        policy = self.job.spec.run_policy
        return policy.backoff_limit, policy.disruption_limit

    def is_being_deleted(self) -> bool:
        return self.job is None or self.job.metadata.deletion_timestamp is not None


class TrainingChecks(TrainingState):
    def is_over(self) -> bool:
        conditions = self.job.status.conditions if self.job else ()
        return is_true(conditions, ConditionType.COMPLETE) or is_true(
            conditions, ConditionType.FAILED
        )

    def is_settled(self) -> bool:
        return self.job is None or (self.is_over() and not self.attempts_alive())

    def attempts_alive(self) -> list[Attempt]:
        return [a for a in [*self.attempts.values(), *self.strays] if a.is_alive]

    def check(self) -> None:
        alive = self.attempts_alive()
        assert len(alive) <= 1, f"two attempts at once: {[a.job.name for a in alive]}"
        numbers = [int(name.rsplit("-", 1)[1]) for name in self.created]
        assert numbers == sorted(numbers), "attempt numbers must not fall"
        if self.job is None:
            return
        status = self.job.status
        failures, disruptions = self.limits
        assert status.counters.failures <= failures + 1
        assert status.counters.disruptions <= disruptions + 1
        assert len(status.attempts) <= 10
        complete = is_true(status.conditions, ConditionType.COMPLETE)
        assert not (complete and is_true(status.conditions, ConditionType.FAILED))
        assert not complete or len(self.versions) == 1
        assert not self.versions or not self.is_worse, "a version of a model that failed its gate"
        self.check_offer(status)
        for attempt in status.attempts:
            if attempt.reason is AttemptReason.EVICTED:
                assert attempt.lost_steps <= self.job.spec.checkpoint.every_steps

    def check_offer(self, status: FineTuneJobStatus) -> None:
        """Hold what is said of the offer against the version that was made."""
        assert self.job is not None
        said = find(status.conditions, ConditionType.OFFERED)
        is_due = self.wants_offer() and is_true(status.conditions, ConditionType.COMPLETE)
        assert (said is not None) == is_due
        if said is not None:
            (made,) = self.made
            assert (said.status == "True") == (made.offered_to is not None)
            assert made.offered_to is None or made.offered_to.channel in made.tags

    def check_status(self, old: FineTuneJobStatus, new: FineTuneJobStatus) -> None:
        assert self.job is not None
        assert new.observed_generation == self.job.metadata.generation
        for said in new.conditions:
            assert said.type in set(ConditionType), said
            assert said.reason in REASONS, f"conditions.md knows nothing of {said.reason}"
        for kind in (ConditionType.COMPLETE, ConditionType.FAILED):
            if is_true(old.conditions, kind):
                assert is_true(new.conditions, kind), f"{kind} went back"
        assert old.counters.attempts <= new.counters.attempts
        used, lost = (Decimal(t) for t in (new.usage.gpu_seconds, new.usage.gpu_seconds_lost))
        assert Decimal(old.usage.gpu_seconds_lost) <= lost <= used
