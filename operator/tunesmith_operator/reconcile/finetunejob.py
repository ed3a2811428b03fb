"""One pass over a FineTuneJob: observe, decide, act, write the status.

The shell around :func:`tunesmith_operator.planning.training.decide`: it reads, carries out and
writes, and has no opinion of its own. Called by the work queue, never twice at a time for one
object. It may die anywhere: the next pass starts from what is really there.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import assert_never

from pydantic import ValidationError

from tunesmith_api.finetunejob import FineTuneJob
from tunesmith_api.jobstatus import FineTuneJobStatus
from tunesmith_api.labels import LABEL_JOB_UID
from tunesmith_api.modeldeployment import ModelDeployment
from tunesmith_api.result import PROGRESS_PORT, TrainerProgress
from tunesmith_operator.kube.errors import AlreadyExists, Conflict, Invalid, NotOurs, Refused
from tunesmith_operator.kube.parse import (
    newest_message,
    parse_job,
    parse_target,
    parse_version,
)
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
from tunesmith_operator.planning.monitoring import lacks_pods, slow_pod
from tunesmith_operator.planning.names import model_name
from tunesmith_operator.planning.observed import Observation, SeenJob, SeenTarget
from tunesmith_operator.planning.offers import target_name
from tunesmith_operator.planning.training import decide
from tunesmith_operator.reconcile.emitting import emit
from tunesmith_operator.reconcile.hindering import what_hinders
from tunesmith_operator.reconcile.refusals import advice
from tunesmith_operator.reconcile.unreadable import mark_unreadable
from tunesmith_operator.reconcile.world import World
from tunesmith_operator.resources.attempt import build_job, build_service
from tunesmith_operator.resources.version import build_version
from tunesmith_operator.telemetry import note_attempts

_POD_REFUSED = "FailedCreate"
_BLOCKED_RETRY = timedelta(seconds=10)


@dataclass(slots=True)
class _Memory:
    """What passes remember of one job's attempt in flight."""

    attempt_uid: str = ""
    """uid of the Job whose trainer has answered; empty before."""
    silent_since: datetime | None = None
    """Since when that trainer does not answer any more."""
    written: datetime | None = None
    """Last status write."""


@dataclass(slots=True)
class FineTuneJobReconciler:
    """Holds what only makes passes cheaper or calmer; all of it may be lost at any time."""

    _memories: dict[tuple[str, str], _Memory] = field(default_factory=dict)
    """By namespace and name of FineTuneJobs with an attempt in flight."""

    async def __call__(self, world: World, namespace: str, name: str) -> timedelta | None:
        """Do one pass. Return when to look again, or None for only when something changes."""
        body = await world.kube.get(FineTuneJob.KIND, namespace, name)
        if body is None:
            self._memories.pop((namespace, name), None)
            return None
        try:
            job = FineTuneJob.model_validate(body)
        except ValidationError as error:
            await mark_unreadable(world, FineTuneJob.KIND, body, error)
            return None
        seen = await self.observe(world, job)
        decision = decide(seen, world.config, world.now())
        try:
            await act(world, job, decision)
        except Invalid as error:
            decision = invalid_child(seen, decision, str(error), world.now())
            await act(world, job, decision)
        except (NotOurs, Refused) as error:
            why = f"{error}. {advice(error, FineTuneJob.KIND)}"
            decision = replace(refused(seen, decision, why, world.now()), look_again=_BLOCKED_RETRY)
            await act(world, job, decision)
        await self.write_status(world, job, decision)
        note_attempts(job.status, decision.status)
        return decision.look_again

    async def observe(self, world: World, job: FineTuneJob) -> Observation:
        """Gather what a decision is made on."""
        meta = job.metadata
        attempts = world.cache.jobs_of(meta.uid)
        active = job.status.active
        if active and all(a.name != active.job_name for a in attempts):
            # "Gone" is a strong conclusion; the cache may only be late. Ask.
            live = await world.kube.get("Job", meta.namespace, active.job_name)
            if live is not None:
                world.cache.saw("Job", live)
                attempts = world.cache.jobs_of(meta.uid)
        lacking = [a for a in attempts if lacks_pods(a, world.now())]
        if lacking or any(
            a.is_finished and a.attempt > job.status.counters.attempts for a in attempts
        ):
            # Jobs and pods come on two streams: the Job's end may be known before its pods' last
            # words, and without them a success looks like a failure.
            for pod in await world.kube.list("Pod", meta.namespace, f"{LABEL_JOB_UID}={meta.uid}"):
                world.cache.saw("Pod", pod)
            attempts = world.cache.jobs_of(meta.uid)
        progress, unanswered = await self._ask_trainer(world, job, attempts)
        slow = slow_pod(attempts[-1], world.now()) if attempts else None
        return Observation(
            job=job,
            attempts=attempts,
            stray_pods=world.cache.stray_pods_of(meta.uid),
            versions=world.cache.versions_of(meta.namespace, model_name(job)),
            target=await _look_at_target(world, job),
            progress=progress,
            pods_refused=await _why_refused(world, meta.namespace, lacking),
            pod_hindered=await what_hinders(world, meta.namespace, slow.uid) if slow else "",
            unanswered=unanswered,
        )

    async def _ask_trainer(
        self, world: World, job: FineTuneJob, attempts: tuple[SeenJob, ...]
    ) -> tuple[TrainerProgress | None, timedelta]:
        """Ask rank 0 how far it is, and note for how long it has not answered."""
        active = job.status.active
        attempt = next((a for a in attempts if active and a.name == active.job_name), None)
        if attempt is None or attempt.is_finished:
            return None, timedelta()
        first = next((p for p in attempt.pods if p.index == 0 and p.phase == "Running"), None)
        if first is None or not first.ip or first.is_gone:
            return None, timedelta()
        progress = await world.poll_progress(first.ip, PROGRESS_PORT)
        memory = self._memory(job)
        if progress is not None:
            memory.attempt_uid, memory.silent_since = attempt.uid, None
            return progress, timedelta()
        if memory.attempt_uid != attempt.uid:
            return None, timedelta()  # a network policy may be in the way: no news is no stall
        memory.silent_since = memory.silent_since or world.now()
        return None, world.now() - memory.silent_since

    def _memory(self, job: FineTuneJob) -> _Memory:
        return self._memories.setdefault((job.metadata.namespace, job.metadata.name), _Memory())

    async def write_status(self, world: World, job: FineTuneJob, decision: Decision) -> None:
        """Write the status if it says something new; progress alone may wait a little."""
        old, new = job.status, decision.status
        if old == new or any(isinstance(a, DeleteSelf) for a in decision.actions):
            return
        if _without_progress(old) == _without_progress(new):
            last = self._memory(job).written
            pause = timedelta(seconds=world.config.progress_seconds)
            if last is not None and world.now() - last < pause:
                return
        await world.kube.apply_status(
            FineTuneJob.KIND,
            job.metadata.namespace,
            job.metadata.name,
            new.model_dump(mode="json", by_alias=True, exclude_none=True),
            resource_version=job.metadata.resource_version,
        )
        self._memory(job).written = world.now()
        if new.active is None:
            del self._memories[job.metadata.namespace, job.metadata.name]


