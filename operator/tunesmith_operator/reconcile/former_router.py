"""Removes the router that a ModelDeployment no longer names, once nothing needs it.

The other one has to do what the spec wants first, and then a little longer: a route that was
accepted takes a moment to reach its Gateway, and clients have to go elsewhere. Decides nothing
about traffic. Called by ``modeldeployment``, after the routers were told.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from tunesmith_api.engine import RouterType
from tunesmith_api.modeldeployment import ModelDeployment
from tunesmith_operator.kube.known import Key
from tunesmith_operator.kube.parse import controller_uid
from tunesmith_operator.planning.serving import Traffic
from tunesmith_operator.reconcile.serving_reading import Reading
from tunesmith_operator.reconcile.world import World
from tunesmith_operator.resources.serving.names import router_name, router_service_name

_STAYS = timedelta(seconds=10)


@dataclass(slots=True)
class FormerRouters:
    """Remembers where nothing is left, to look no more often than it helps."""

    _alone: dict[Key, RouterType] = field(default_factory=dict)
    """Deployments that were seen without any other router than this."""
    _effective: dict[Key, datetime] = field(default_factory=dict)
    """Since when the router of the spec was seen in effect beside the former one."""

    def may_exist(self, key: Key, deployment: ModelDeployment) -> bool:
        """Whether a router may be there that the spec no longer names."""
        return self._alone.get(key) is not deployment.spec.routing.router

    async def remove(
        self,
        world: World,
        key: Key,
        deployment: ModelDeployment,
        reading: Reading,
        traffic: Traffic | None,
    ) -> timedelta | None:
        """Remove it if the wanted one does what it should. Return when to look again."""
        if not self.may_exist(key, deployment):
            return None
        wanted = reading.wanted_router
        if traffic is None or wanted is None or not wanted.is_settled or wanted.traffic != traffic:
            self._effective.pop(key, None)
            return None  # what is not settled is looked at again anyway
        since = self._effective.setdefault(key, world.now())
        if reading.has_former and world.now() - since < _STAYS:
            return _STAYS - (world.now() - since)
        for kind, name in _objects(deployment):
            await _delete_own(world, deployment, kind, name)
        self._alone[key] = deployment.spec.routing.router
        self._effective.pop(key, None)
        return None

    def forget(self, key: Key) -> None:
        """Forget a deployment that is gone."""
        self._alone.pop(key, None)
        self._effective.pop(key, None)


def _objects(deployment: ModelDeployment) -> tuple[tuple[str, str], ...]:
    """Give kind and name of what belongs to the router that the spec does not name."""
    match deployment.spec.routing.router:
        case RouterType.HAPROXY:
            return (("HTTPRoute", deployment.metadata.name),)
        case RouterType.GATEWAY_API:
            name = router_name(deployment)
            return (
                ("PodDisruptionBudget", name),
                ("NetworkPolicy", name),
                ("Service", router_service_name(deployment)),
                # Its pods end what is in progress. Last, as it is what a next pass looks for.
                ("Deployment", name),
            )


async def _delete_own(world: World, deployment: ModelDeployment, kind: str, name: str) -> None:
    meta = deployment.metadata
    found = await world.kube.get(kind, meta.namespace, name)
    if found is None or controller_uid(found["metadata"], ModelDeployment.KIND) != meta.uid:
        return
    seen = found["metadata"]
    # In the background: the name is free at once, for a user who changes their mind. As it was
    # looked at: it may be somebody else's since.
    await world.kube.delete(
        kind,
        meta.namespace,
        name,
        uid=seen["uid"],
        resource_version=seen["resourceVersion"],
        propagation="Background",
    )
