"""One pass over a ModelDeployment: observe, decide, write the status, then act.

The shell around :func:`tunesmith_operator.planning.rollout.decide_rollout`. The status goes first,
so a granted weight or a rejection is never known to the router alone (decision 11). It may die
anywhere: the next pass finds the status and asks for the same actions again. Called by the work
queue, never twice at a time for one object.
"""

import asyncio
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial

import structlog
from pydantic import ValidationError

from tunesmith_api.deploymentstatus import ModelDeploymentStatus
from tunesmith_api.modeldeployment import ModelDeployment
from tunesmith_api.revision import RevisionTemplate
from tunesmith_operator.config import Config
from tunesmith_operator.kube.known import Key
from tunesmith_operator.planning.actions import Emit
from tunesmith_operator.planning.analysis import is_sample_due, unmeasured
from tunesmith_operator.planning.early import is_look_due, unlooked
from tunesmith_operator.planning.rollout import decide_rollout
from tunesmith_operator.planning.serving import RevisionCounts, ServingObservation
from tunesmith_operator.planning.serving_actions import (
    Notify,
    ServingAction,
    ServingDecision,
    SetTraffic,
)
from tunesmith_operator.planning.sources import resolve
from tunesmith_operator.reconcile.emitting import emit
from tunesmith_operator.reconcile.former_router import FormerRouters
from tunesmith_operator.reconcile.looking import Looks
from tunesmith_operator.reconcile.measuring import Measuring
from tunesmith_operator.reconcile.refusals import Refusals
from tunesmith_operator.reconcile.samples import (
    begin_counting,
    count_answers,
    look_early,
    remember,
    take_samples,
)
from tunesmith_operator.reconcile.serving_objects import ServingObjects
from tunesmith_operator.reconcile.serving_pods import change_pods
from tunesmith_operator.reconcile.serving_reading import Reading, read
from tunesmith_operator.reconcile.serving_routing import Routing
from tunesmith_operator.reconcile.unreadable import mark_unreadable
from tunesmith_operator.reconcile.world import World
from tunesmith_operator.resources.serving.engines.plan import UnservableError
from tunesmith_operator.resources.serving.record import Revision
from tunesmith_operator.resources.serving.sidecar import Tokens
from tunesmith_operator.resources.serving.workload import build_workload
from tunesmith_operator.telemetry import note_rollouts

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class ModelDeploymentReconciler:
    """Holds what may be lost at any time: passes are cheaper with it, and deadlines shorter."""

    _looks: Looks = field(default_factory=Looks)
    _measuring: Measuring = field(default_factory=Measuring)
    _objects: ServingObjects = field(default_factory=ServingObjects)
    _routing: Routing = field(default_factory=Routing)
    _former: FormerRouters = field(default_factory=FormerRouters)
    _refusals: Refusals = field(default_factory=Refusals)
    _notifications: set[asyncio.Task[None]] = field(default_factory=set)

    async def __call__(self, world: World, namespace: str, name: str) -> timedelta | None:
        """Do one pass. Return when to look again, or None for only when something changes."""
        body = await world.kube.get(ModelDeployment.KIND, namespace, name)
        key = Key(ModelDeployment.KIND, namespace, name)
        if body is None or body["metadata"].get("deletionTimestamp"):
            # The garbage collector takes all children.
            self._looks.forget(key)
            self._measuring.forget(key)
            self._objects.forget(key)
            self._routing.forget(key)
            self._former.forget(key)
            self._refusals.forget(key)
            return None
        try:
            deployment = ModelDeployment.model_validate(body)
        except ValidationError as error:
            await mark_unreadable(world, ModelDeployment.KIND, body, error)
            return None
        may_have_former = self._former.may_exist(key, deployment)
        reading = await read(world, deployment, may_have_former=may_have_former)
        counts = await count_answers(world, deployment, reading)
        seen = self._observe(world, key, deployment, reading, counts)
        decision = decide_rollout(seen, world.now())
        await _write_status(world, deployment, decision.status)
        resync = world.config.resync_interval
        promised = world.now() + min(decision.look_again or resync, resync)
        self._looks.promise(key, promised, world.term())
        note_rollouts(deployment.status, decision.status)
        if _is_other_rollout(deployment.status, decision.status):
            await begin_counting(world, deployment, reading, decision.status)
        behind = await self._act(world, key, deployment, reading, decision)
        await self._measure(world, key, deployment, reading, decision.status)
        # Nobody watches what is around the pods.
        looks = (decision.look_again, behind, resync)
        return min(look for look in looks if look is not None)

    def _observe(
        self,
        world: World,
        key: Key,
        deployment: ModelDeployment,
        reading: Reading,
        counts: tuple[RevisionCounts, ...],
    ) -> ServingObservation:
        rollout = deployment.status.rollout
        digest = rollout.digest if rollout else None
        router = self._routing.complete(key, reading.router)
        if router is not None and counts:
            router = replace(router, counts=counts)
        return ServingObservation(
            deployment=deployment,
            versions=reading.versions,
            unreadable=reading.unreadable,
            revisions=reading.revisions,
            router=router,
            hosts=reading.hosts,
            unservable=_why_unservable(deployment, reading, world.config),
            sampling=self._measuring.result(key, digest),
            was_away=self._looks.was_away(key, world.now(), world.term()),
            refused=self._refusals.of(key),
        )

    async def _act(
        self,
        world: World,
        key: Key,
        deployment: ModelDeployment,
        reading: Reading,
        decision: ServingDecision,
    ) -> timedelta | None:
        """Do all that was decided. Return when to look again where something could not be done.

        Traffic first: what the pods do next can wait for it, a bad answer cannot. What the cluster
        refuses holds up nothing else, because each action is safe by itself.
        """
        traffic = reading.router.traffic if reading.router else None
        for action in decision.actions:
            if isinstance(action, SetTraffic):
                traffic = action.traffic
        self._refusals.begin(key)
        attempt = partial(self._refusals.attempt, world, key, deployment)
        looks = []
        # A route that somebody edited may send to nobody that we know.
        if traffic is not None and traffic.main:
            told = self._routing.direct(world, key, deployment, reading, traffic)
            looks.append(await attempt(told))
        removed = self._former.remove(world, key, deployment, reading, traffic)
        looks.append(await attempt(removed))
        for action in decision.actions:
            done = self._carry_out(world, deployment, reading, action)
            looks.append(await attempt(done))
        kept = self._objects.ensure(world, deployment, has_router=bool(reading.router_pods))
        looks += [await attempt(kept), self._refusals.close(key)]
        return min((look for look in looks if look is not None), default=None)

    async def _carry_out(
        self, world: World, deployment: ModelDeployment, reading: Reading, action: ServingAction
    ) -> timedelta | None:
        """Carry out one action, and return when to look again; twice does nothing more."""
        match action:
            case SetTraffic():
                pass  # done already, before all others
            case Notify():
                self._notify(world, deployment, action)
            case Emit():
                emit(world, ModelDeployment.KIND, deployment.metadata, action)
            case _:
                return await change_pods(world, deployment, reading, action)
        return None

    async def _measure(
        self,
        world: World,
        key: Key,
        deployment: ModelDeployment,
        reading: Reading,
        status: ModelDeploymentStatus,
    ) -> None:
        """Start what is due; the values come with a later pass."""
        before, rollout = deployment.status, status.rollout
        is_over = rollout is None or _is_other_rollout(before, status)
        if is_over and before.canary is not None:
            # Another try of the same revision is not measured by what this one counted.
            world.serving.sampler.forget(key.namespace, before.canary.name)
        if rollout is None or rollout.abort is not None:
            return
        canary = reading.revision(status.canary.name) if status.canary else None
        analysis, now = deployment.spec.rollout.analysis, world.now()
        if is_sample_due(rollout, analysis, now, canary):
            self._measuring.start(
                key,
                lambda: take_samples(world, deployment, reading, status),
                lambda why: unmeasured(analysis, rollout.digest, now, why),
                lambda: world.wake(key),
            )
        elif is_look_due(rollout, analysis, now, canary):
            self._measuring.start(
                key,
                lambda: look_early(world, deployment, reading, status, rollout),
                lambda _: unlooked(rollout.digest, now),
                lambda: world.wake(key),
            )
        elif rollout.exposed_time is not None:
            await remember(world, deployment, reading, status)

    def _notify(self, world: World, deployment: ModelDeployment, action: Notify) -> None:
        meta = deployment.metadata
        told = world.serving.notify(action.url, action.rollback, meta.namespace, meta.name)
        task = asyncio.ensure_future(told)
        self._notifications.add(task)
        task.add_done_callback(self._notifications.discard)


def _is_other_rollout(before: ModelDeploymentStatus, now: ModelDeploymentStatus) -> bool:
    """Whether a roll-out begins, be it of the same revision again."""
    begun = before.rollout.start_time if before.rollout else None
    return now.rollout is not None and now.rollout.start_time != begun


def _why_unservable(deployment: ModelDeployment, reading: Reading, config: Config) -> str:
    """Try whether pods can be made of what the spec asks for, before anything is begun."""
    template = resolve(deployment.spec, reading.versions)
    if not isinstance(template, RevisionTemplate):
        return ""
    try:
        build_workload(
            deployment, Revision("trial", 1, "", template), 1, "", config, tokens=Tokens()
        )
    except UnservableError as error:
        return str(error)
    return ""


async def _write_status(
    world: World, deployment: ModelDeployment, status: ModelDeploymentStatus
) -> None:
    if status == deployment.status:
        return
    await world.kube.apply_status(
        ModelDeployment.KIND,
        deployment.metadata.namespace,
        deployment.metadata.name,
        status.model_dump(mode="json", by_alias=True, exclude_none=True),
        resource_version=deployment.metadata.resource_version,
        is_urgent=True,
    )
