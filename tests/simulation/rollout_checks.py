"""What must never be in a world, asked beside every action and at the end of every turn.

What the canary's weight may be is kept by an oracle of its own that knows how good each model
really is and never asks the planner.
"""

from math import ceil

from tests.simulation.rollout_parts import GOOD, Revision
from tests.simulation.rollout_state import RolloutState
from tunesmith_api.conditions import DeploymentCondition, DeploymentReason
from tunesmith_api.deploymentstatus import ModelDeploymentStatus, RollbackReason, RolloutStatus
from tunesmith_api.rollout import Approval, CapacityMode
from tunesmith_operator.planning.revisions import plan_digest
from tunesmith_operator.planning.serving import (
    Traffic,
)

REASONS = {*DeploymentReason, *RollbackReason}


class RolloutChecks(RolloutState):
    def check(self) -> None:
        """At the end of a turn in which the operator could look and act."""
        # A silent router is asked again only every other second.
        is_heard = not self.router_silent_for and not self.was_silent
        if self.deployment.metadata.deletion_timestamp is not None:
            return
        can_act = self.is_caught_up and not self.away_for and is_heard
        if not can_act or self.traffic is None or self.watched != self.what_watches_show():
            return
        for revision in self.revisions.values():
            if self.traffic.share(revision.name) and revision.ready == 0:
                healthy = [r.number for r in self.revisions.values() if r.is_whole]
                assert not healthy, f"traffic rests on {revision.number}, {healthy} are healthy"

    def check_idle(self, name: str) -> None:
        """What goes must have been seen idle before: a router may be slow to let go of it."""
        for traffic in (self.traffic, self.traffic_seen):
            assert traffic is None or not traffic.touches(name), "it may have requests"
        assert self.was_settled, "a router pod may still send it requests"

    def check_scale(self, revision: Revision, replicas: int) -> None:
        if replicas >= revision.replicas:
            return
        share = self.traffic.share(revision.name) if self.traffic else 0
        asked = self.deployment.spec.replicas
        is_lean = self.deployment.spec.rollout.capacity.mode is CapacityMode.NO_SURGE
        # Where pods change hands one is on its way, and weights are whole percents.
        needed = ceil(asked * (share - 1) / 100) - 1 if is_lean else ceil(asked * share / 100)
        assert replicas >= needed, f"{revision.number} was shrunk below its traffic"
        assert replicas >= 1 or not share, f"the last pod of {revision.number} went with traffic"
        stable = self.status.stable
        if stable is not None and revision.name == stable.name and not is_lean:
            assert replicas >= asked, "stable could not take its traffic back"

    def check_traffic(self, new: Traffic) -> None:
        old = self.traffic or Traffic(main="")
        losers = [r for r in self.revisions.values() if new.share(r.name) < old.share(r.name)]
        rollout = self.status.rollout
        is_escape = not old.main or self.may_leave(losers)
        for revision in self.revisions.values():
            if new.share(revision.name) <= old.share(revision.name):
                continue
            assert revision.ready > 0, f"traffic was sent to {revision.number} without pods"
            is_new = old.share(revision.name) == 0
            is_enough = revision.ready >= self.pods_for(new.share(revision.name))
            assert not is_new or is_enough or revision.is_whole or is_escape, "not fully ready"
            canary = self.status.canary
            if canary is not None and rollout is not None and canary.name == revision.name:
                self.check_rise(rollout, new.share(revision.name))

    def may_leave(self, losers: list[Revision]) -> bool:
        """What serves nobody, or badly, is left for whatever is there."""
        rollout, rejected = self.status.rollout, {r.digest for r in self.status.rejected}
        is_bad = any(r.ready == 0 or r.digest in rejected for r in losers)
        return is_bad or (rollout is not None and rollout.stable_crash_loops)

    def pods_for(self, share: int) -> int:
        spec = self.deployment.spec
        is_lean = spec.rollout.capacity.mode is CapacityMode.NO_SURGE
        return ceil(spec.replicas * share / 100) - (1 if is_lean else 0)

    def check_rise(self, rollout: RolloutStatus, share: int) -> None:
        """The canary's share rises only to what really good samples have earned it."""
        stable = self.revisions.get(self.status.stable.name) if self.status.stable else None
        if rollout.skips_analysis or stable is None or stable.ready == 0:
            return
        steps = [s.weight for s in self.deployment.spec.rollout.steps] + [100]
        spec = self.deployment.spec.rollout
        if share == 100 and spec.approval is Approval.MANUAL and stable.is_whole:
            assert spec.approved_digest == rollout.digest, "nobody approved it"
        needed = next(i for i, weight in enumerate(steps) if share <= weight)
        earned = self.earned.get((rollout.digest, rollout.start_time), -1)
        # An outage of stable may end while the stand-in still carries all; it earned nothing then.
        assert needed - 1 <= earned or (stable and not stable.is_whole), (
            f"{share} % needs a Pass of step {needed - 1}, had {earned}"
        )

    def check_status(self, old: ModelDeploymentStatus, new: ModelDeploymentStatus) -> None:
        for said in new.conditions:
            assert said.type in set(DeploymentCondition), said
            assert said.reason in REASONS, f"conditions.md knows nothing of {said.reason}"
        assert new.observed_generation == self.deployment.metadata.generation
        assert len(new.history) <= self.deployment.spec.revision_history_limit
        digests = [h.digest for h in new.history]
        assert len(digests) == len(set(digests))
        assert new.last_revision >= old.last_revision
        if new.rollout and (not old.rollout or old.rollout.digest != new.rollout.digest):
            held = {(r.digest, r.plan) for r in old.rejected}
            key = (new.rollout.digest, plan_digest(self.deployment.spec.rollout))
            assert old.stable is None or key not in held, "a rejected revision is tried again"
        if old.rollout and old.rollout.abort and new.rollout:
            is_same = old.rollout.start_time == new.rollout.start_time
            assert not is_same or new.rollout.abort, "a rejection was forgotten"
        messages = sum(len(c.message) for c in new.conditions)
        assert messages < 6000

    def check_rejection(self, old: ModelDeploymentStatus, new: ModelDeploymentStatus) -> None:
        """A good canary goes only for what really happened to it since its roll-out began."""
        rollout, role = new.rollout, new.canary
        if rollout is None or rollout.abort is None or role is None or old.rollout is None:
            return
        revision = self.revisions.get(role.name)
        if old.rollout.abort is None:
            assert self.deployment.spec.rollout.rollback.automatic, "nobody asked for a rollback"
        if old.rollout.abort is not None or (revision and self.model(revision) != GOOD):
            return
        if rollout.abort.reason in (
            RollbackReason.INSUFFICIENT_DATA,
            RollbackReason.PROVIDER_ERROR,
        ):
            happened = self.blinded
        else:
            happened = self.evicted
        assert happened is not None, f"a good canary was rejected: {rollout.abort.message}"
        assert happened >= rollout.start_time, f"a good canary was rejected: {rollout.abort}"

    def is_settled_down(self) -> bool:
        """Whether nothing is left to do: wanted is served, or held, and no pods are left over."""
        status = self.status
        if status.rollout is not None or status.stable is None or not self.is_caught_up:
            return False
        if status.observed_generation != self.deployment.metadata.generation:
            return False
        plan = plan_digest(self.deployment.spec.rollout)
        held = {(r.digest, r.plan) for r in status.rejected}
        wanted = self.wanted()
        is_done = status.stable.digest == wanted or (wanted, plan) in held
        return is_done and self.traffic == Traffic(main=status.stable.name)
