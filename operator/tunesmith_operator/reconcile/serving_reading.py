"""What one pass over a ModelDeployment reads: its objects, its router, its ModelVersions.

All of it live. There are tens of deployments, not thousands, and a list that names no version is
as new as a single read, so no cache can be behind. Draws no conclusions. Called by
``modeldeployment``.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pydantic import ValidationError

from tunesmith_api.adapters import AdaptersReport
from tunesmith_api.engine import RouterType
from tunesmith_api.labels import LABEL_DEPLOYMENT_UID
from tunesmith_api.modeldeployment import ModelDeployment
from tunesmith_api.modelversion import ModelVersion
from tunesmith_operator.kube.kinds import Object
from tunesmith_operator.kube.parse import controller_uid
from tunesmith_operator.kube.parse_serving import (
    parse_record,
    parse_route,
    parse_serving_pod,
    parse_workload,
)
from tunesmith_operator.planning.gathering import (
    SeenObjects,
    gather_hosts,
    gather_revisions,
    pods_of,
)
from tunesmith_operator.planning.hosting import assumed
from tunesmith_operator.planning.routing import RouterAnswer, join_routers, read_answers
from tunesmith_operator.planning.serving import (
    SeenHost,
    SeenRevision,
    SeenRouter,
    ServingPod,
)
from tunesmith_operator.reconcile.hindering import with_hindrances
from tunesmith_operator.reconcile.unreadable import say_unreadable
from tunesmith_operator.reconcile.world import World
from tunesmith_operator.resources.serving.names import router_name
from tunesmith_operator.resources.serving.sidecar import requests_port


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read."""

    versions: tuple[ModelVersion, ...]
    unreadable: tuple[str, ...]
    """Other versions of the source, and why they cannot be read."""
    objects: SeenObjects
    """What all that follows was put together from."""
    hosts: tuple[SeenHost, ...]
    revisions: tuple[SeenRevision, ...]
    pods: Mapping[str, tuple[ServingPod, ...]]
    """Pods of each revision that are not on their way out, by its name."""
    ports: Mapping[str, int]
    """Where its requests go in them."""
    router_pods: tuple[ServingPod, ...]
    answers: tuple[RouterAnswer, ...]
    """What those that could be asked said."""
    wanted_router: SeenRouter | None
    """The router of the spec alone."""
    router: SeenRouter | None
    """That, and the former one as long as it is there."""
    has_former: bool
    """Whether a router of ours is there that the spec no longer names."""
    route: Object | None
    """The HTTPRoute, with router GatewayAPI now or before."""

    def revision(self, name: str) -> SeenRevision | None:
        """Give a revision by its name."""
        return next((r for r in self.revisions if r.name == name), None)


async def read(
    world: World, deployment: ModelDeployment, *, may_have_former: bool = True
) -> Reading:
    """Read all that belongs to ``deployment``, and to its former router if there may be one."""
    meta = deployment.metadata
    bodies, (versions, unreadable), route = await asyncio.gather(
        _list_children(world, deployment),
        _versions(world, deployment),
        _route(world, deployment, may_have_former=may_have_former),
    )
    parsed = [parse_serving_pod(body) for body in bodies.pods]
    pods = await with_hindrances(world, meta.namespace, parsed)
    router_pods = tuple(p for p in pods if p.revision == 0 and not p.host and not p.is_terminating)
    answers, reports = await asyncio.gather(
        world.serving.routers.ask(meta.uid, router_pods),
        world.serving.adapters.ask(meta.uid, [p for p in pods if p.host and not p.is_terminating]),
    )
    objects = _seen_objects(bodies, pods, reports)
    wanted, former = _routers(deployment, read_answers(answers), route)
    has_former = may_have_former and _has_former(deployment, bodies.workloads, route)
    router = join_routers(wanted, former) if has_former else wanted
    silent = assumed(deployment.status, router.traffic if router else None)
    revisions = gather_revisions(meta, objects, silent)
    return Reading(
        versions=versions,
        unreadable=unreadable,
        objects=objects,
        hosts=gather_hosts(meta, objects),
        revisions=revisions,
        pods={r.name: pods_of(r, r.host, objects, silent) for r in revisions},
        ports={r.name: requests_port(r.template, r.number) for r in revisions},
        router_pods=router_pods,
        answers=tuple(answers),
        wanted_router=wanted,
        router=router,
        has_former=has_former,
        route=route,
    )


