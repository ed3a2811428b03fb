"""A real HAProxy and an agent beside it, both on real sockets."""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest
from aiohttp import web

from deploy.native.apiserver import free_ports
from tests.router.backends import CHAT, Backend
from tunesmith_api.router import ROUTER_STATE_PATH, RouterReport
from tunesmith_router.access import Access
from tunesmith_router.admin import Admin
from tunesmith_router.answers import Listener
from tunesmith_router.app import Agent
from tunesmith_router.configuration import write_configuration
from tunesmith_router.memory import MemoryFile
from tunesmith_router.router import Router
from tunesmith_router.settings import Settings

TOKEN = "a-token"
TOKEN_DIGEST = f"sha256:{sha256(TOKEN.encode()).hexdigest()}"
TEND_SECONDS = 0.05


def free_port() -> int:
    (port,) = free_ports(1)
    return port


async def eventually(condition: Callable[[], Any], seconds: float = 60.0) -> None:
    """Wait until a condition holds. It mostly does in a moment, but not on a busy machine."""
    end = time.monotonic() + seconds
    while True:
        held = condition()
        if await held if asyncio.iscoroutine(held) else held:
            return
        assert time.monotonic() < end, "it never happened"
        await asyncio.sleep(0.01)


def state(main: str, canary: str = "", weight: int = 0, **given: Any) -> dict[str, Any]:
    """Give a state as the operator sends it; ``of`` has the backends of each revision."""
    mirror, of = given.pop("mirror", 0), given.pop("of", {})
    split = {"main": main, "canary": canary or None, "weight": weight, "mirrorPercent": mirror}
    revisions = [{"name": n, "endpoints": [b.endpoint() for b in bs]} for n, bs in of.items()]
    sticky = given.pop("sticky", "")
    return {"split": split, "revisions": revisions, "stickyHeader": sticky} | given


