"""Makes the router do what a pass wants: tells its pods, or writes the HTTPRoute.

Only whom it must: whoever has taken the same before is left alone. Decides nothing about traffic.
Called by ``modeldeployment``, before anything else is done to pods.
"""

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from tunesmith_api.modeldeployment import ModelDeployment
from tunesmith_operator.kube.errors import NotOurs
from tunesmith_operator.kube.kinds import Object
from tunesmith_operator.kube.known import Key
from tunesmith_operator.kube.parse import controller_uid
from tunesmith_operator.kube.parse_serving import parse_route
from tunesmith_operator.planning.routing import (
    build_split,
    build_state,
    introduce,
    say_trouble,
)
from tunesmith_operator.planning.serving import SeenRouter, Traffic
from tunesmith_operator.reconcile.serving_reading import Reading
from tunesmith_operator.reconcile.world import World
from tunesmith_operator.resources.serving.gateway import build_route, redirect_route

# An agent starts seconds after its pod's address is known, and nobody watches routes.
_BEHIND = timedelta(seconds=1)


@dataclass(slots=True)
class Routing:
    """Remembers what was taken, to repeat it no more often than it helps."""

    _told: dict[Key, dict[str, str]] = field(default_factory=dict)
    """uid of each router pod -> what it took last."""
    _written: dict[Key, tuple[str, int, Object]] = field(default_factory=dict)
    """uid and generation of the route as it was written last, and what was written."""
    _confirmed: dict[Key, tuple[Traffic, datetime]] = field(default_factory=dict)
    """What all router pods have confirmed, and when."""
    _trouble: dict[Key, str] = field(default_factory=dict)
    """Why router pods did not take what they were told last."""

    def complete(self, key: Key, router: SeenRouter | None) -> SeenRouter | None:
        """Add what a look does not show.

        That is which pods did not take what they were told, and when the others confirmed what
        they do: a look comes a moment later.
        """
        traffic, since = self._confirmed.get(key, (None, None))
        if router is None:
            return None
        router = replace(router, trouble=router.trouble or self._trouble.get(key, ""))
        if not router.is_settled or router.traffic != traffic:
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

        A former router is made to do it too, and first: it is the one that serves.

        Raises ``NotOurs`` where somebody else's HTTPRoute has the name.
        """
        gateway, found = deployment.spec.routing.gateway, reading.route
        now = introduce(traffic, parse_route(found) if found else None)
        late = None if now == traffic else _BEHIND
        if gateway is None:
            if reading.has_former and found is not None:
                route = redirect_route(deployment, found, build_split(now))
                await self._write_route(world, key, route, found)
            return await self._tell_pods(world, key, deployment, reading, traffic)
        if reading.has_former:
            late = await self._tell_pods(world, key, deployment, reading, traffic) or late
        await self._write_route(
            world, key, build_route(deployment, gateway, build_split(now)), found
        )
        return late

    def forget(self, key: Key) -> None:
        """Forget a deployment that is gone."""
        self._told.pop(key, None)
        self._written.pop(key, None)
        self._confirmed.pop(key, None)
        self._trouble.pop(key, None)

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
        self._trouble.pop(key, None)
        if behind:
            told_now = await world.serving.routers.tell(deployment.metadata.uid, behind, state)
            self._trouble[key] = say_trouble(told_now)
            for answer in told_now:
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
            if self._written.get(key) == _identify(found, route):
                return
        self._written[key] = _identify(await world.kube.apply(route), route)


def _identify(found: Object, route: Object) -> tuple[str, int, Object]:
    """Say which route it is, and of what: the generation counts the changes of its spec."""
    meta = found["metadata"]
    return meta["uid"], meta.get("generation", 0), route
