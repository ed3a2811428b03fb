"""One pass over a ModelDeployment: observe, decide, write the status, then act.

The shell around :func:`tunesmith_operator.planning.rollout.decide_rollout`. The status goes first,
so a granted weight or a rejection is never known to the router alone (decision 11). It may die
anywhere: the next pass finds the status and asks for the same actions again. Called by the work
queue, never twice at a time for one object.
"""

import asyncio
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import assert_never

import structlog
from pydantic import ValidationError

from tunesmith_api.deploymentstatus import ModelDeploymentStatus
from tunesmith_api.modeldeployment import ModelDeployment
from tunesmith_api.revision import RevisionTemplate
from tunesmith_operator.config import Config
from tunesmith_operator.kube.cache import Key
from tunesmith_operator.kube.errors import NotOurs, Refused
from tunesmith_operator.kube.kinds import Object
from tunesmith_operator.planning.actions import Emit
from tunesmith_operator.planning.analysis import is_sample_due
from tunesmith_operator.planning.rollout import decide_rollout
from tunesmith_operator.planning.routing import build_split, build_state
from tunesmith_operator.planning.serving import ServingObservation, Traffic
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
from tunesmith_operator.planning.sources import resolve
from tunesmith_operator.reconcile.measuring import Measuring
from tunesmith_operator.reconcile.samples import remember, take_samples
from tunesmith_operator.reconcile.serving_objects import ServingObjects
from tunesmith_operator.reconcile.serving_reading import Reading, read
from tunesmith_operator.reconcile.world import World
from tunesmith_operator.resources.serving.engines.plan import UnservableError
from tunesmith_operator.resources.serving.gateway import build_route
from tunesmith_operator.resources.serving.record import Revision, build_record
from tunesmith_operator.resources.serving.workload import build_service, build_workload

log = structlog.get_logger(__name__)

_REFUSED_RETRY = timedelta(seconds=10)


