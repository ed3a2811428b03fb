"""Typed calls: get, list, create, delete, apply. Retries what may pass, names what does not.

Every write asks the fence right before each time it is sent, so an operator that lost its Lease
writes nothing, also not in a retry. Used by reconcile/ (as ``world.Kube``), the Lease, the resync
and the Events. Holds no state of the cluster.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

from tunesmith_operator.kube.answering import error_of, is_from_webhook, loads, message_of
from tunesmith_operator.kube.errors import AlreadyExists, Conflict, NotOurs, Unavailable
from tunesmith_operator.kube.kinds import KINDS, Object
from tunesmith_operator.kube.transport import NETWORK_ERRORS, Request, Response, Send

FIELD_MANAGER = "tunesmith"
APPLY = "application/apply-patch+yaml"
MERGE_PATCH = "application/merge-patch+json"
PAGE_SIZE = 500
_PASSING = frozenset({401, 429, 500, 502, 503, 504})
_LONGEST_WAIT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Retries:
    """How often a call is sent again. Short: the work queue backs off for as long as it takes."""

    delays: tuple[float, ...] = (0.1, 0.5, 1.5)
    jitter: Callable[[], float] = random.random
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep

    def wait(self, delay: float, retry_after: float | None) -> Awaitable[None]:
        """Sleep between half and the whole of the delay, or as long as the server asked."""
        longest = min(max(delay, retry_after or 0.0), _LONGEST_WAIT_SECONDS)
        return self.sleep(longest * (0.5 + self.jitter() / 2))


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a list, and the resourceVersion at which all of it was true."""

    items: list[Object]
    resource_version: int


def _nothing(_: object, __: object = None) -> None:
    """Tell nobody."""


