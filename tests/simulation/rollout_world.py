"""A toy cluster for the real ``decide_rollout``: models misbehave, pods vanish, operators die.

It plays what reconcile/ will do (observe, decide, write the status, act) on plain objects. Woken
only by what watches would show or by ``look_again``. Its layers, each
on the one before: ``rollout_state``, ``rollout_checks``, ``rollout_cluster``,
``rollout_measuring``; all are made of ``rollout_parts``.
"""

from datetime import datetime, timedelta

from tests.simulation.rollout_measuring import RolloutMeasuring
from tests.simulation.rollout_parts import KEY, RESYNC, Revision
from tunesmith_api.deploymentstatus import ModelDeploymentStatus
from tunesmith_operator.planning.actions import Emit
from tunesmith_operator.planning.revisions import revision_digest
from tunesmith_operator.planning.rollout import decide_rollout
from tunesmith_operator.planning.serving import (
    RevisionCounts,
    SeenRouter,
    ServingObservation,
    Traffic,
)
from tunesmith_operator.planning.serving_actions import (
    DeleteRevision,
    EnsureRevision,
    Notify,
    RetireRevision,
    ScaleRevision,
    ServingAction,
    ServingDecision,
    SetTraffic,
)


class OperatorDied(Exception):
    """The process ended in the middle of a pass."""


class RolloutWorld(RolloutMeasuring):
    def observe(self) -> ServingObservation:
        return ServingObservation(
            deployment=self.deployment,
            versions=self.versions,
            revisions=tuple(self.seen(r) for r in self.revisions.values()),
            router=None
            if self.router_silent_for
            else SeenRouter(self.traffic, self.is_settled, self.counts()),
            sampling=self.delivered(),
            was_away=self.looks.was_away(KEY, self.now, self.term),
        )

    def counts(self) -> tuple[RevisionCounts, ...]:
        """Give what the router counted, as planning/routing.py reads it."""
        traffic = self.traffic or Traffic(main="")
        return tuple(
            RevisionCounts(r.name, r.requests, r.consecutive if traffic.touches(r.name) else 0)
            for r in self.revisions.values()
        )

    def wake(self, until: datetime) -> None:
        """Make all passes that are due before the second is over."""
        for _ in range(60):
            is_due = self.due is not None and self.due <= until
            if self.away_for or not (is_due or self.watched != self.what_watches_show()):
                return
            if self.due is not None and is_due:
                self.now = max(self.now, self.due)
            self.one_pass()
        raise AssertionError(f"sixty passes within a second (seed {self.seed})")

    def one_pass(self) -> ServingDecision:
        self.passes += 1
        seen = self.observe()
        self.was_silent = self.router_silent_for > 0
        self.traffic_seen, self.was_settled = self.traffic, self.is_settled
        decision = decide_rollout(seen, self.now)
        if self.passes % 4 == 0:
            assert decision == decide_rollout(seen, self.now), "the same snapshot, not the same"
        self.is_caught_up = False
        self.watched = self.what_watches_show()
        self.due = None if decision.look_again is None else self.now + decision.look_again
        try:
            self.write(decision.status)
            for action in decision.actions:
                self.maybe(self.faults.operator_dies)
                self.act(action)
                self.maybe(self.faults.answer_lost)
        except OperatorDied:
            self.transcript.append("operator died")
            self.die()
            self.due = self.now + timedelta(seconds=2)
            return decision
        promised = self.now + min(RESYNC, decision.look_again or RESYNC)
        self.looks.promise(KEY, promised, self.term)
        self.begin_to_measure()
        if self.measuring is not None:
            self.due = min(self.measuring[0], self.due or self.measuring[0])
        self.is_caught_up = True
        return decision

    def maybe(self, probability: float) -> None:
        if self.chance(probability):
            raise OperatorDied

    def write(self, new: ModelDeploymentStatus) -> None:
        """The status is written first; a conflict ends the pass before anything was done."""
        self.maybe(self.faults.conflict)
        self.maybe(self.faults.operator_dies)
        said = new.model_dump_json(by_alias=True, exclude_none=True)
        new = ModelDeploymentStatus.model_validate_json(said)
        self.check_status(self.status, new)
        self.check_rejection(self.status, new)
        self.deployment = self.deployment.model_copy(update={"status": new})

    def act(self, action: ServingAction) -> None:
        match action:
            case EnsureRevision():
                self.ensure(action)
            case ScaleRevision(name=name, replicas=replicas):
                self.scale(name, replicas)
            case RetireRevision(name=name):
                self.check_idle(name)
                self.scale(name, 0)
            case DeleteRevision(name=name):
                self.check_idle(name)
                self.transcript.append(f"delete {self.revisions[name].number}")
                del self.revisions[name]
            case SetTraffic(traffic=traffic):
                self.set_traffic(traffic)
            case Notify():
                self.notes.append(action)
            case Emit():
                self.events.append(action)

    def ensure(self, action: EnsureRevision) -> None:
        assert revision_digest(action.template) == action.digest
        old = self.revisions.get(action.name)
        if old is None:
            assert all(r.number != action.number for r in self.revisions.values())
            self.transcript.append(f"create {action.number}")
            old = Revision(action.name, action.number, action.digest, action.template, 0)
            self.revisions[action.name] = old
        self.scale(action.name, action.replicas)

    def turn(self) -> None:
        """A second passes: things happen, requests flow, the operator looks."""
        end = self.now.replace(microsecond=0) + timedelta(seconds=1)
        self.now = end
        self.disturb()
        for revision in self.revisions.values():
            self.live(revision)
        self.flow()
        self.wake(end + timedelta(milliseconds=999))
        self.check()
