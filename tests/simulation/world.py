"""A toy cluster for the real ``decide``: pods fail, answers get lost, the operator dies.

It plays what reconcile/ does (observe, decide, act, write the status) on plain objects, with a
seeded generator for everything that can go wrong. What it must never see is in ``check``.
"""

import random
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from tunesmith_api.attempts import AttemptReason, StageName
from tunesmith_api.conditions import ConditionType
from tunesmith_api.datastatus import DataStatus, RowCounts
from tunesmith_api.finetunejob import FineTuneJob, FineTuneJobSpec
from tunesmith_api.jobstatus import ArtifactStatus, FineTuneJobStatus
from tunesmith_api.measurements import Measurement
from tunesmith_api.modelversion import ModelVersionSpec
from tunesmith_api.result import (
    PREPARED_DATA_LOST,
    CheckpointRef,
    Outcome,
    Phase,
    TrainerProgress,
    TrainerResult,
)
from tunesmith_api.run import TrainingRun
from tunesmith_api.sharding import Placement, Sharding
from tunesmith_operator.config import Config
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
from tunesmith_operator.planning.conditions import find, is_true
from tunesmith_operator.planning.observed import (
    Observation,
    SeenJob,
    SeenPod,
    SeenTarget,
    SeenVersion,
)
from tunesmith_operator.planning.offers import target_name
from tunesmith_operator.planning.training import decide

START = datetime(2026, 1, 1, tzinfo=UTC)
STEPS = 60
DIGEST = "sha256:" + "0" * 64
DATA = DataStatus(prompt_version="v2", rows=RowCounts(synthetic=7))
PLACEMENT = Placement(sharding=Sharding.FSDP, memory_bytes=1 << 30, reason="Parts fit.")
MERGED = ArtifactStatus(name="Merged", uri="s3://bucket/m/", digest=DIGEST, size_bytes=1)
CONFIG = Config(trainer_image="trainer:1")
IMAGE_DIGEST = "sha256:" + "7" * 64
"""What the tag is when pods pull it."""

SPEC: dict[str, Any] = {
    "model": {"uri": "builtin://tiny"},
    "dataset": {"train": {"uri": "s3://bucket/data.jsonl"}},
    "output": {"uri": "s3://bucket/models/"},
    "compute": {"gpusPerNode": 0},
    "checkpoint": {"everySteps": 10},
    "runPolicy": {"stallTimeoutSeconds": 60},
}


@dataclass(frozen=True)
class Faults:
    """How likely each thing is to go wrong, per turn."""

    evict: float = 0.0
    crash: float = 0.0
    out_of_memory: float = 0.0
    user_error: float = 0.0
    hang: float = 0.0
    job_deleted: float = 0.0
    operator_dies: float = 0.0
    answer_lost: float = 0.0
    toggle_suspend: float = 0.0
    image_missing: float = 0.0
    worse_than_base: float = 0.0
    prepared_lost: float = 0.0
    deployment_edited: float = 0.0
    pod_refused: float = 0.0
    child_refused: float = 0.0
    child_invalid: float = 0.0


DEPLOYMENTS = (
    SeenTarget(exists=False),
    SeenTarget(exists=True),
    SeenTarget(True, "another", "stable"),
    SeenTarget(True, "demo", "stable"),
    SeenTarget(True, "demo", "next"),
)


@dataclass
class Attempt:
    """A Job with its one pod, once that is made."""

    job: SeenJob
    run: TrainingRun
    step: int = 0
    resumed_from: int = 0
    terminating_for: int = -1
    hangs: bool = False
    idle_since: datetime = START

    @property
    def pod(self) -> SeenPod:
        return self.job.pods[0]

    def set_pod(self, **changes: Any) -> None:
        self.job = replace(self.job, pods=(replace(self.pod, **changes),))

    @property
    def is_alive(self) -> bool:
        if not self.job.pods:
            return False
        return self.pod.phase in ("Pending", "Running") and not self.pod.is_gone


class OperatorDied(Exception):
    """The process ended in the middle of a pass."""


