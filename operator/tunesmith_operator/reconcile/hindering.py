"""Asks why a node does not start a pod: only the pod's Events say it.

Called by the reconcilers for pods that planning.starting calls overdue.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from tunesmith_operator.kube.parse import newest_warning
from tunesmith_operator.planning.serving import ServingPod
from tunesmith_operator.planning.starting import overdue_pods
from tunesmith_operator.reconcile.world import World


async def what_hinders(world: World, namespace: str, uid: str) -> str:
    """Give what the kubelet warned of last about a pod; empty where it has gone on since."""
    about = f"involvedObject.uid={uid}"
    return newest_warning(await world.kube.list("Event", namespace, fields=about))


async def with_hindrances(
    world: World, namespace: str, pods: Sequence[ServingPod]
) -> list[ServingPod]:
    """Give the same pods; those that are overdue wait for what their Events say."""
    uids = [pod.uid for pod in overdue_pods(pods, world.now())]
    told = await asyncio.gather(*(what_hinders(world, namespace, uid) for uid in uids))
    reasons = dict(zip(uids, told, strict=True))
    return [replace(p, waiting=reasons[p.uid]) if p.uid in reasons else p for p in pods]
