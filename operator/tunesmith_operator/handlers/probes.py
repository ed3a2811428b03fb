"""/livez, /readyz and /metrics.

/livez fails only for what a restart can mend: a watch that stays silent although the API server
answers our own calls, or a queue that does not get on. An API server that is away is no reason to
die: a crash loop would only make the recovery longer. Started by ``main``.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from aiohttp import web

from tunesmith_operator import telemetry

STUCK_QUEUE_SECONDS = 300.0
REACHABLE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Health:
    """Where the probes get their answers from."""

    silent_watches: Callable[[], list[str]]
    queue_oldest_seconds: Callable[[], float]
    is_leader: Callable[[], bool]
    api_age_seconds: Callable[[], float]
    """Seconds since the API server last answered one of our own calls."""
    is_synced: Callable[[], bool]
    """Whether everything was listed once."""
    measure: Callable[[], None] = field(default=lambda: None)
    """Brings the gauges up to date before they are read."""


def find_troubles(health: Health) -> list[str]:
    """Say what is stuck; an empty list is good health."""
    troubles = []
    if health.api_age_seconds() <= REACHABLE_SECONDS:
        troubles += [f"the watch of {plural} is silent" for plural in health.silent_watches()]
        oldest = health.queue_oldest_seconds()
        # Only the leader works on its queue.
        if health.is_leader() and oldest > STUCK_QUEUE_SECONDS:
            troubles.append(f"the queue is stuck: its first object waits since {oldest:.0f} s")
    return troubles


def build_app(health: Health) -> web.Application:
    """Make the web application."""

    async def livez(_: web.Request) -> web.Response:
        troubles = find_troubles(health)
        return web.Response(text="\n".join(troubles) or "ok", status=500 if troubles else 200)

    async def readyz(_: web.Request) -> web.Response:
        is_ready = health.is_synced()
        return web.Response(
            text="ok" if is_ready else "not synced", status=200 if is_ready else 503
        )

    async def metrics(_: web.Request) -> web.Response:
        health.measure()
        return web.Response(
            body=telemetry.render(), headers={"Content-Type": telemetry.CONTENT_TYPE}
        )

    app = web.Application()
    app.add_routes(
        [web.get("/livez", livez), web.get("/readyz", readyz), web.get("/metrics", metrics)]
    )
    return app
