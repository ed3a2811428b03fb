"""A toy cluster for the real ``decide``: pods fail, answers get lost, the operator dies.

It plays what reconcile/ does (observe, decide, act, write the status) on plain objects, with a
seeded generator for everything that can go wrong. Its layers, each on the one
before: ``training_checks``, which says what it must never see, and ``training_cluster``; both are
made of ``training_parts``.
"""

from dataclasses import replace
from datetime import timedelta
from typing import Any

from tests.simulation.training_cluster import TrainingCluster
from tests.simulation.training_parts import CONFIG, DEPLOYMENTS, Attempt
from tunesmith_api.finetunejob import FineTuneJobSpec
from tunesmith_api.jobstatus import FineTuneJobStatus
from tunesmith_api.modelversion import ModelVersionSpec
from tunesmith_api.run import TrainingRun
from tunesmith_operator.kube.errors import Invalid, Refused
from tunesmith_operator.planning.acceptance import invalid_child, refused
from tunesmith_operator.planning.actions import (
    Action,
    Decision,
    DeleteAttempt,
    DeleteSelf,
    Emit,
    MakeVersion,
    StartAttempt,
    StopAttempt,
)
from tunesmith_operator.planning.observed import (
    Observation,
    SeenJob,
    SeenVersion,
)
from tunesmith_operator.planning.offers import target_name
from tunesmith_operator.planning.training import decide


class OperatorDied(Exception):
    """The process ended in the middle of a pass."""


