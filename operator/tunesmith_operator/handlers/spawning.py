"""Starts kopf's watches as tasks of our loop, which they leave alone. Called by ``assembly``."""

import asyncio
from collections.abc import Collection
from typing import Any, cast

import kopf

from tunesmith_operator.handlers import build_settings


async def spawn_kopf(
    registry: kopf.OperatorRegistry, identity: str, namespaces: Collection[str]
) -> list[asyncio.Task[Any]]:
    """Give kopf's tasks. It has installed its own handlers of signals then."""
    # Not kopf.operator(): at its end that cancels every task of the loop, ours too.
    spawning = asyncio.ensure_future(
        kopf.spawn_tasks(
            # Found out by kopf it takes a user name, which the image's user does not have.
            identity=cast("Any", identity),
            registry=registry,
            settings=build_settings(),
            standalone=True,
            clusterwide=not namespaces,
            namespaces=namespaces,
        )
    )
    try:
        return list(await asyncio.shield(spawning))
    except asyncio.CancelledError:
        # Stopped just now: what has been started must be ended as well.
        for task in await spawning:
            task.cancel()
        raise
