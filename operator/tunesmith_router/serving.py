"""The life of the agent: opens everything, tends HAProxy, ends after it.

On SIGTERM the pod is no longer ready, and nothing else changes: HAProxy goes on until its own
container's hook asks it for a soft stop (SIGUSR1). From then on it takes no orders and says nothing
of its last answers, so there is nothing left to do here. Called by ``main``.
"""

import asyncio
import signal
from contextlib import AsyncExitStack, suppress

from aiohttp import web

from tunesmith_process.logs import log
from tunesmith_router.access import Access
from tunesmith_router.admin import Admin, HAProxyError
from tunesmith_router.answers import Listener
from tunesmith_router.app import Agent
from tunesmith_router.memory import MemoryFile
from tunesmith_router.router import Router
from tunesmith_router.settings import Settings

_TEND_SECONDS = 0.25


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT and HAProxy's end. Raises SettingsError, OSError."""
    ending = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ending.set)
    admin = Admin(settings.admin_socket, settings.split_map, settings.check_interval_seconds)
    router = Router(admin, MemoryFile(settings.memory_file), settings.endpoint_wait_seconds)
    agent = Agent(router, Access(settings))
    async with AsyncExitStack() as stack:
        stack.callback(router.keep)
        listener = Listener(router.count, router.count_lost)
        await listener.open(str(settings.answers_socket))
        stack.callback(listener.close)
        tending = asyncio.create_task(_tend(router))
        stack.callback(tending.cancel)
        runner = web.AppRunner(agent.build(), access_log=None, handle_signals=False)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, settings.listen_address, settings.agent_port).start()
        log.info("serving", addresses=[list(address) for address in runner.addresses])
        await _until_told(ending, tending)
        agent.is_draining = True
        log.info("draining")
        await _wait_for_the_end(admin, settings.drain_timeout_seconds)
        log.info("drained")


async def _until_told(ending: asyncio.Event, tending: asyncio.Task[None]) -> None:
    """Return on SIGTERM. Raises what ended the tending: nobody may think that it goes on."""
    told = asyncio.create_task(ending.wait())
    await asyncio.wait({told, tending}, return_when=asyncio.FIRST_COMPLETED)
    if tending.done():
        told.cancel()
        await tending


async def _tend(router: Router) -> None:
    while True:
        try:
            await router.tend()
        except OSError as error:
            log.error("the memory cannot be written", error=str(error))
        await asyncio.sleep(_TEND_SECONDS)


async def _wait_for_the_end(admin: Admin, seconds: float) -> None:
    with suppress(TimeoutError, HAProxyError):
        async with asyncio.timeout(seconds):
            while True:
                await admin.identify()
                await asyncio.sleep(_TEND_SECONDS)
