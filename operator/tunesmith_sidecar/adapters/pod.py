"""A pod that serves several adapters on one base model: what the operator tells it, and readiness.

Takes the whole set of wanted adapters and makes the pod match it. The set is kept in the pod's
volume, so that a sidecar that was restarted needs no operator. The pod is ready once every
required adapter is loaded; one that is tried out beside them never keeps it from that, and each
adapter's own port says whether that one is. Decides nothing about traffic. Called by ``serving``.
"""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import orjson
from aiohttp import web
from pydantic import ValidationError

from tunesmith_api.adapters import (
    ADAPTERS_PATH,
    AdaptersReport,
    WantedAdapter,
    WantedAdapters,
)
from tunesmith_process.logs import log
from tunesmith_sidecar.access import is_token
from tunesmith_sidecar.adapters.adapter import Adapter
from tunesmith_sidecar.answers import error_answer
from tunesmith_sidecar.engine import Engine
from tunesmith_sidecar.gate import Gate
from tunesmith_sidecar.listening import open_site
from tunesmith_sidecar.metrics import CONTENT_TYPE, Metrics, render_together
from tunesmith_sidecar.probes import Probes
from tunesmith_sidecar.settings import Settings

_WANTED_FILE = "wanted.json"
_LARGEST_BYTES = 256 << 10


class AdapterPod:
    """All adapters of a pod; for one event loop."""

    def __init__(
        self, settings: Settings, folder: Path, engine: Engine, gate: Gate, metrics: Metrics
    ) -> None:
        self._settings = settings
        self._folder = folder
        self._engine = engine
        self._gate = gate
        self._metrics = metrics
        self._wanted: WantedAdapters | None = None
        self._adapters: dict[str, Adapter] = {}
        self._leaving: dict[str, asyncio.Task[None]] = {}
        self._site: web.TCPSite | None = None

    async def open(self, stack: AsyncExitStack) -> None:
        """Serve the pod's own port, and what it was told before. Raises OSError."""
        self._folder.mkdir(parents=True, exist_ok=True)
        stack.push_async_callback(self._close)
        kept = _read_kept(self._folder / _WANTED_FILE)
        if kept is not None:
            self._take(kept)
        probes = Probes(self._settings, self._engine, self._gate, self._metrics, self.missing)
        app = web.Application(client_max_size=_LARGEST_BYTES)
        app.add_routes(
            [
                web.get(ADAPTERS_PATH, self._show),
                web.put(ADAPTERS_PATH, self._put),
                web.get("/metrics", self._show_metrics),
                *(route for route in probes.routes() if route.path != "/metrics"),
            ]
        )
        self._site = await open_site(stack, self._settings, app)

    def sites(self) -> list[web.TCPSite]:
        """Give all that listens."""
        found = [self._site, *(adapter.site for adapter in self._adapters.values())]
        return [site for site in found if site is not None]

    def start_draining(self) -> None:
        """Say that the pod is ending."""
        for adapter in self._adapters.values():
            adapter.gate.start_draining()
        self._gate.start_draining()

    def missing(self) -> str:
        """Say why the pod is not ready; nothing when it is."""
        if self._wanted is None:
            return "the operator has not said which adapters are served"
        for wanted in self._wanted.adapters:
            adapter = self._adapters.get(wanted.revision)
            why = adapter.missing() if adapter else f"adapter {wanted.revision}: it is leaving"
            if wanted.is_required and why:
                return why
        return ""

    def report(self) -> AdaptersReport:
        """Say what the pod was told, and how far it is."""
        held = tuple(adapter.held for adapter in self._adapters.values())
        return AdaptersReport(wanted=self._wanted, held=held)

    def _take(self, wanted: WantedAdapters) -> None:
        """Make the pod match the set."""
        self._wanted = wanted
        named = {adapter.revision for adapter in wanted.adapters}
        for name in set(self._adapters) - named - set(self._leaving):
            self._leaving[name] = asyncio.create_task(self._let_go(name))
        for adapter in wanted.adapters:
            # One that is on its way out comes back once it is gone.
            if adapter.revision not in self._adapters:
                self._begin(adapter)

    def _begin(self, wanted: WantedAdapter) -> None:
        folder = self._folder / wanted.revision
        self._adapters[wanted.revision] = Adapter(
            wanted, self._settings, folder, self._engine, self._gate
        )

    async def _let_go(self, name: str) -> None:
        try:
            await self._adapters[name].leave()
        except asyncio.CancelledError:
            return  # the pod is ending and closes it, like all others
        except Exception as error:
            log.error("an adapter did not leave in order", name=name, exc_info=error)
        del self._adapters[name], self._leaving[name]
        if self._wanted is not None:
            self._take(self._wanted)

    async def _show(self, request: web.Request) -> web.Response:
        return self._refused(request) or self._answer()

    async def _put(self, request: web.Request) -> web.Response:
        refused = self._refused(request)
        if refused is not None:
            return refused
        try:
            wanted = WantedAdapters.model_validate_json(await request.read())
        except ValidationError as error:
            return error_answer(400, f"{error.error_count()} errors in the set", "invalid_body")
        new = self._folder / f"{_WANTED_FILE}.new"
        new.write_text(wanted.model_dump_json(by_alias=True))
        new.rename(self._folder / _WANTED_FILE)
        self._take(wanted)
        return self._answer()

    def _refused(self, request: web.Request) -> web.Response | None:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        wanted = self._settings.adapters_token_digest
        if scheme.lower() == "bearer" and is_token(token.strip(), wanted):
            return None
        return error_answer(401, "The operator's token is needed.", "invalid_token")

    def _answer(self) -> web.Response:
        said = self.report().model_dump(mode="json", by_alias=True, exclude_none=True)
        return web.Response(body=orjson.dumps(said), content_type="application/json")

    async def _show_metrics(self, _: web.Request) -> web.Response:
        parts = [adapter.metrics for adapter in self._adapters.values()] or [self._metrics]
        return web.Response(body=render_together(parts), headers={"Content-Type": CONTENT_TYPE})

    async def _close(self) -> None:
        leaving = list(self._leaving.values())
        for task in leaving:
            task.cancel()
        await asyncio.gather(*leaving, return_exceptions=True)
        # Side by side: each may take seconds to write its log, and the pod has not many.
        closed = (adapter.close() for adapter in self._adapters.values())
        for error in await asyncio.gather(*closed, return_exceptions=True):
            if isinstance(error, Exception):
                log.error("an adapter was not closed in order", exc_info=error)


def _read_kept(path: Path) -> WantedAdapters | None:
    try:
        return WantedAdapters.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        log.warning("forgot which adapters were wanted", error=str(error))
        return None
