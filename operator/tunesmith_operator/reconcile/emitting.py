"""Carries out Emit, the one action that all kinds have. Called by the reconcilers."""

from tunesmith_api.meta import ObjectMeta
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