@dataclass
class Pod:
    """A router pod: HAProxy's process, and the agent in the test's event loop."""

    settings: Settings
    client: aiohttp.ClientSession
    haproxy: subprocess.Popen[bytes] | None = None
    router: Router | None = None
    agent_url: str = ""
    _agent: AsyncExitStack = field(default_factory=AsyncExitStack)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.settings.router_port}"

    async def start_haproxy(self) -> None:
        self.settings.admin_socket.unlink(missing_ok=True)
        # As in its container.
        command = ["haproxy", "-W", "-db", "-f", str(self.settings.folder / "haproxy.cfg")]
        with (self.settings.folder / "haproxy.log").open("ab") as log:
            self.haproxy = subprocess.Popen(command, stdout=log, stderr=log)  # noqa: ASYNC220
        await eventually(self.settings.admin_socket.exists)

    def kill_haproxy(self) -> None:
        assert self.haproxy is not None
        # The worker dies with its master: it watches for that.
        self.haproxy.send_signal(signal.SIGTERM)
        self.haproxy.wait(60)

    async def start_agent(self) -> None:
        at = self.settings
        admin = Admin(at.admin_socket, at.split_map, at.check_interval_seconds)
        self.router = Router(admin, MemoryFile(at.memory_file), at.endpoint_wait_seconds)
        listener = Listener(self.router.count, self.router.count_lost)
        await listener.open(str(at.answers_socket))
        self._agent.callback(listener.close)
        runner = web.AppRunner(Agent(self.router, Access(at)).build(), access_log=None)
        await runner.setup()
        self._agent.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.agent_url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        tending = asyncio.create_task(self._tend(self.router))
        self._agent.callback(tending.cancel)

    async def _tend(self, router: Router) -> None:
        while True:
            await router.tend()
            await asyncio.sleep(TEND_SECONDS)

    async def stop_agent(self) -> None:
        assert self.router is not None
        await self._agent.aclose()
        self.router.keep()
        self._agent = AsyncExitStack()

    async def put(self, wanted: Any, token: str = TOKEN) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {token}"}
        url = self.agent_url + ROUTER_STATE_PATH
        async with self.client.put(url, json=wanted, headers=headers) as answer:
            return answer.status, await answer.json()

    async def told(self, wanted: dict[str, Any]) -> RouterReport:
        """Put a state that must be taken."""
        status, body = await self.put(wanted)
        assert status == 200, body
        return RouterReport.model_validate(body)

    async def report(self) -> RouterReport:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with self.client.get(self.agent_url + ROUTER_STATE_PATH, headers=headers) as answer:
            return RouterReport.model_validate(await answer.json())

    async def counts(self, name: str) -> tuple[int, int, int, int]:
        """Give requests, errors, consecutive errors and endpoints up of a revision."""
        found = next(c for c in (await self.report()).counts if c.name == name)
        return found.requests, found.errors, found.consecutive_errors, found.endpoints_up

    async def get(self, path: str) -> tuple[int, str]:
        async with self.client.get(self.agent_url + path) as answer:
            return answer.status, await answer.text()

    async def ask(self, path: str = CHAT, **test: Any) -> tuple[int, str]:
        headers = test.pop("headers", {})
        body = {"test": test}
        async with self.client.post(self.url + path, json=body, headers=headers) as answer:
            return answer.status, await answer.text()

    async def ask_many(self, count: int, at_once: int = 8, **test: Any) -> Counter[tuple[int, str]]:
        """Ask so often; give how often which answer came."""
        answers: Counter[tuple[int, str]] = Counter()

        async def one_client(share: int) -> None:
            for _ in range(share):
                answers[await self.ask(**test)] += 1

        shares = [count // at_once + (n < count % at_once) for n in range(at_once)]
        await asyncio.gather(*(one_client(share) for share in shares))
        return answers


class Came(NamedTuple):
    """An answer to a client."""

    sent: float
    """When it was asked for, by the clock of ``time.monotonic``."""
    text: str


class Load:
    """Clients that never stop asking; what came."""

    def __init__(self, pod: Pod, clients: int = 6, **test: Any) -> None:
        self._pod, self._clients, self._test = pod, clients, test
        self.answers: list[Came] = []
        self.problems: list[str] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Load:
        self._tasks = [asyncio.create_task(self._ask()) for _ in range(self._clients)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._is_over = True
        await asyncio.gather(*self._tasks)

    async def newer(self, count: int = 20) -> set[str]:
        """Wait for answers to so many requests that are sent from now on; give what they say."""
        now = time.monotonic()
        await eventually(lambda: len(self._since(now)) >= count)
        return {came.text for came in self._since(now)}

    def _since(self, moment: float) -> list[Came]:
        return [came for came in self.answers if came.sent > moment]

    _is_over = False

    async def _ask(self) -> None:
        while not self._is_over:
            sent = time.monotonic()
            try:
                status, text = await self._pod.ask(**self._test)
            except aiohttp.ClientError as error:
                self.problems.append(repr(error))
                continue
            self.answers.append(Came(sent, text))
            if status != 200:
                self.problems.append(f"{status} {text}")


@pytest.fixture
async def pod() -> AsyncIterator[Pod]:
    if shutil.which("haproxy") is None:
        pytest.skip("haproxy is not installed: apt-get install haproxy")
    # Not tmp_path: the path of a Unix socket is short.
    with tempfile.TemporaryDirectory(prefix="router") as folder:
        settings = Settings.model_validate(
            {
                "folder": Path(folder),
                "token_digest": TOKEN_DIGEST,
                "listen_address": "127.0.0.1",
                "router_port": free_port(),
                "check_interval_seconds": 0.1,
                "endpoint_wait_seconds": 3,
                "max_mirrors": 32,
                "connect_timeout_seconds": 3,
                "server_timeout_seconds": 4,
            }
        )
        write_configuration(settings)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as client:
            pod = Pod(settings, client)
            await pod.start_haproxy()
            await pod.start_agent()
            try:
                yield pod
            finally:
                await pod.stop_agent()
                assert pod.haproxy is not None
                pod.haproxy.kill()
                pod.haproxy.wait()


__all__ = ["Backend", "Load", "Pod", "eventually", "state"]