async def _look_at_target(world: World, job: FineTuneJob) -> SeenTarget | None:
    """Read the deployment that a version is offered to, live: the answer is given only once."""
    name = target_name(job)
    if name is None:
        return None
    return parse_target(await world.kube.get(ModelDeployment.KIND, job.metadata.namespace, name))


async def _why_refused(world: World, namespace: str, lacking: Sequence[SeenJob]) -> str:
    """Give what the Job controller was last told when it wanted to make pods of an attempt."""
    if not lacking:
        return ""
    about = f"involvedObject.uid={lacking[-1].uid},reason={_POD_REFUSED}"
    return newest_message(await world.kube.list("Event", namespace, fields=about))


def _without_progress(status: FineTuneJobStatus) -> FineTuneJobStatus:
    return status.model_copy(update={"progress": None, "metrics": (), "checkpoint": None})


async def act(world: World, job: FineTuneJob, decision: Decision) -> None:
    """Carry out all actions, in their order."""
    for action in decision.actions:
        await carry_out(world, job, action)


async def carry_out(world: World, job: FineTuneJob, action: Action) -> None:
    """Carry out one action. Doing it twice does nothing more."""
    meta = job.metadata
    match action:
        case StartAttempt():
            await _start(world, job, action)
        case StopAttempt():
            await _stop(world, meta.namespace, action)
        case DeleteAttempt(job_name=name, uid=uid):
            await world.kube.delete("Job", meta.namespace, name, uid=uid)
        case MakeVersion():
            await _make_version(world, job, action)
        case DeleteSelf(uid=uid):
            # The time to live is mutable: it must still be the one that is over.
            await world.kube.delete(
                FineTuneJob.KIND,
                meta.namespace,
                meta.name,
                uid=uid,
                resource_version=meta.resource_version,
                propagation="Background",
            )
        case Emit():
            emit(world, FineTuneJob.KIND, meta, action)
        case _:
            assert_never(action)


async def _start(world: World, job: FineTuneJob, action: StartAttempt) -> None:
    uid = job.metadata.uid
    if action.run.world.nodes > 1:
        await world.kube.create_or_adopt(build_service(job), uid)
    manifest = build_job(job, action.job_name, action.run, world.config)
    await world.kube.create_or_adopt(manifest, uid)


async def _stop(world: World, namespace: str, action: StopAttempt) -> None:
    """Delete a Job that still runs.

    One that has ended by now is for the next pass to judge: what came of it would go with it.
    """
    body = await world.kube.get("Job", namespace, action.job_name)
    if body is None or body["metadata"]["uid"] != action.uid:
        return
    live = parse_job(body)
    if live is not None and live.is_finished:
        world.cache.saw("Job", body)
        raise Conflict(f"Job {namespace}/{action.job_name} has ended before it was stopped")
    version = body["metadata"]["resourceVersion"]
    await world.kube.delete(
        "Job", namespace, action.job_name, uid=action.uid, resource_version=version
    )


async def _make_version(world: World, job: FineTuneJob, action: MakeVersion) -> None:
    try:
        await world.kube.create(build_version(job, action.name, action.spec))
    except AlreadyExists:
        # Ours after a lost answer, or somebody else took the number: the next pass will tell,
        # as soon as the cache knows the object.
        namespace = job.metadata.namespace
        body = await world.kube.get("ModelVersion", namespace, action.name)
        if body is None:
            return
        world.cache.saw("ModelVersion", body)
        taken, wanted = parse_version(body), action.spec
        if (taken.model, taken.version) != (wanted.model, wanted.version):
            # No number moves on because of it, so the same name would be tried for ever.
            what = f"version {taken.version} of model {taken.model}"
            raise NotOurs(f"ModelVersion {namespace}/{action.name} exists and is {what}") from None
