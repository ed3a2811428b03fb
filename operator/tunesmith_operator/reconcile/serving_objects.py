"""Keeps the objects around the revisions as they should be: router, budget and autoscaler.

They follow spec and status in place and take no part in a roll-out. Server-side apply puts right
what others changed; it is repeated when the manifest changes, while there are no router pods, and
once in each resync interval, because nobody watches these objects. Called by ``modeldeployment``.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

import orjson

from tunesmith_api.engine import RouterType
from tunesmith_api.modeldeployment import ModelDeployment
from tunesmith_operator.kube.errors import NotOurs
from tunesmith_operator.kube.kinds import Object
from tunesmith_operator.kube.known import Key
from tunesmith_operator.kube.parse import controller_uid
from tunesmith_operator.reconcile.world import World
from tunesmith_operator.resources.serving.autoscaling import build_autoscaler
from tunesmith_operator.resources.serving.budget import build_budget
from tunesmith_operator.resources.serving.names import router_name
from tunesmith_operator.resources.serving.router import build_router

# Somebody may have deleted the router: nothing is served until it is made again.
_LOST_INTERVAL = timedelta(seconds=5)


@dataclass(slots=True)
class ServingObjects:
    """Remembers what was applied, to apply it no more often than it helps."""

    _applied: dict[Key, tuple[dict[tuple[str, str], bytes], datetime]] = field(default_factory=dict)
    """ModelDeployment -> its manifests by kind and name, and when all were applied."""

    async def ensure(self, world: World, deployment: ModelDeployment, *, has_router: bool) -> None:
        """Apply what is wanted and delete what is not, unless that was done just now.

        ``has_router`` says whether there are pods of the router.

        Raises ``NotOurs`` where somebody else's object has the name.
        """
        meta = deployment.metadata
        key = Key(ModelDeployment.KIND, meta.namespace, meta.name)
        wanted = _wanted(world, deployment)
        content = {(m["kind"], m["metadata"]["name"]): orjson.dumps(m) for m in wanted}
        is_lost = not has_router and deployment.spec.routing.router is RouterType.HAPROXY
        interval = _LOST_INTERVAL if is_lost else world.config.resync_interval
        known, at = self._applied.get(key, ({}, world.now() - interval))
        is_due = world.now() - at >= interval
        if known == content and not is_due:
            return
        for manifest, (name, text) in zip(wanted, content.items(), strict=True):
            if is_due or known.get(name) != text:
                await _apply(world, deployment, manifest)
        await _delete_unwanted(world, deployment, wanted)
        self._applied[key] = (content, world.now() if is_due else at)

    def forget(self, key: Key) -> None:
        """Forget a deployment that is gone."""
        self._applied.pop(key, None)


def _wanted(world: World, deployment: ModelDeployment) -> tuple[Object, ...]:
    wanted: list[Object] = []
    if deployment.spec.routing.router is RouterType.HAPROXY:
        token = world.serving.routers.token(deployment.metadata.uid)
        wanted += build_router(deployment, world.config, token)
    if deployment.status.stable is not None:
        wanted.append(build_budget(deployment, deployment.status.stable))
    if deployment.spec.autoscaling is not None:
        wanted.append(build_autoscaler(deployment, deployment.spec.autoscaling))
    return tuple(wanted)


async def _apply(world: World, deployment: ModelDeployment, manifest: Object) -> None:
    meta = manifest["metadata"]
    found = await world.kube.get(manifest["kind"], meta["namespace"], meta["name"])
    if found is not None and not _is_ours(found, deployment):
        where = f"{manifest['kind']} {meta['namespace']}/{meta['name']}"
        raise NotOurs(f"{where} exists and belongs to somebody else", 409)
    await world.kube.apply(manifest)


async def _delete_unwanted(
    world: World, deployment: ModelDeployment, wanted: tuple[Object, ...]
) -> None:
    """Delete what is no longer asked for: an autoscaler would scale, a policy keep others out."""
    meta = deployment.metadata
    optional = {"HorizontalPodAutoscaler": meta.name}
    if deployment.spec.routing.router is RouterType.HAPROXY:
        optional["NetworkPolicy"] = router_name(deployment)
    for kind in optional.keys() - {manifest["kind"] for manifest in wanted}:
        found = await world.kube.get(kind, meta.namespace, optional[kind])
        if found is not None and _is_ours(found, deployment):
            seen = found["metadata"]
            # As it was looked at: it may be somebody else's since.
            await world.kube.delete(
                kind,
                meta.namespace,
                optional[kind],
                uid=seen["uid"],
                resource_version=seen["resourceVersion"],
            )


def _is_ours(found: Object, deployment: ModelDeployment) -> bool:
    return controller_uid(found["metadata"], ModelDeployment.KIND) == deployment.metadata.uid