@dataclass
class World:
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

    # -- the operator ------------------------------------------------------------------------

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
        """Everything but the status: an operator's own writes wake nobody, as in kube/cache.py."""
        attempts = [a.job for a in self.attempts.values()]
        strays = [a.pod for a in self.strays]
        spec = self.job.spec if self.job else None
        return spec, attempts, strays, list(self.versions)

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
            decision = refused(seen, str(error), self.now)
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
            resource_version="1",
            owner_uid=self.job.metadata.uid,
            stage=run.stage,
            attempt=run.attempt,
            created=self.now,
            started=self.now,
            image="trainer:1",
        )
        self.attempts[name] = Attempt(seen, run, idle_since=self.now)
        self.make_pod(self.attempts[name])

    def make_pod(self, attempt: Attempt) -> None:
        if self.chance(self.faults.pod_refused):
            return
        name = attempt.job.name
        pod = SeenPod(name=f"{name}-0", uid=f"pod-{name}", job_uid=name, created=self.now)
        attempt.job = replace(attempt.job, pods=(pod,))

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
        assert not any(v.job_uid == uid for v in self.versions), "two versions of one job"
        follows = self.deployment.model == spec.model and self.wants_offer()
        channel = spec.offered_to.channel if spec.offered_to else ""
        assert channel == (self.deployment.channel if follows else ""), "offered to nobody's wish"
        offer = spec.offered_to
        offered = (offer.deployment, offer.channel) if offer else ("", "")
        self.versions.append(SeenVersion(name, spec.model, spec.version, uid, *offered))
        self.made.append(spec)

    def wants_offer(self) -> bool:
        return self.job is not None and self.job.spec.deploy_to is not None

    # -- the cluster -------------------------------------------------------------------------

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

    def is_being_deleted(self) -> bool:
        return self.job is None or self.job.metadata.deletion_timestamp is not None

    def collect(self) -> None:
        """The garbage collector: it comes to each child some time."""
        if not self.is_being_deleted():
            return
        for name, attempt in list(self.attempts.items()):
            if not attempt.job.is_deleting and self.chance(0.2):
                self.delete(name, attempt.job.uid)
        if not self.attempts and not self.strays and self.chance(0.2):
            self.job = None

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

    def job_limits(self) -> tuple[int, ...]:
        assert self.job is not None
        policy = self.job.spec.run_policy
        return policy.backoff_limit, policy.disruption_limit

    def end_stray(self, attempt: Attempt) -> bool:
        attempt.terminating_for += 1
        if attempt.terminating_for >= 3:
            self.save(attempt)
            return False
        return True

    def advance(self, attempt: Attempt, seconds: int) -> None:
        if not attempt.job.pods:
            if attempt.job.is_deleting:
                del self.attempts[attempt.job.name]
            else:
                self.make_pod(attempt)
            return
        if not attempt.is_alive:
            return
        if attempt.terminating_for >= 0:
            attempt.terminating_for += 1
            if attempt.terminating_for >= 2:
                self.terminate(attempt)
            return
        if attempt.pod.phase == "Pending":
            self.start_pod(attempt)
            return
        if self.break_something(attempt):
            return
        self.work(attempt, seconds)

    def start_pod(self, attempt: Attempt) -> None:
        if self.chance(self.faults.image_missing):
            attempt.set_pod(waiting_reason="ImagePullBackOff", waiting_message="not found")
            return
        if attempt.run.stage is StageName.TRAIN and self.chance(self.faults.prepared_lost):
            self.is_prepared = False
            lost = self.result(attempt, Outcome.INFRASTRUCTURE, PREPARED_DATA_LOST)
            self.finish(attempt, lost, 1)
            return
        attempt.resumed_from = attempt.step = self.saved_step
        attempt.hangs = self.chance(self.faults.hang)
        attempt.idle_since = self.now
        attempt.set_pod(
            phase="Running",
            started=self.now,
            ip="10.0.0.1",
            waiting_reason="",
            image_id=self.image_id,
        )

    def break_something(self, attempt: Attempt) -> bool:
        f = self.faults
        if self.chance(f.evict):
            self.save(attempt)  # SIGTERM comes first, and the trainer saves
            self.finish(attempt, self.result(attempt, Outcome.CHECKPOINTED, "Checkpointed"), 75)
            return True
        if self.chance(f.crash):
            self.finish(attempt, None, 1)
            return True
        if self.chance(f.out_of_memory):
            attempt.set_pod(exit_reason="OOMKilled")
            self.finish(attempt, None, 137)
            return True
        if self.chance(f.user_error):
            self.finish(attempt, self.result(attempt, Outcome.USER_ERROR, "NonFiniteLoss"), 65)
            return True
        return False

    def work(self, attempt: Attempt, seconds: int) -> None:
        if attempt.hangs:
            return
        attempt.idle_since = self.now
        if attempt.run.stage is StageName.PREPARE:
            self.is_prepared = True
            self.finish(attempt, self.result(attempt, Outcome.SUCCEEDED, "Prepared"), 0)
            return
        assert self.is_prepared, "trained without data"
        attempt.step = min(STEPS, attempt.step + seconds)
        if attempt.step // 10 * 10 > self.saved_step:
            self.saved_step = attempt.step // 10 * 10
        if attempt.step == STEPS:
            self.report = self.result(attempt, Outcome.SUCCEEDED, "Trained")
            self.finish(attempt, self.report, 0)

    def save(self, attempt: Attempt) -> None:
        if attempt.run.stage is StageName.TRAIN and attempt.pod.phase == "Running":
            self.saved_step = max(self.saved_step, attempt.step)

    def terminate(self, attempt: Attempt) -> None:
        """SIGTERM of a deletion has run its course."""
        if attempt.pod.phase == "Running" and not attempt.hangs:
            self.save(attempt)
        del self.attempts[attempt.job.name]

    def finish(self, attempt: Attempt, result: TrainerResult | None, code: int) -> None:
        attempt.set_pod(
            phase="Succeeded" if code == 0 else "Failed",
            exit_code=code,
            finished=self.now,
            termination_message=result.model_dump_json(by_alias=True) if result else "",
        )
        attempt.job = replace(
            attempt.job,
            is_complete=code == 0,
            is_failed=code != 0,
            failure_reason="" if code == 0 else "BackoffLimitExceeded",
            finished=self.now,
        )

    def result(self, attempt: Attempt, outcome: Outcome, reason: str) -> TrainerResult:
        trained = outcome is Outcome.SUCCEEDED and attempt.run.stage is StageName.TRAIN
        loss = Measurement(
            metric="heldout/loss", value="2.5" if self.is_worse else "1.5", base_value="2.0"
        )
        return TrainerResult(
            stage=attempt.run.stage,
            attempt=attempt.run.attempt,
            outcome=outcome,
            reason=reason,
            message=f"{reason}.",
            step=attempt.step,
            resumed_from_step=attempt.resumed_from or None,
            checkpoint=self.checkpoint(),
            dataset_digest=DIGEST,
            data=None if trained else DATA,
            placement=None if trained else PLACEMENT,
            measurements=(loss,) if trained else (),
            artifacts=(MERGED,) if trained else (),
            report_uri="s3://bucket/r.json" if trained else "",
            report_digest=DIGEST if trained else None,
        )

    def progress(self, attempt: Attempt) -> TrainerProgress:
        train = attempt.run.stage is StageName.TRAIN
        return TrainerProgress(
            stage=attempt.run.stage,
            attempt=attempt.run.attempt,
            phase=Phase.TRAINING if train else Phase.READING,
            phase_start_time=attempt.pod.started or self.now,
            step=attempt.step,
            total_steps=STEPS if train else 0,
            eta_seconds=STEPS - attempt.step,
            seconds_since_progress=(self.now - attempt.idle_since).total_seconds(),
            resumed_from_step=attempt.resumed_from or None,
            checkpoint=self.checkpoint(),
            notes=self.notes if train else (),
        )

    def checkpoint(self) -> CheckpointRef | None:
        if not self.saved_step:
            return None
        return CheckpointRef(step=self.saved_step, uri="s3://bucket/c/", time=self.now)

    # -- what must never be ------------------------------------------------------------------

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
        for kind in (ConditionType.COMPLETE, ConditionType.FAILED):
            if is_true(old.conditions, kind):
                assert is_true(new.conditions, kind), f"{kind} went back"
        assert old.counters.attempts <= new.counters.attempts
        used, lost = (Decimal(t) for t in (new.usage.gpu_seconds, new.usage.gpu_seconds_lost))
        assert Decimal(old.usage.gpu_seconds_lost) <= lost <= used


def _through_json(status: FineTuneJobStatus) -> FineTuneJobStatus:
    """Go the way of the API server, which keeps nothing that JSON cannot say."""
    said = status.model_dump_json(by_alias=True, exclude_none=True)
    return FineTuneJobStatus.model_validate_json(said)
