"""Carries out Emit, the one action that all kinds have, and says which objects cannot be read.

Called by the reconcilers.
"""

from pydantic import ValidationError

from tunesmith_api.meta import ObjectMeta
from tunesmith_operator.kube.kinds import Object
from tunesmith_operator.planning.actions import Emit
from tunesmith_operator.reconcile.world import World


def emit(world: World, kind: str, meta: ObjectMeta, event: Emit) -> None:
    """Record an Event on an object."""
    world.record(
        kind,
        meta.namespace,
        meta.name,
        meta.uid,
        type=event.type,
        reason=event.reason,
        message=event.message,
    )


def say_unreadable(world: World, kind: str, body: Object, error: ValidationError) -> str:
    """Record that the API server accepted what we cannot read, and give why.

    CRD and operator are of different versions then.
    """
    meta = body["metadata"]
    wrong = "; ".join(
        f"{'.'.join(str(part) for part in one['loc'])}: {one['msg']}"
        for one in error.errors(include_url=False, include_input=False)[:3]
    )
    message = f"{wrong}. The CRD and the operator are of different versions"
    world.record(
        kind,
        meta["namespace"],
        meta["name"],
        meta["uid"],
        type="Warning",
        reason="Unreadable",
        message=message,
    )
    return message
