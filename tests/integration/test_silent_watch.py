"""A watch that goes silent while its connection stays up, as behind some load balancers."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from deploy.native.apiserver import ControlPlane
from tests.integration.operators import client_of, job, make_namespace, operator, until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


class Proxy:
    """Forwards TCP; connections that are open when it freezes carry nothing any more."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._frozen: list[asyncio.Event] = []
        self.port = 0

    @contextlib.asynccontextmanager
    async def run(self) -> AsyncIterator["Proxy"]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()

    def freeze(self) -> None:
        for frozen in self._frozen:
            frozen.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._target)
        frozen = asyncio.Event()
        self._frozen.append(frozen)

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                if not frozen.is_set():
                    sink.write(data)
                    await sink.drain()

        with contextlib.suppress(OSError, asyncio.CancelledError):
            await asyncio.gather(pump(reader, up_writer), pump(up_reader, writer))
        for end in (writer, up_writer):
            end.close()


class Behind:
    """A control plane as it is seen through a proxy."""

    def __init__(self, plane: ControlPlane, port: int, folder: Path) -> None:
        self.kubeconfig = folder / "kubeconfig"
        text = plane.kubeconfig.read_text().replace(plane.url, f"https://127.0.0.1:{port}")
        self.kubeconfig.write_text(text)


async def test_a_silent_watch_is_found_and_opened_again(
    control_plane: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The product's 70 s, 30 s and 10 s, made shorter.
    monkeypatch.setattr("tunesmith_operator.handlers.INACTIVITY_SECONDS", 3.0)
    monkeypatch.setattr("tunesmith_operator.handlers.REQUEST_SECONDS", 3.0)
    timeout = aiohttp.ClientTimeout(total=3, sock_connect=3)
    monkeypatch.setattr("tunesmith_operator.kube.transport.TIMEOUT", timeout)
    namespace = make_namespace(control_plane)
    async with (
        client_of(control_plane) as kube,
        Proxy(control_plane.port).run() as proxy,
        operator(Behind(control_plane, proxy.port, tmp_path), namespace) as running,  # type: ignore[arg-type]
    ):

        async def has_child(name: str) -> bool:
            jobs = await kube.list("Job", namespace)
            return any(found["metadata"]["name"].startswith(name) for found in jobs)

        await kube.create(job(namespace, "before"))
        await until(lambda: has_child("before"))
        proxy.freeze()
        await kube.create(job(namespace, "after"))
        await until(lambda: has_child("after"), what="a child behind a silent watch")

        async def all_alive() -> bool:
            return max(running.watches.ages().values()) < 6

        await until(all_alive, what="a sign of life of every watch")