class KubeClient:
    """Calls to one API server. Satisfies ``reconcile.world.Kube``."""

    def __init__(
        self,
        send: Send,
        *,
        fence: Callable[[], None] = lambda: None,
        saw: Callable[[str, Object], object] = _nothing,
        called: Callable[[Request, int], object] = _nothing,
        patiently: Callable[[], AbstractAsyncContextManager[None]] = nullcontext,
        retries: Retries | None = None,
    ) -> None:
        """``fence`` raises LostLeadershipError; ``saw`` is shown what a write answered.

        ``patiently`` is held around writes that may come a little later: statuses.
        """
        self._send = send
        self._fence = fence
        self._saw = saw
        self._called = called
        self._patiently = patiently
        self._retries = retries or Retries()

    async def get(self, kind: str, namespace: str, name: str) -> Object | None:
        """Read an object live, or None."""
        path = KINDS[kind].path(namespace, name)
        answer = await self._exchange(Request("get", kind, "GET", path), also=(404,))
        return None if answer.status == 404 else loads(answer)

    async def list(
        self, kind: str, namespace: str | None = None, labels: str = "", fields: str = ""
    ) -> Sequence[Object]:
        """Read all objects that both selectors find, live; namespace None is everywhere."""
        pages = self.pages(kind, namespace, labels, fields)
        return [item async for page in pages for item in page.items]

    async def pages(
        self, kind: str, namespace: str | None = None, labels: str = "", fields: str = ""
    ) -> AsyncIterator[Page]:
        """Read a list in pieces. Raises Gone when it took so long that the server forgot it."""
        query = {"limit": str(PAGE_SIZE)}
        if labels:
            query["labelSelector"] = labels
        if fields:
            query["fieldSelector"] = fields
        while True:
            path = KINDS[kind].path(namespace)
            answer = await self._exchange(Request("list", kind, "GET", path, dict(query)))
            body = loads(answer)
            meta = body["metadata"]
            yield Page(body.get("items") or [], int(meta["resourceVersion"]))
            if not meta.get("continue"):
                return
            query["continue"] = meta["continue"]

    async def resources(self, group_version: str) -> frozenset[str]:
        """Return the plurals that the API server serves in a group and version."""
        path = f"/apis/{group_version}"
        answer = await self._exchange(Request("get", "APIResourceList", "GET", path), also=(404,))
        found = () if answer.status == 404 else loads(answer)["resources"]
        return frozenset(resource["name"] for resource in found)

    async def create(self, manifest: Object) -> Object:
        """Create; raises AlreadyExists."""
        kind, meta = KINDS[manifest["kind"]], manifest["metadata"]
        request = Request(
            "create",
            kind.name,
            "POST",
            kind.path(meta["namespace"]),
            {"fieldManager": FIELD_MANAGER},
            manifest,
        )
        return self._shown(kind.name, await self._exchange(request))

    async def create_or_adopt(self, manifest: Object, owner_uid: str) -> Object:
        """Create, or return the one that is there if ``owner_uid`` controls it, else NotOurs."""
        try:
            return await self.create(manifest)
        except AlreadyExists:
            kind, meta = manifest["kind"], manifest["metadata"]
            found = await self.get(kind, meta["namespace"], meta["name"])
        where = f"{kind} {meta['namespace']}/{meta['name']}"
        if found is None:
            raise Conflict(f"{where} was deleted just now", 409)
        owners = found["metadata"].get("ownerReferences") or ()
        if not any(o.get("controller") and o.get("uid") == owner_uid for o in owners):
            raise NotOurs(f"{where} exists and belongs to somebody else", 409)
        self._saw(kind, found)
        return found

    async def delete(
        self,
        kind: str,
        namespace: str,
        name: str,
        *,
        uid: str,
        resource_version: str = "",
        propagation: Literal["Foreground", "Background", "Orphan"] = "Foreground",
    ) -> bool:
        """Delete exactly that object; False if it is gone; raises Conflict if it is another one."""
        preconditions = {"uid": uid}
        if resource_version:
            preconditions["resourceVersion"] = resource_version
        body: Object = {"propagationPolicy": propagation, "preconditions": preconditions}
        path = KINDS[kind].path(namespace, name)
        request = Request("delete", kind, "DELETE", path, body=body)
        answer = await self._exchange(request, also=(404,))
        return answer.status != 404

    async def apply_status(
        self,
        kind: str,
        namespace: str,
        name: str,
        status: Object,
        *,
        resource_version: str,
        is_urgent: bool = False,
    ) -> Object:
        """Write the whole status by server-side apply; raises Gone, or Conflict.

        The status must have been decided on the object at ``resource_version``: the API server
        ignores a uid here, so without it a status could land on a namesake that was made since.
        An urgent one does not let other passes go first.
        """
        meta = {"namespace": namespace, "name": name, "resourceVersion": resource_version}
        body = {
            "apiVersion": KINDS[kind].api_version,
            "kind": kind,
            "metadata": meta,
            "status": status,
        }
        async with nullcontext() if is_urgent else self._patiently():
            return await self.apply(body, subresource="status")

    async def patch_status(
        self, kind: str, namespace: str, name: str, status: Object, *, resource_version: str
    ) -> Object:
        """Write some fields of the status and leave the others; raises Gone, or Conflict.

        For a status that we cannot read as a whole: what server-side apply does not say it removes.
        """
        body = {"metadata": {"resourceVersion": resource_version}, "status": status}
        path, query = KINDS[kind].path(namespace, name, "status"), {"fieldManager": FIELD_MANAGER}
        request = Request("patch", kind, "PATCH", path, query, body, MERGE_PATCH)
        return self._shown(kind, await self._exchange(request))

    async def apply(self, manifest: Object, subresource: str = "") -> Object:
        """Server-side apply: what we no longer say is removed, what others say stays."""
        kind, meta = KINDS[manifest["kind"]], manifest["metadata"]
        request = Request(
            "apply",
            kind.name,
            "PATCH",
            kind.path(meta["namespace"], meta["name"], subresource),
            {"fieldManager": FIELD_MANAGER, "force": "true"},
            manifest,
            APPLY,
        )
        return self._shown(kind.name, await self._exchange(request))

    async def scale(self, kind: str, namespace: str, name: str, replicas: int, *, uid: str) -> None:
        """Ask exactly that object for so many pods; raises Gone, or Conflict if it is another."""
        body = {"metadata": {"uid": uid}, "spec": {"replicas": replicas}}
        path = KINDS[kind].path(namespace, name)
        query = {"fieldManager": FIELD_MANAGER}
        await self._exchange(Request("scale", kind, "PATCH", path, query, body, MERGE_PATCH))

    async def replace(self, manifest: Object) -> Object:
        """Write an object that was read before; raises Conflict if it changed since."""
        kind, meta = KINDS[manifest["kind"]], manifest["metadata"]
        path = kind.path(meta["namespace"], meta["name"])
        request = Request("update", kind.name, "PUT", path, body=manifest)
        return loads(await self._exchange(request))

    def _shown(self, kind: str, answer: Response) -> Object:
        body = loads(answer)
        self._saw(kind, body)
        return body

    async def _exchange(self, request: Request, also: tuple[int, ...] = ()) -> Response:
        """Send until there is an answer that a repeat would not change."""
        for delay in (*self._retries.delays, None):
            if request.is_write:
                self._fence()
            answer, trouble = None, ""
            try:
                answer = await self._send(request)
            except NETWORK_ERRORS as error:
                trouble = str(error) or type(error).__name__
            self._called(request, answer.status if answer else 0)
            if answer is not None:
                if answer.status < 300 or answer.status in also:
                    return answer
                if answer.status not in _PASSING:
                    raise error_of(request, answer)
                trouble = message_of(answer)
            if delay is not None:
                await self._retries.wait(delay, answer.retry_after if answer else None)
        if answer is not None and is_from_webhook(answer):
            raise error_of(request, answer)
        code = answer.status if answer else 0
        raise Unavailable(f"{request.method} {request.path}: {trouble}", code)
