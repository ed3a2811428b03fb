"""/livez, /enginez, /readyz, /metrics, /drained, /openapi.json: for the cluster, not for clients.

Ready is a pod whose engine answers with the right model and that is not ending. /livez only says
that the event loop turns: whether the engine lives is for the engine's own probe, because
restarting this container would not mend it. That probe is /enginez: the engine listens on the
loopback address, where the kubelet cannot ask it, and not every image holds a program that could.
Set up by ``app``.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path

from aiohttp import web

from tunesmith_sidecar.engine import Engine
from tunesmith_sidecar.gate import Gate
from tunesmith_sidecar.metrics import CONTENT_TYPE, Metrics
from tunesmith_sidecar.openapi import build_document
from tunesmith_sidecar.settings import Settings

_DRAIN_STARTS_SECONDS = 10.0
_DIGEST_BYTES = 256


class Probes:
    """The handlers."""

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        gate: Gate,
        metrics: Metrics,
        missing: Callable[[], str],
    ) -> None:
        """``missing`` says what else is not there yet; nothing when all is."""
        self._missing = missing
        self._settings = settings
        self._engine = engine
        self._gate = gate
        self._metrics = metrics
        self._document = build_document(settings)

    def routes(self) -> list[web.RouteDef]:
        """Return what ``app`` adds."""
        return [
            web.get("/livez", self._livez),
            web.get("/enginez", self._enginez),
            web.get("/readyz", self._readyz),
            web.get("/metrics", self._show_metrics),
            web.get("/drained", self._drained),
            web.get("/openapi.json", self._openapi),
        ]

    async def find_trouble(self) -> str:
        """Say why the pod is not ready; nothing when it is."""
        if self._gate.is_draining:
            return "draining"
        wanted, file = self._settings.model_digest, self._settings.model_digest_file
        if file is not None:
            loaded = _read_digest(file)
            if loaded is None:
                return "the model was not fetched yet"
            if loaded != wanted:
                return f"the model is {loaded!r}, wanted is {wanted}"
        if not await self._engine.is_answering():
            return "the engine does not answer"
        return self._missing()

    async def _livez(self, _: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def _enginez(self, _: web.Request) -> web.Response:
        answers = await self._engine.is_answering()
        return web.Response(text="ok" if answers else "no answer", status=200 if answers else 503)

    async def _readyz(self, _: web.Request) -> web.Response:
        trouble = await self.find_trouble()
        return web.Response(text=trouble or "ok", status=503 if trouble else 200)

    async def _show_metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=self._metrics.render(), headers={"Content-Type": CONTENT_TYPE})

    async def _drained(self, _: web.Request) -> web.Response:
        """Answer when nothing is in progress any more: the engine container's preStop hook.

        All containers of a pod get SIGTERM at the same time, but one with a hook only after it.
        So the engine lives as long as its requests.
        """
        if not self._gate.is_draining:
            # The hook may be a moment earlier than our SIGTERM.
            try:
                async with asyncio.timeout(_DRAIN_STARTS_SECONDS):
                    await self._gate.draining.wait()
            except TimeoutError:
                return web.Response(text="not draining", status=409)
        await self._gate.drained.wait()
        return web.Response(text="drained")

    async def _openapi(self, _: web.Request) -> web.Response:
        return web.Response(body=self._document, content_type="application/json")


def _read_digest(path: Path) -> str | None:
    # Read each time: the fetcher may be later than we are, and it is one small file.
    try:
        with path.open("rb") as file:
            return file.read(_DIGEST_BYTES).decode("ascii", "replace").strip()
    except OSError:
        return None
