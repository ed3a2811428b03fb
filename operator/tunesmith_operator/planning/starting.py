"""Pods that their node takes its time to start.

Pure; asked for attempts, and for pods that serve. The status of such a pod says ContainerCreating,
whatever is wrong: only its Events tell, and nobody is woken by those.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta

from tunesmith_operator.planning.serving import ServingPod

# What a node needs to make a container; images that are pulled take longer, and warn of nothing.
NODE_PATIENCE = timedelta(seconds=30)
# What the kubelet says, or does not, while all is well.
QUIET_REASONS = frozenset({"", "ContainerCreating", "PodInitializing"})


def is_overdue(created: datetime | None, now: datetime) -> bool:
    """Whether the node has had the time to start a pod that was made then."""
    return now - (created or now) >= NODE_PATIENCE


def overdue_pods(pods: Iterable[ServingPod], now: datetime) -> list[ServingPod]:
    """Give pods whose Events may say why they do not start: of each revision and host the first."""
    found: dict[tuple[int, str], ServingPod] = {}
    for pod in pods:
        serves = bool(pod.revision or pod.host) and not pod.is_terminating
        if serves and pod.starting is not None and is_overdue(pod.starting, now):
            found.setdefault((pod.revision, pod.host), pod)
    return list(found.values())
