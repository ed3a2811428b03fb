"""The life of the process: opens everything, serves, and drains on SIGTERM.

The order of an end that loses no request: not ready any more, so that routers look elsewhere;
still serving while they notice; the port closes; what is in progress is waited for; the log is
written. Called by ``main``.
"""

import asyncio
import signal
from contextlib import AsyncExitStack, suppress

from aiohttp import web

from tunesmith_sidecar.access import Keys
from tunesmith_sidecar.app import build_app
from tunesmith_sidecar.conversations.log import ConversationLog
from tunesmith_sidecar.engine import Engine
from tunesmith_sidecar.gate import Gate
from tunesmith_sidecar.guard import Guard
from tunesmith_sidecar.logs import log
from tunesmith_sidecar.metrics import Metrics
from tunesmith_sidecar.settings import Settings

# More connections may come at once than requests are allowed: each is owed its 429.
_BACKLOG = 1024
# After the drain, twice: for last bytes on their way, and for what is cut off.
_CLOSE_SECONDS = 1.0


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then drain. Raises SettingsError, OSError at the start."""
    ending = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ending.set)
    metrics = Metrics(settings.revision)
    gate = Gate(settings.max_concurrent_requests, metrics)
    guard = Guard(settings, gate, Keys(settings), metrics)
    async with AsyncExitStack() as stack:
        conversations = await _open_log(settings, metrics, stack)
        engine = await stack.enter_async_context(Engine(settings))
        app = build_app(settings, engine, guard, metrics, conversations)
        runner = web.AppRunner(
            app,
            access_log=None,
            handle_signals=False,
            # The engine must not go on for a client that is gone.
            handler_cancellation=True,
            shutdown_timeout=_CLOSE_SECONDS,
        )
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        site = web.TCPSite(runner, settings.host, settings.port, backlog=_BACKLOG)
        await site.start()
        log.info("serving", addresses=[list(address) for address in runner.addresses])
        await ending.wait()
        await _drain(settings, gate, site)


async def _drain(settings: Settings, gate: Gate, site: web.TCPSite) -> None:
    gate.start_draining()
    log.info("draining", in_flight=gate.in_flight)
    await asyncio.sleep(settings.pre_stop_seconds)
    await site.stop()
    try:
        async with asyncio.timeout(settings.drain_timeout_seconds):
            await gate.wait_until_idle()
        log.info("drained")
    except TimeoutError:
        log.warning("ending with requests in progress", in_flight=gate.in_flight)
    gate.drained.set()


async def _open_log(
    settings: Settings, metrics: Metrics, stack: AsyncExitStack
) -> ConversationLog | None:
    if settings.log_uri is None:
        return None
    # boto3 takes half a second and 30 MB, which pods without a log do not pay.
    from tunesmith_sidecar.conversations.bucket import Bucket  # noqa: PLC0415

    conversations = ConversationLog(settings, Bucket(settings.log_uri, settings), metrics)
    writer = asyncio.create_task(conversations.run())

    async def close() -> None:
        writer.cancel()
        with suppress(asyncio.CancelledError):
            await writer
        await conversations.close()

    stack.push_async_callback(close)
    return conversations
