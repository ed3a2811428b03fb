"""One adapter of a pod, from its files to its end.

Fetched and verified, then loaded into the engine and served on a port of its own; looked after
every second, because an engine that was restarted has lost it. It leaves in the order in which no
request is lost: not ready, what is in progress is answered, the port closes, the engine unloads
it. Knows nothing of other adapters. Called by ``pod``.
"""

import asyncio
import shutil
from contextlib import AsyncExitStack, suppress
from pathlib import Path

from aiohttp import web

from tunesmith_api.adapters import AdapterPhase, HeldAdapter, WantedAdapter
from tunesmith_process.logs import log
from tunesmith_process.settings import SettingsError
from tunesmith_sidecar.adapters.fetching import (
    DIGEST_FILE,
    FILES,
    FetchFailed,
    fetch_adapter,
    read_digest,
)
from tunesmith_sidecar.adapters.loras import Loras, NotLoaded
from tunesmith_sidecar.engine import Engine, EngineUnavailable
from tunesmith_sidecar.gate import Gate
from tunesmith_sidecar.listening import open_model
from tunesmith_sidecar.metrics import Metrics
from tunesmith_sidecar.settings import Settings

_LOOK_SECONDS = 1.0
_RETRY_SECONDS = 5.0
# vLLM answers 500 to a rank that is too high and to an engine in trouble alike.
_REFUSALS = 3
_LONGEST = 1024
_LEAVES = "it is leaving"


class Adapter:
    """An adapter that a pod was told to serve."""

    def __init__(
        self, wanted: WantedAdapter, settings: Settings, folder: Path, engine: Engine, pod: Gate
    ) -> None:
        """``settings`` are the pod's, ``folder`` is the adapter's own."""
        self.wanted = wanted
        self.site: web.TCPSite | None = None
        self.metrics = Metrics(wanted.revision)
        self.gate = Gate(settings.max_concurrent_requests, self.metrics, pod)
        self._pod_settings = settings
        self._settings = settings.model_copy(
            update={
                "revision": wanted.revision,
                "port": wanted.port,
                "model_name": wanted.revision,
                "model_digest": wanted.digest,
                "model_digest_file": folder / DIGEST_FILE,
            }
        )
        self._folder = folder
        self._engine = engine
        self._loras = Loras(engine)
        self._phase, self._message = AdapterPhase.FETCHING, ""
        self._refusals = 0
        self._stack = AsyncExitStack()
        self._closing: asyncio.Task[None] | None = None
        self._work = asyncio.create_task(self._run())

    @property
    def held(self) -> HeldAdapter:
        """How far it is."""
        phase, message = self._phase, self._message
        if self.gate.is_draining:
            # It may be wanted again meanwhile: then it is loaded anew, and is not there until then.
            phase, message = AdapterPhase.LOADING, _LEAVES
        return HeldAdapter(
            revision=self.wanted.revision,
            digest=self.wanted.digest,
            phase=phase,
            message=message[:_LONGEST],
        )

    def missing(self) -> str:
        """Say why it cannot be served; nothing when it can."""
        if self.gate.is_draining:
            return f"adapter {self.wanted.revision}: {_LEAVES}"
        if self._phase is AdapterPhase.LOADED:
            return ""
        return f"adapter {self.wanted.revision}: {self._phase} {self._message}".strip()

    async def leave(self) -> None:
        """End: nothing of it is left in the pod."""
        await self.stop()
        self.gate.start_draining()
        try:
            async with asyncio.timeout(self._settings.drain_timeout_seconds):
                await self.gate.wait_until_idle()
        except TimeoutError:
            log.warning("unloading with requests in progress", revision=self.wanted.revision)
        await self._end()
        with suppress(EngineUnavailable, TimeoutError):
            await self._loras.unload(self.wanted.revision)
        await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)
        log.info("unloaded", revision=self.wanted.revision)

    async def stop(self) -> None:
        """Stop looking after it; it is served as before."""
        self._work.cancel()
        # Not awaited itself: whoever stops waiting for us must not be taken for its end.
        await asyncio.wait([self._work])
        if not self._work.cancelled() and (error := self._work.exception()) is not None:
            log.error("nobody looked after an adapter", name=self.wanted.revision, exc_info=error)

    async def close(self) -> None:
        """Close its port and write its log, at the end of the pod, also if it was leaving."""
        await self.stop()
        await self._end()

    async def _end(self) -> None:
        """Close its port and write its log: once, and to the end, whoever stops waiting for it."""
        if self._closing is None:
            self.site = None
            self._closing = asyncio.create_task(self._stack.aclose())
        await asyncio.shield(self._closing)

    async def _run(self) -> None:
        for step in (self._is_fetched, self._is_open):
            while True:
                if await step():
                    break
                await asyncio.sleep(_RETRY_SECONDS)
        while True:
            await self._keep_loaded()
            await asyncio.sleep(_LOOK_SECONDS)

    async def _is_fetched(self) -> bool:
        return await self._is_known() or await self._is_verified()

    async def _is_verified(self) -> bool:
        """Fetch what is not here yet and verify all of it, the base model too; say what fails."""
        try:
            await fetch_adapter(self._pod_settings, self.wanted, self._folder)
        except FetchFailed as error:
            phase = AdapterPhase.REFUSED if error.is_final else AdapterPhase.FAILED
            self._say(phase, str(error))
            return False
        except OSError as error:
            self._say(AdapterPhase.FAILED, f"the adapter cannot be written: {error}")
            return False
        return True

    async def _is_known(self) -> bool:
        """Whether an earlier run of this process verified it and the engine has it still."""
        if read_digest(self._folder) != self.wanted.digest:
            return False
        try:
            return self.wanted.revision in await self._loras.names()
        except (EngineUnavailable, TimeoutError):
            return False

    async def _is_open(self) -> bool:
        try:
            self.site = await open_model(
                self._stack,
                self._settings,
                self._engine,
                self.gate,
                self.metrics,
                missing=self.missing,
            )
        except (OSError, SettingsError) as error:
            await self._stack.aclose()
            self._say(AdapterPhase.FAILED, f"port {self.wanted.port} cannot be served: {error}")
            return False
        return True

    async def _keep_loaded(self) -> None:
        name = self.wanted.revision
        try:
            if name not in await self._loras.names():
                # The engine answers, so it has loaded the base model: only now is it known that
                # nobody has changed that in between.
                if self._settings.adapters_base_digest and not await self._is_verified():
                    await asyncio.sleep(_RETRY_SECONDS)
                    return
                if not self._refusals:
                    self._say(AdapterPhase.LOADING, self._message)
                await self._loras.load(name, self._folder / FILES)
            self._refusals = 0
            self._say(AdapterPhase.LOADED, "")
        except EngineUnavailable:
            self._say(AdapterPhase.LOADING, "the engine does not answer")
        except NotLoaded as error:
            self._refusals += 1
            is_final = self._refusals >= _REFUSALS
            phase = AdapterPhase.REFUSED if is_final else AdapterPhase.FAILED
            self._say(phase, f"the engine does not load it: {error}")
        except TimeoutError:
            pass  # Too busy to say: what was loaded still is.

    def _say(self, phase: AdapterPhase, message: str) -> None:
        if (phase, message) != (self._phase, self._message):
            log.info("adapter", name=self.wanted.revision, phase=phase.value, message=message)
        self._phase, self._message = phase, message
