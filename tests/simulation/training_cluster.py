"""The toy cluster of training: pods start, work, break and end."""

from dataclasses import replace

from tests.simulation.training_checks import TrainingChecks
from tests.simulation.training_parts import DATA, DIGEST, MERGED, PLACEMENT, STEPS, Attempt
from tunesmith_api.attempts import StageName
from tunesmith_api.measurements import Measurement
from tunesmith_api.result import (
    PREPARED_DATA_LOST,
    CheckpointRef,
    Outcome,
    Phase,
    TrainerProgress,
    TrainerResult,
)
from tunesmith_operator.planning.observed import (
    SeenPod,
)


class TrainingCluster(TrainingChecks):
    def make_pod(self, attempt: Attempt) -> None:
        if self.chance(self.faults.pod_refused):
            return
        name = attempt.job.name
        pod = SeenPod(name=f"{name}-0", uid=f"pod-{name}", job_uid=name, created=self.now)
        attempt.job = replace(attempt.job, pods=(pod,))

    def collect(self) -> None:
        """The garbage collector: it comes to each child some time."""
        if not self.is_being_deleted():
            return
        for name, attempt in list(self.attempts.items()):
            if not attempt.job.is_deleting and self.chance(0.2):
                self.delete(name, attempt.job.uid)
        if not self.attempts and not self.strays and self.chance(0.2):
            self.job = None

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
