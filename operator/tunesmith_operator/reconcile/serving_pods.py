"""Carries out what a roll-out's decision asks of pods, and of the objects that make them.

Each action may be carried out twice with the same result. Decides nothing. Called by
``modeldeployment``, after the router was told.
"""

import contextlib
from datetime import timedelta
from typing import assert_never

from tunesmith_api.modeldeployment import ModelDeployment
from tunesmith_operator.kube.errors import Gone
from tunesmith_operator.kube.parse import controller_uid
from tunesmith_operator.planning.serving_actions import (
    DeleteHost,
    DeleteRevision,
    EnsureRevision,
    HoldAdapters,
    PodAction,
    RetireRevision,
    ScaleHost,
    ScaleRevision,
)
from tunesmith_operator.reconcile.serving_reading import Reading
from tunesmith_operator.reconcile.world import World
from tunesmith_operator.resources.serving.record import Revision, build_record
from tunesmith_operator.resources.serving.sidecar import Tokens
from tunesmith_operator.resources.serving.workload import build_host, build_service, build_workload

# A sidecar starts seconds after its pod's address is known, and nothing tells us when.
_BEHIND = timedelta(seconds=1)


async def change_pods(
    world: World, deployment: ModelDeployment, reading: Reading, action: PodAction
) -> timedelta | None:
    """Carry out one action. Return when to look again where it is not done yet."""
    kube, namespace = world.kube, deployment.metadata.namespace
    match action:
        case EnsureRevision():
            await _ensure_revision(world, deployment, action)
        case ScaleRevision(name=name, uid=uid, replicas=replicas):
            await _scale(world, namespace, name, uid, replicas)
        case RetireRevision(name=name, uid=uid):
            await _scale(world, namespace, name, uid, 0)
        case ScaleHost(name=name, uid=uid, replicas=replicas):
            with contextlib.suppress(Gone):
                await kube.scale("Deployment", namespace, name, replicas, uid=uid)
        case HoldAdapters():
            return await _tell_pods(world, deployment, reading, action)
        case DeleteHost(name=name, uid=uid):
            await kube.delete("Deployment", namespace, name, uid=uid, propagation="Background")
        case DeleteRevision(name=name, uid=uid):
            await kube.delete("ConfigMap", namespace, name, uid=uid, propagation="Background")
        case _:
            assert_never(action)
    return None


async def _tell_pods(
    world: World, deployment: ModelDeployment, reading: Reading, action: HoldAdapters
) -> timedelta | None:
    """Tell those that were told something else last which adapters they should hold."""
    objects = reading.objects
    pods = [p for p in objects.pods if p.host == action.name and not p.is_terminating]
    behind = [
        pod
        for pod in pods
        if (said := objects.reports.get(pod.uid)) is None or said.wanted != action.adapters
    ]
    if not behind:
        return None
    done = await world.serving.adapters.tell(deployment.metadata.uid, behind, action.adapters)
    return _BEHIND if len(done) < len(behind) else None


async def _ensure_revision(
    world: World, deployment: ModelDeployment, action: EnsureRevision
) -> None:
    """Create what is missing; each part belongs to the one before, so nothing is left over."""
    kube = world.kube
    revision = Revision(action.name, action.number, action.digest, action.template)
    record = await kube.create_or_adopt(build_record(deployment, revision), deployment.metadata.uid)
    uid = record["metadata"]["uid"]
    await kube.create_or_adopt(build_service(deployment, revision, uid, action.host), uid)
    owner, serving = deployment.metadata.uid, world.serving
    tokens = Tokens(serving.analysis_token(owner), serving.adapters.token(owner))
    if action.host:
        host = build_host(
            deployment, action.host, action.template, action.replicas, world.config, tokens=tokens
        )
        await kube.create_or_adopt(host, owner)
        return
    workload = build_workload(
        deployment, revision, action.replicas, uid, world.config, tokens=tokens
    )
    await kube.create_or_adopt(workload, uid)


async def _scale(world: World, namespace: str, name: str, record_uid: str, replicas: int) -> None:
    """Scale the revision's Deployment, if its record still controls it."""
    body = await world.kube.get("Deployment", namespace, name)
    if body is None or controller_uid(body["metadata"], "ConfigMap") != record_uid:
        return  # gone, or a namesake; the next pass sees it
    uid = body["metadata"]["uid"]
    with contextlib.suppress(Gone):
        await world.kube.scale("Deployment", namespace, name, replicas, uid=uid)
