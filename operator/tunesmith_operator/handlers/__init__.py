"""Wiring: kopf's watch events go into the cache, and the key of what changed into the queue.

Nothing is decided here. kopf retries no event handler and logs its errors only in passing, so
:func:`take_in` catches, counts and logs them; the next resync mends what an event could not.
"""

from collections.abc import Callable, Mapping
from typing import Any

import kopf
import structlog

from tunesmith_api import GROUP, VERSION
from tunesmith_operator import telemetry
from tunesmith_operator.kube.cache import OWN_KINDS, Cache
from tunesmith_operator.kube.kinds import Object
from tunesmith_operator.kube.known import Key, Own
from tunesmith_operator.kube.resync import SELECTORS
from tunesmith_operator.kube.watches import INACTIVITY_SECONDS, SERVER_TIMEOUT_SECONDS, Watches

log = structlog.get_logger(__name__)

REQUEST_SECONDS = 30.0
"""For a list before a watch, of which there may be many pages' worth in one."""

Login = Callable[[], Any]

# Kind -> group, version and plural, as kopf wants them.
WATCHED = {
    "FineTuneJob": (GROUP, VERSION, "finetunejobs"),
    "ModelVersion": (GROUP, VERSION, "modelversions"),
    "ModelDeployment": (GROUP, VERSION, "modeldeployments"),
    "Job": ("batch", "v1", "jobs"),
    "Pod": ("", "v1", "pods"),
}
PLURALS = tuple(plural for _, _, plural in WATCHED.values())


def build_registry(
    cache: Cache, watches: Watches, add: Callable[[Key], None], login: Login
) -> kopf.OperatorRegistry:
    """Register one event handler for each watched kind, and the login."""
    registry = kopf.OperatorRegistry()
    kopf.on.login(registry=registry)(_login_handler(login))
    for kind, resource in WATCHED.items():
        handler = _event_handler(kind, resource[2], cache, watches, add)
        kopf.on.event(*resource, id=kind, registry=registry)(handler)
    return registry


def take_in(kind: str, event: Mapping[str, Any], cache: Cache, add: Callable[[Key], None]) -> None:
    """Put one event into the cache and whose turn it is into the queue. Never raises."""
    body = event["object"]
    try:
        before = cache.own(kind, body["metadata"].get("namespace", ""), body["metadata"]["name"])
        key = cache.deleted(kind, body) if event["type"] == "DELETED" else cache.saw(kind, body)
    except Exception:
        telemetry.HANDLER_ERRORS.labels(kind).inc()
        meta = body.get("metadata", {})
        where = {"namespace": meta.get("namespace"), "name": meta.get("name")}
        log.exception("an event could not be taken in", kind=kind, **where)
        return
    if key is not None:
        _wake(key, before, cache, add)


def take_in_written(kind: str, body: Object, cache: Cache, add: Callable[[Key], None]) -> None:
    """Put what the API server answered to our own write into the cache.

    The event of that write tells nothing new where it comes later. So an object that we have made
    gets its first pass from here; of other writes the pass that wrote knows.
    """
    before = cache.own(kind, body["metadata"]["namespace"], body["metadata"]["name"])
    key = cache.saw(kind, body)
    is_made = before is None or before.uid != body["metadata"]["uid"]
    if key is not None and kind in OWN_KINDS and is_made:
        _wake(key, before, cache, add)


def _wake(key: Key, before: Own | None, cache: Cache, add: Callable[[Key], None]) -> None:
    add(key)
    # Who follows a version that is new or gone must hear of it as well.
    version = (cache.own(*key) or before) if key.kind == "ModelVersion" else None
    for follower in cache.followers_of(version) if version else ():
        add(follower)


def build_settings() -> kopf.OperatorSettings:
    """Make kopf watch and do nothing else: no peering, no Events, no annotations, no scanning."""
    settings = kopf.OperatorSettings()
    settings.peering.standalone = True
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.persistence.diffbase_storage = _NoDiffBase()
    settings.persistence.progress_storage = _NoProgress()
    settings.watching.server_timeout = SERVER_TIMEOUT_SECONDS
    settings.watching.client_timeout = SERVER_TIMEOUT_SECONDS + 30
    settings.watching.connect_timeout = 5
    settings.watching.inactivity_timeout = INACTIVITY_SECONDS
    settings.watching.reconnect_backoff = 0.5
    settings.watching.chunk_size = 500
    settings.networking.request_timeout = REQUEST_SECONDS
    settings.networking.connect_timeout = 5
    settings.networking.error_backoffs = (0.5, 1, 2, 5, 10)
    settings.queueing.idle_timeout = 1.0
    # Ending is our own business, see main.
    settings.process.ultimate_exiting_timeout = None
    for kind, selector in SELECTORS.items():
        if selector:
            settings.watching.label_selectors[WATCHED[kind]] = selector
    return settings


class _NoDiffBase(kopf.DiffBaseStorage):
    """kopf compares each event with the last handled state; we have none, and it costs."""

    def build(self, **_: Any) -> Any:
        return {}

    def fetch(self, **_: Any) -> Any:
        return None

    def store(self, **_: Any) -> None:
        return None


class _NoProgress(kopf.ProgressStorage):
    """kopf remembers which handlers are done; ours are only events, and never retried."""

    def fetch(self, **_: Any) -> Any:
        return None

    def store(self, **_: Any) -> None:
        return None

    def purge(self, **_: Any) -> None:
        return None

    def touch(self, **_: Any) -> None:
        return None

    def clear(self, *, essence: Any) -> Any:
        return essence


def _event_handler(
    kind: str, plural: str, cache: Cache, watches: Watches, add: Callable[[Key], None]
) -> Callable[..., Any]:
    async def changed(event: Mapping[str, Any], namespace: str, **_: Any) -> None:
        watches.event(plural, namespace)
        take_in(kind, event, cache, add)

    return changed


def _login_handler(login: Login) -> Callable[..., Any]:
    async def connect(**_: Any) -> Any:
        return login()

    return connect
