"""Makes the router do what a pass wants: tells its pods, or writes the HTTPRoute.

Only whom it must: whoever has taken the same before is left alone. Decides nothing about traffic.
Called by ``modeldeployment``, before anything else is done to pods.
"""

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from tunesmith_api.modeldeployment import ModelDeployment
from tunesmith_operator.kube.cache import Key
from tunesmith_operator.kube.errors import NotOurs
from tunesmith_operator.kube.kinds import Object
from tunesmith_operator.kube.parse import controller_uid
from tunesmith_operator.planning.routing import build_split, build_state, introduce
from tunesmith_operator.planning.serving import SeenRouter, Traffic
from tunesmith_operator.reconcile.serving_reading import Reading
from tunesmith_operator.reconcile.world import World
from tunesmith_operator.resources.serving.gateway import build_route

# An agent starts seconds after its pod's address is known, and nobody watches routes.
_BEHIND = timedelta(seconds=1)


@dataclass(slots=True)
class Routing:
    """Remembers what was taken, to repeat it no more often than it helps."""

    _told: dict[Key, dict[str, str]] = field(default_factory=dict)
    """uid of each router pod, or of the route -> what it took last."""
    _confirmed: dict[Key, tuple[Traffic, datetime]] = field(default_factory=dict)
    """What all router pods have confirmed, and when."""

    def dated(self, key: Key, router: SeenRouter | None) -> SeenRouter | None:
        """Add when the router's pods confirmed what they do: a look comes a moment later."""
        traffic, since = self._confirmed.get(key, (None, None))
        if router is None or not router.is_settled or router.traffic != traffic:
            return router
        return replace(router, since=since)

    async def direct(
        self,
        world: World,
        key: Key,
        deployment: ModelDeployment,
        reading: Reading,
        traffic: Traffic,
    ) -> timedelta | None:
        """Make the router do it. Return when to look again if not all of it does.

        Raises ``NotOurs`` where somebody else's HTTPRoute has the name.
        """
        gateway = deployment.spec.routing.gateway
        if gateway is None:
            return await self._tell_pods(world, key, deployment, reading, traffic)
        now = introduce(traffic, reading.router)
        route = build_route(deployment, gateway, build_split(now))
        await self._write_route(world, key, route, reading.route)
        return None if now == traffic else _BEHIND

    def forget(self, key: Key) -> None:
        """Forget a deployment that is gone."""
        self._told.pop(key, None)
        self._confirmed.pop(key, None)

    async def _tell_pods(
        self,
        world: World,
        key: Key,
        deployment: ModelDeployment,
        reading: Reading,
        traffic: Traffic,
    ) -> timedelta | None:
        """Tell those that do not know: endpoints change without weights."""
        sticky = deployment.spec.routing.sticky_header
        state = build_state(traffic, reading.pods, reading.ports, sticky)
        text = state.model_dump_json()
        told = self._told.get(key, {})
        now = {
            a.pod.uid: told.get(a.pod.uid, "") if a.report and a.report.split == state.split else ""
            for a in reading.answers
        }
        # Who has just not answered would hold up the pass for long, and a rollback with it.
        behind = [a.pod for a in reading.answers if a.report and now[a.pod.uid] != text]
        if behind:
            for answer in await world.serving.routers.tell(deployment.metadata.uid, behind, state):
                is_done = answer.report is not None and answer.report.split == state.split
                now[answer.pod.uid] = text if is_done else ""
        self._told[key] = now
        if any(taken != text for taken in now.values()):
            return _BEHIND
        if behind:
            self._confirmed[key] = (traffic, world.now())
        return None

    async def _write_route(
        self, world: World, key: Key, route: Object, found: Object | None
    ) -> None:
        """Write the route, unless it is as it was written last: others may edit any part of it."""
        if found is not None:
            owner = route["metadata"]["ownerReferences"][0]["uid"]
            if controller_uid(found["metadata"], ModelDeployment.KIND) != owner:
                where = f"HTTPRoute {key.namespace}/{key.name}"
                raise NotOurs(f"{where} exists and belongs to somebody else", 409)
            if self._told.get(key) == _written(found, route):
                return
        self._told[key] = _written(await world.kube.apply(route), route)


def _written(found: Object, route: Object) -> dict[str, str]:
    """Say which route it is, and of what: the generation counts the changes of its spec."""
    meta = found["metadata"]
    return {meta["uid"]: f"{meta.get('generation')} {route}"}