class _Children(NamedTuple):
    """Objects of a deployment, as the API server gave them."""

    records: Sequence[Object]
    workloads: Sequence[Object]
    services: Sequence[Object]
    pods: Sequence[Object]


async def _list_children(world: World, deployment: ModelDeployment) -> _Children:
    meta = deployment.metadata
    selector = f"{LABEL_DEPLOYMENT_UID}={meta.uid}"
    kinds = ("ConfigMap", "Deployment", "Service", "Pod")
    lists = (world.kube.list(kind, meta.namespace, selector) for kind in kinds)
    return _Children(*await asyncio.gather(*lists))


def _seen_objects(
    bodies: _Children, pods: Sequence[ServingPod], reports: Mapping[str, AdaptersReport]
) -> SeenObjects:
    return SeenObjects(
        records=[record for body in bodies.records if (record := parse_record(body)) is not None],
        workloads=[parse_workload(body) for body in bodies.workloads],
        pods=pods,
        services=frozenset(
            controller_uid(body["metadata"], "ConfigMap") for body in bodies.services
        ),
        reports=reports,
    )


async def _versions(
    world: World, deployment: ModelDeployment
) -> tuple[tuple[ModelVersion, ...], tuple[str, ...]]:
    """Read the ModelVersion that the source names, or all of its model; and why some cannot be."""
    source, namespace = deployment.spec.source, deployment.metadata.namespace
    bodies: Sequence[Object] = ()
    if source.model_version is not None:
        body = await world.kube.get(ModelVersion.KIND, namespace, source.model_version)
        bodies = [body] if body is not None else []
    elif source.model is not None:
        bodies = await world.kube.list(ModelVersion.KIND, namespace)
    versions, unreadable = [], []
    for body in bodies:
        if source.model is not None and (body.get("spec") or {}).get("model") != source.model:
            continue
        try:
            versions.append(ModelVersion.model_validate(body))
        except ValidationError as error:
            why = say_unreadable(world, ModelVersion.KIND, body, error)
            unreadable.append(f"ModelVersion {body['metadata']['name']}: {why}")
    return tuple(versions), tuple(unreadable)


async def _route(
    world: World, deployment: ModelDeployment, *, may_have_former: bool
) -> Object | None:
    if deployment.spec.routing.router is not RouterType.GATEWAY_API and not may_have_former:
        return None
    meta = deployment.metadata
    return await world.kube.get("HTTPRoute", meta.namespace, meta.name)


def _routers(
    deployment: ModelDeployment, pods: SeenRouter | None, route: Object | None
) -> tuple[SeenRouter | None, SeenRouter | None]:
    """Give the router of the spec, and the other one."""
    gateway = parse_route(route) if route else SeenRouter(traffic=None)
    match deployment.spec.routing.router:
        case RouterType.HAPROXY:
            return pods, gateway
        case RouterType.GATEWAY_API:
            return gateway, pods


def _has_former(
    deployment: ModelDeployment, workloads: Sequence[Object], route: Object | None
) -> bool:
    uid = deployment.metadata.uid
    match deployment.spec.routing.router:
        case RouterType.HAPROXY:
            found = [route] if route else []
        case RouterType.GATEWAY_API:
            name = router_name(deployment)
            found = [body for body in workloads if body["metadata"]["name"] == name]
    metas = [body["metadata"] for body in found]
    return any(
        controller_uid(meta, ModelDeployment.KIND) == uid and not meta.get("deletionTimestamp")
        for meta in metas
    )