class World(TrainingCluster):
    def observe(self) -> Observation:
        assert self.job is not None
        attempts = self.attempts.values()
        live = next((a for a in attempts if a.job.pods and a.pod.phase == "Running"), None)
        unmade = [a for a in attempts if not a.job.pods]
        return Observation(
            job=self.job,
            attempts=tuple(a.job for a in attempts),
            stray_pods=tuple(a.pod for a in self.strays),
            versions=tuple(self.versions),
            target=self.deployment if target_name(self.job) else None,
            progress=self.progress(live) if live else None,
            pods_refused=self.refusal if unmade else "",
        )

    def what_watches_show(self) -> object:
        """Children and the spec: its own writes and versions wake nobody, as in kube/cache.py."""
        attempts = [a.job for a in self.attempts.values()]
        strays = [a.pod for a in self.strays]
        generation = self.job.metadata.generation if self.job else None
        return generation, attempts, strays

    def wake(self) -> None:
        """Reconcile when a watch shows something new or the last pass asked to be woken by now."""
        if self.watched != self.what_watches_show() or (self.due and self.due <= self.now):
            self.reconcile()

    def reconcile(self) -> Decision | None:
        """Do a pass, and keep what the next one is woken by."""
        decision = self.one_pass()
        # A new process lists everything and looks at all of it.
        wait = decision.look_again if decision else timedelta()
        self.due = None if wait is None else self.now + wait
        self.watched = self.what_watches_show()
        return decision

    def one_pass(self) -> Decision | None:
        if self.job is None:
            return None
        seen = self.observe()
        decision = decide(seen, CONFIG, self.now)
        assert decision == decide(seen, CONFIG, self.now), "the same snapshot, another decision"
        try:
            decision = self.carry_out(seen, decision)
        except OperatorDied:
            self.transcript.append("operator died")
            return None
        if self.job is not None:
            self.check_status(self.job.status, decision.status)
            self.job = self.job.model_copy(update={"status": _through_json(decision.status)})
        return decision

    def carry_out(self, seen: Observation, decision: Decision) -> Decision:
        """Act; where the cluster refuses, give what reconcile/finetunejob.py makes of it."""
        try:
            self.act_all(decision)
        except Invalid as error:
            decision = invalid_child(seen, decision, str(error), self.now)
            self.act_all(decision)
        except Refused as error:
            decision = refused(seen, decision, str(error), self.now)
            decision = replace(decision, look_again=timedelta(seconds=10))
            self.act_all(decision)
        return decision

    def act_all(self, decision: Decision) -> None:
        for action in decision.actions:
            self.maybe_die()
            self.act(action)
            self.maybe_die()

    def maybe_refuse(self) -> None:
        if self.chance(self.faults.child_refused):
            raise Refused("create Job: forbidden", 403)
        if self.chance(self.faults.child_invalid):
            raise Invalid("create Job: nodeSelector is invalid", 422)

    def maybe_die(self) -> None:
        if self.chance(self.faults.operator_dies):
            raise OperatorDied

    def act(self, action: Action) -> None:
        if not isinstance(action, Emit):
            self.transcript.append(type(action).__name__ + " " + getattr(action, "job_name", ""))
        match action:
            case StartAttempt(job_name=name, run=run):
                self.create(name, run)
            case StopAttempt(job_name=name, uid=uid) | DeleteAttempt(job_name=name, uid=uid):
                self.delete(name, uid)
            case MakeVersion(name=name, spec=spec, job_uid=uid):
                self.make_version(name, spec, uid)
            case DeleteSelf():
                self.job = None
            case Emit():
                self.events.append(action)
        if self.chance(self.faults.answer_lost):
            raise OperatorDied

    def create(self, name: str, run: TrainingRun) -> None:
        assert self.job is not None
        assert not self.is_over(), "a finished job made a child"
        assert not self.is_being_deleted(), "a job that is being deleted made a child"
        if name in self.attempts:
            return  # 409, ours: adopted
        self.maybe_refuse()
        # A number is used again only if its Job was deleted before anybody had written it down.
        assert name not in self.created or name in self.deleted_by_hand, f"{name} was made twice"
        self.created.append(name)
        seen = SeenJob(
            name=name,
            uid=name,
            owner_uid=self.job.metadata.uid,
            stage=run.stage,
            attempt=run.attempt,
            created=self.now,
            started=self.now,
            image="trainer:1",
        )
        self.attempts[name] = Attempt(seen, run, idle_since=self.now)
        self.make_pod(self.attempts[name])

    def delete(self, name: str, uid: str) -> None:
        attempt = self.attempts.get(name)
        if attempt is None or attempt.job.uid != uid:
            return
        attempt.job = replace(attempt.job, is_deleting=True)
        if attempt.is_alive:
            attempt.terminating_for = 0
            attempt.set_pod(is_terminating=True)
        elif attempt.job.pods:
            del self.attempts[name]

    def make_version(self, name: str, spec: ModelVersionSpec, uid: str) -> None:
        assert not self.is_being_deleted(), "a job that is being deleted made a version"
        if any(v.name == name for v in self.versions):
            return
        if self.chance(self.faults.version_refused):
            raise Refused("create ModelVersion: exceeded quota", 403)
        assert not any(v.job_uid == uid for v in self.versions), "two versions of one job"
        follows = self.deployment.model == spec.model and self.wants_offer()
        channel = spec.offered_to.channel if spec.offered_to else ""
        assert channel == (self.deployment.channel if follows else ""), "offered to nobody's wish"
        offer = spec.offered_to
        offered = (offer.deployment, offer.channel) if offer else ("", "")
        self.versions.append(SeenVersion(name, spec.model, spec.version, uid, *offered))
        self.made.append(spec)

    def turn(self, seconds: int = 5) -> None:
        """Let time pass, let things happen, and let the operator look."""
        self.now += timedelta(seconds=seconds)
        self.disturb()
        for attempt in list(self.attempts.values()):
            self.advance(attempt, seconds)
        self.strays = [a for a in self.strays if self.end_stray(a)]
        self.collect()
        self.wake()
        self.check()

    def disturb(self) -> None:
        if self.job is None:
            return
        if self.chance(self.faults.toggle_suspend):
            self.set_suspend(not self.job.spec.suspend)
        if self.faults.deployment_edited and self.chance(self.faults.deployment_edited):
            self.deployment = self.rng.choice(DEPLOYMENTS)
        for name, attempt in list(self.attempts.items()):
            if attempt.is_alive and self.chance(self.faults.job_deleted):
                # kubectl delete job: the pod goes on for its grace period, without its Job.
                self.transcript.append(f"somebody deleted {name}")
                self.deleted_by_hand.add(name)
                attempt.set_pod(is_terminating=True)
                attempt.terminating_for = 0
                self.strays.append(self.attempts.pop(name))

    def delete_job(self) -> None:
        """As `kubectl delete --cascade=foreground`: the children go first."""
        if self.job is None:
            return
        meta = self.job.metadata
        said = {"deletion_timestamp": self.now, "generation": meta.generation + 1}
        self.job = self.job.model_copy(update={"metadata": meta.model_copy(update=said)})

    def set_suspend(self, value: bool) -> None:
        self.edit(suspend=value)

    def edit(self, **changes: Any) -> None:
        """Change fields of the spec, as `kubectl apply` would; a job that is gone stays so."""
        if self.job is None:
            return
        said = {**self.job.spec.model_dump(mode="json"), **changes}
        spec = FineTuneJobSpec.model_validate(said)
        if spec == self.job.spec:
            return  # the API server does not count it as a new generation
        meta = self.job.metadata.model_copy(update={"generation": self.job.metadata.generation + 1})
        self.job = self.job.model_copy(update={"spec": spec, "metadata": meta})
        self.limits = tuple(map(max, self.limits, self.job_limits()))


def _through_json(status: FineTuneJobStatus) -> FineTuneJobStatus:
    """Go the way of the API server, which keeps nothing that JSON cannot say."""
    said = status.model_dump_json(by_alias=True, exclude_none=True)
    return FineTuneJobStatus.model_validate_json(said)