@dataclass(slots=True)
class ModelDeploymentReconciler:
    """Holds what only makes passes cheaper; all of it may be lost at any time."""

    _measuring: Measuring = field(default_factory=Measuring)
    _objects: ServingObjects = field(default_factory=ServingObjects)
    _told: dict[Key, dict[str, str]] = field(default_factory=dict)
    """uid of each router pod -> the state that it took last."""
    _confirmed: dict[Key, tuple[Traffic, datetime]] = field(default_factory=dict)
    """What all router pods have confirmed, and when: a look comes a moment later."""
    _notifications: set[asyncio.Task[None]] = field(default_factory=set)

    async def __call__(self, world: World, namespace: str, name: str) -> timedelta | None:
        """Do one pass. Return when to look again, or None for only when something changes."""
        body = await world.kube.get(ModelDeployment.KIND, namespace, name)
        key = Key(ModelDeployment.KIND, namespace, name)
        if body is None or body["metadata"].get("deletionTimestamp"):
            # The garbage collector takes all children.
            self._measuring.forget(key)
            self._objects.forget(key)
            self._told.pop(key, None)
            self._confirmed.pop(key, None)
            return None
        try:
            deployment = ModelDeployment.model_validate(body)
        except ValidationError as error:
            _say_unreadable(world, body, error)
            return None
        reading = await read(world, deployment)
        seen = self._observe(world, key, deployment, reading)
        decision = decide_rollout(seen, world.now())
        await _write_status(world, deployment, decision.status)
        try:
            await self._act(world, key, deployment, reading, decision)
            await self._objects.ensure(world, deployment)
        except (NotOurs, Refused) as error:
            _record(world, deployment, Emit("Warning", "ChildRefused", str(error)))
            return _REFUSED_RETRY
        await self._measure(world, key, deployment, reading, decision.status)
        return decision.look_again

    def _observe(
        self, world: World, key: Key, deployment: ModelDeployment, reading: Reading
    ) -> ServingObservation:
        rollout = deployment.status.rollout
        digest = rollout.digest if rollout else None
        router = reading.router
        traffic, since = self._confirmed.get(key, (None, None))
        if router is not None and router.is_settled and router.traffic == traffic:
            router = replace(router, since=since)
        return ServingObservation(
            deployment=deployment,
            versions=reading.versions,
            revisions=reading.revisions,
            router=router,
            unservable=_why_unservable(deployment, reading, world.config),
            sampling=self._measuring.result(key, digest),
        )

    async def _act(
        self,
        world: World,
        key: Key,
        deployment: ModelDeployment,
        reading: Reading,
        decision: ServingDecision,
    ) -> None:
        """Traffic first: what the pods do next can wait for it, a bad answer cannot."""
        traffic = reading.router.traffic if reading.router else None
        for action in decision.actions:
            if isinstance(action, SetTraffic):
                traffic = action.traffic
        if traffic is not None:
            await self._route(world, key, deployment, reading, traffic)
        for action in decision.actions:
            await self._carry_out(world, deployment, action)

    async def _carry_out(
        self, world: World, deployment: ModelDeployment, action: ServingAction
    ) -> None:
        """Carry out one action. Doing it twice does nothing more."""
        namespace = deployment.metadata.namespace
        match action:
            case EnsureRevision():
                await _ensure_revision(world, deployment, action)
            case ScaleRevision(name=name, uid=uid, replicas=replicas):
                await _scale(world, namespace, name, uid, replicas)
            case RetireRevision(name=name, uid=uid):
                await _scale(world, namespace, name, uid, 0)
            case DeleteRevision(name=name, uid=uid):
                await world.kube.delete(
                    "ConfigMap", namespace, name, uid=uid, propagation="Background"
                )
            case SetTraffic():
                pass  # done already, before all others
            case Notify():
                self._notify(world, deployment, action)
            case Emit():
                _record(world, deployment, action)
            case _:
                assert_never(action)

    async def _route(
        self,
        world: World,
        key: Key,
        deployment: ModelDeployment,
        reading: Reading,
        traffic: Traffic,
    ) -> None:
        """Tell the router, but only where it does not know: endpoints change without weights."""
        routing = deployment.spec.routing
        if routing.gateway is not None:
            if reading.router is None or traffic != reading.router.traffic:
                route = build_route(deployment, routing.gateway, build_split(traffic))
                await world.kube.apply(route)
            return
        state = build_state(traffic, reading.pods, reading.ports, routing.sticky_header)
        text = state.model_dump_json()
        router, told = reading.router, self._told.get(key, {})
        is_known = router is not None and router.is_settled and router.traffic == traffic
        behind = [p for p in reading.router_pods if not is_known or told.get(p.uid) != text]
        if not behind:
            return
        for answer in await world.serving.routers.tell(deployment.metadata.uid, behind, state):
            is_done = answer.report is not None and answer.report.split == state.split
            told = told | {answer.pod.uid: text if is_done else ""}
        if all(told.get(pod.uid) == text for pod in reading.router_pods):
            self._confirmed[key] = (traffic, world.now())
        self._told[key] = {pod.uid: told.get(pod.uid, "") for pod in reading.router_pods}

    async def _measure(
        self,
        world: World,
        key: Key,
        deployment: ModelDeployment,
        reading: Reading,
        status: ModelDeploymentStatus,
    ) -> None:
        """Start what is due; the values come with a later pass."""
        rollout = status.rollout
        if rollout is None or rollout.abort is not None:
            return
        if is_sample_due(rollout, deployment.spec.rollout.analysis, world.now()):
            self._measuring.start(
                key,
                lambda: take_samples(world, deployment, reading, status),
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


def _why_unservable(deployment: ModelDeployment, reading: Reading, config: Config) -> str:
    """Try whether pods can be made of what the spec asks for, before anything is begun."""
    template = resolve(deployment.spec, reading.versions)
    if not isinstance(template, RevisionTemplate):
        return ""
    try:
        build_workload(
            deployment, Revision("trial", 1, "", template), 1, "", config, analysis_token=""
        )
    except UnservableError as error:
        return str(error)
    return ""


async def _ensure_revision(
    world: World, deployment: ModelDeployment, action: EnsureRevision
) -> None:
    """Create what is missing; each part belongs to the one before, so nothing is left over."""
    kube = world.kube
    revision = Revision(action.name, action.number, action.digest, action.template)
    record = await kube.create_or_adopt(build_record(deployment, revision), deployment.metadata.uid)
    uid = record["metadata"]["uid"]
    await kube.create_or_adopt(build_service(deployment, revision, uid), uid)
    token = world.serving.analysis_token(deployment.metadata.uid)
    workload = build_workload(
        deployment, revision, action.replicas, uid, world.config, analysis_token=token
    )
    await kube.create_or_adopt(workload, uid)


async def _scale(world: World, namespace: str, name: str, record_uid: str, replicas: int) -> None:
    """Scale the revision's Deployment, if its record still controls it."""
    body = await world.kube.get("Deployment", namespace, name)
    owners = (body or {"metadata": {}})["metadata"].get("ownerReferences") or ()
    if body is None or all(owner["uid"] != record_uid for owner in owners):
        return  # gone, or a namesake; the next pass sees it
    await world.kube.scale("Deployment", namespace, name, replicas, uid=body["metadata"]["uid"])


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


def _record(world: World, deployment: ModelDeployment, event: Emit) -> None:
    meta = deployment.metadata
    world.record(
        ModelDeployment.KIND,
        meta.namespace,
        meta.name,
        meta.uid,
        type=event.type,
        reason=event.reason,
        message=event.message,
    )


def _say_unreadable(world: World, body: Object, error: ValidationError) -> None:
    """The API server accepted what we cannot read: a CRD newer or older than the operator."""
    meta = body["metadata"]
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    world.record(
        ModelDeployment.KIND,
        meta["namespace"],
        meta["name"],
        meta["uid"],
        type="Warning",
        reason="Unreadable",
        message=f"{where}: {first['msg']}. The CRD and the operator are of different versions",
    )
