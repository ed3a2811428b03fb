"""The life of the process: opens everything, serves, and drains on SIGTERM.

The order of an end that loses no request: not ready any more, so that routers look elsewhere;
still serving while they notice; the port closes; what is in progress is waited for; the log is
written. Called by ``main``.
"""

import asyncio
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack

from aiohttp import web

from tunesmith_process.logs import log
from tunesmith_sidecar.adapters.pod import AdapterPod
from tunesmith_sidecar.engine import Engine
from tunesmith_sidecar.gate import Gate
from tunesmith_sidecar.listening import open_model
from tunesmith_sidecar.metrics import Metrics
from tunesmith_sidecar.settings import Settings


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then drain. Raises SettingsError, OSError at the start."""
    ending = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ending.set)
    metrics = Metrics(settings.revision)
    gate = Gate(settings.max_concurrent_requests, metrics)
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(Engine(settings))
        if settings.adapters_folder is not None:
            pod = AdapterPod(settings, settings.adapters_folder, engine, gate, metrics)
            await pod.open(stack)
            await ending.wait()
            pod.start_draining()
            await _drain(settings, gate, pod.sites)
        else:
            site = await open_model(stack, settings, engine, gate, metrics)
            await ending.wait()
            gate.start_draining()
            await _drain(settings, gate, lambda: [site])


async def _drain(settings: Settings, gate: Gate, sites: Callable[[], list[web.TCPSite]]) -> None:
    log.info("draining", in_flight=gate.in_flight)
    await asyncio.sleep(settings.pre_stop_seconds)
    # Only now: adapters come and go meanwhile, and a port can be closed but once.
    for site in sites():
        await site.stop()
    try:
        async with asyncio.timeout(settings.drain_timeout_seconds):
            await gate.wait_until_idle()
        log.info("drained")
    except TimeoutError:
        log.warning("ending with requests in progress", in_flight=gate.in_flight)
    gate.drained.set()
