"""Opens one served model: its guard, its conversation log and the port that clients reach.

A process does this once, or once for each adapter of a pod that serves several. What it opens is
closed by the stack it is given. Called by ``serving`` and ``adapters``.
"""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress

from aiohttp import web

from tunesmith_process.logs import log
from tunesmith_sidecar.access import Keys
from tunesmith_sidecar.app import build_app
from tunesmith_sidecar.conversations.log import ConversationLog
from tunesmith_sidecar.engine import Engine
from tunesmith_sidecar.gate import Gate
from tunesmith_sidecar.guard import Guard
from tunesmith_sidecar.metrics import Metrics
from tunesmith_sidecar.settings import Settings

# More connections may come at once than requests are allowed: each is owed its 429.
_BACKLOG = 1024
# After the drain, twice: for last bytes on their way, and for what is cut off.
_CLOSE_SECONDS = 1.0


async def open_model(
    stack: AsyncExitStack,
    settings: Settings,
    engine: Engine,
    gate: Gate,
    metrics: Metrics,
    *,
    missing: Callable[[], str] = lambda: "",
) -> web.TCPSite:
    """Serve a model at the settings' port. Raises SettingsError, OSError.

    ``missing`` says what keeps it from being ready.
    """
    guard = Guard(settings, gate, Keys(settings), metrics)
    conversations = await _open_log(settings, metrics, stack)
    app = build_app(settings, engine, guard, metrics, conversations, missing=missing)
    return await open_site(stack, settings, app)


async def open_site(stack: AsyncExitStack, settings: Settings, app: web.Application) -> web.TCPSite:
    """Serve an application at the settings' port. Raises OSError."""
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
    return site


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
