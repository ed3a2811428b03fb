"""Compares everything we believe with what the API server says: watches lie.

Events get lost, and after a 410 the deleted objects in the gap are never reported. A list of each
kind, page by page, finds both; the keys of all that differed go to the queue. Called by ``main``
every ``resyncSeconds``.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol

import structlog

from tunesmith_api.labels import LABEL_JOB_UID, LABEL_MANAGED_BY, MANAGED_BY
from tunesmith_operator.kube.cache import Cache
from tunesmith_operator.kube.client import Page
from tunesmith_operator.kube.errors import KubeError
from tunesmith_operator.kube.kinds import Object
from tunesmith_operator.kube.known import Key

log = structlog.get_logger(__name__)

# Parents first: a child's key is only known when its owner is.
SELECTORS = {
    "FineTuneJob": "",
    "ModelVersion": "",
    "ModelDeployment": "",
    "Job": LABEL_JOB_UID,
    # Pods of attempts and pods that serve.
    "Pod": f"{LABEL_MANAGED_BY}={MANAGED_BY}",
}
"""What is listed and watched, of each kind."""


class ListCalls(Protocol):
    """The call that resync needs."""

    def pages(self, kind: str, namespace: str | None, labels: str) -> AsyncIterator[Page]:
        """Read a list in pieces."""


async def resync(
    calls: ListCalls,
    cache: Cache,
    namespaces: Sequence[str],
    add: Callable[[Key], None],
    differed: Callable[[str, int], object],
) -> bool:
    """Repair the cache and enqueue the difference; False if a list failed and was left out.

    ``differed`` is told, by kind, how many objects no event had told us of.
    """
    is_complete = True
    for kind, selector in SELECTORS.items():
        try:
            changed = await _resync_kind(calls, cache, kind, selector, namespaces)
        except KubeError as error:
            log.warning("resync left a kind out", kind=kind, error=str(error))
            is_complete = False
            continue
        for key in changed:
            add(key)
        differed(kind, len(changed))
    return is_complete


async def _resync_kind(
    calls: ListCalls, cache: Cache, kind: str, selector: str, namespaces: Sequence[str]
) -> set[Key]:
    alive: set[str] = set()
    changed: set[Key] = set()
    listed_from: list[int] = []
    for namespace in namespaces or (None,):
        async for page in calls.pages(kind, namespace, selector):
            listed_from.append(page.resource_version)
            for body in page.items:
                alive.add(body["metadata"]["uid"])
                key = _saw(cache, kind, body)
                if key is not None:
                    changed.add(key)
    return changed | cache.drop_missing(kind, alive, min(listed_from))


def _saw(cache: Cache, kind: str, body: Object) -> Key | None:
    """Take one object in. Whoever may make a pod must not be able to keep us from all others."""
    try:
        return cache.saw(kind, body)
    except Exception:
        meta = body["metadata"]
        where = {"namespace": meta.get("namespace"), "name": meta.get("name")}
        log.exception("an object could not be taken in", kind=kind, **where)
        return None
