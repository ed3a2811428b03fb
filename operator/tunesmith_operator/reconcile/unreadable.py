"""Says of an object that the API server took that this operator cannot read it.

In its conditions and as an Event; nothing else is done about it, so what runs goes on. Called by
the reconcilers.
"""

import structlog
from pydantic import ValidationError

from tunesmith_operator.kube.errors import Refused
from tunesmith_operator.kube.kinds import Object
from tunesmith_operator.planning.unreadable import explain, unreadable
from tunesmith_operator.reconcile.world import World

log = structlog.get_logger(__name__)


def say_unreadable(world: World, kind: str, body: Object, error: ValidationError) -> str:
    """Record an Event, and give why."""
    meta, why = body["metadata"], explain(error)
    world.record(
        kind,
        meta["namespace"],
        meta["name"],
        meta["uid"],
        type="Warning",
        reason="Unreadable",
        message=why,
    )
    return why


async def mark_unreadable(world: World, kind: str, body: Object, error: ValidationError) -> None:
    """Say it in the object's conditions too, and touch nothing else of its status."""
    meta, why = body["metadata"], say_unreadable(world, kind, body, error)
    status = unreadable(kind, body.get("status") or {}, meta["generation"], why, world.now())
    if status is None:
        return
    try:
        await world.kube.patch_status(
            kind, meta["namespace"], meta["name"], status, resource_version=meta["resourceVersion"]
        )
    except Refused as refusal:
        # Below Kubernetes 1.30 nothing may be written to an object that its CRD calls invalid.
        log.warning("the condition was refused; the Event says it", error=str(refusal))
