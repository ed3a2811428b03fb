"""What the router costs, direct against through it, and how fast a new split takes effect.

``make bench-router``; needs haproxy. Endpoints, HAProxy and the agent are processes of their own on
this machine. Requests go direct and through the router by turns, so that all see the same
machine. HAProxy closes each connection (decision 13), so its own share is what it adds to a direct
request on a new connection; a client that keeps its connections loses their opening besides, which
is printed too. The time of a change is from the PUT to the first answer by the new split, under
load. Prints a table; exits with 1 when a target is missed.
"""

import asyncio
import contextlib
import math
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import aiohttp

REPOSITORY = Path(__file__).resolve().parent.parent
PATH = "/v1/chat/completions"
BODY = {"messages": [{"role": "user", "content": "How do I return a broken kettle? " * 12}]}
TOKEN = "bench"
TARGET_ADDED_MS = 1.0
TARGET_CHANGE_MS = 1000.0
WARM_UP = 100
SINGLES = 1000
CHANGES = 20
CLIENTS = 8


def free_port() -> int:
    """Give a port that nobody listens on just now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def process(*command: str, **environment: str) -> Iterator[None]:
    """Run a program."""
    path = f"{REPOSITORY / 'operator'}:{REPOSITORY}"
    running = subprocess.Popen(
        command, env=os.environ | {"PYTHONPATH": path} | environment, stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        running.terminate()
        running.wait(timeout=15)


def wanted(weight: int, ports: tuple[int, int]) -> dict[str, Any]:
    """Give a state for the agent."""
    names = ("stable", "canary")
    endpoints = [[{"address": "127.0.0.1", "port": port}] for port in ports]
    revisions = [{"name": n, "endpoints": e} for n, e in zip(names, endpoints, strict=True)]
    return {
        "split": {"main": "stable", "canary": "canary", "weight": weight},
        "revisions": revisions,
    }


async def put(session: aiohttp.ClientSession, agent: str, state: dict[str, Any]) -> bool:
    """Tell the agent; whether it took it."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with contextlib.suppress(aiohttp.ClientError):
        async with session.put(f"{agent}/v1/state", json=state, headers=headers) as answer:
            await answer.read()
            return answer.ok
    return False


async def ask(session: aiohttp.ClientSession, url: str) -> tuple[float, str]:
    """Send a request; return its seconds and who answered."""
    began = time.perf_counter()
    async with session.post(url + PATH, json=BODY) as answer:
        text = await answer.text()
        answer.raise_for_status()
    return time.perf_counter() - began, text


async def change(
    session: aiohttp.ClientSession, agent: str, router: str, weight: int, ports: tuple[int, int]
) -> float:
    """Send all requests to the other revision; return the seconds until it answers one."""
    expected = "canary" if weight else "stable"
    arrived = asyncio.Event()

    async def client() -> None:
        while not arrived.is_set():
            if (await ask(session, router))[1] == expected:
                arrived.set()

    clients = [asyncio.create_task(client()) for _ in range(CLIENTS)]
    await asyncio.sleep(0.05)
    began = time.perf_counter()
    telling = asyncio.create_task(put(session, agent, wanted(weight, ports)))
    await arrived.wait()
    seconds = time.perf_counter() - began
    await asyncio.gather(telling, *clients)
    return seconds


def percentile(values: list[float], percent: float) -> float:
    """Return the nearest-rank percentile, in milliseconds."""
    return sorted(values)[max(math.ceil(len(values) * percent / 100) - 1, 0)] * 1000


async def measure(router: str, agent: str, ports: tuple[int, int]) -> bool:
    """Measure all; tell whether every target is met."""
    engine = f"http://127.0.0.1:{ports[0]}"
    keeping = aiohttp.TCPConnector(limit=0)
    closing = aiohttp.TCPConnector(limit=0, force_close=True)
    async with (
        aiohttp.ClientSession(connector=keeping) as session,
        aiohttp.ClientSession(connector=closing) as anew,
    ):
        for _ in range(200):
            if await put(session, agent, wanted(0, ports)):
                break
            await asyncio.sleep(0.05)
        for _ in range(WARM_UP):
            await ask(session, engine)
            await ask(session, router)
        asked = ((session, engine), (anew, engine), (session, router))
        turns = [[(await ask(*one))[0] for one in asked] for _ in range(SINGLES)]
        changes = [
            await change(session, agent, router, 100 * (n % 2 == 0), ports) for n in range(CHANGES)
        ]
    kept, opened, through = ([turn[n] for turn in turns] for n in range(3))
    print(f"{'':<30}{'direct':>10}{'router':>10}{'added':>10}  ratio")
    for name, direct in (("new connections", opened), ("kept connections", kept)):
        for percent in (50, 99):
            plain, routed = percentile(direct, percent), percentile(through, percent)
            print(
                f"{name:<17} latency p{percent:<3}{plain:>10.2f}{routed:>10.2f}"
                f"{routed - plain:>+10.2f}  {routed / plain:.2f}x  ms"
            )
    median, worst = statistics.median(changes) * 1000, max(changes) * 1000
    print(
        f"from PUT to the first request by the new split: median {median:.1f}, max {worst:.1f} ms"
    )
    added = percentile(through, 50) - percentile(opened, 50)
    verdicts = [
        (f"p50 {added:+.2f} ms, target {TARGET_ADDED_MS} ms", added <= TARGET_ADDED_MS),
        (f"change {worst:.1f} ms, target {TARGET_CHANGE_MS} ms", worst <= TARGET_CHANGE_MS),
    ]
    for text, is_met in verdicts:
        print(("met     " if is_met else "MISSED  ") + text)
    return all(is_met for _, is_met in verdicts)


def main() -> int:
    """Run the benchmark; returns the exit code."""
    if shutil.which("haproxy") is None:
        sys.exit("haproxy is not installed: apt-get install haproxy")
    ports = free_port(), free_port()
    router, agent = free_port(), free_port()
    python = sys.executable, "-m"
    with tempfile.TemporaryDirectory(prefix="router") as folder, contextlib.ExitStack() as stack:
        digest = f"sha256:{sha256(TOKEN.encode()).hexdigest()}"
        settings = {"FOLDER": folder, "TOKEN_DIGEST": digest, "LISTEN_ADDRESS": "127.0.0.1"}
        settings |= {"ROUTER_PORT": str(router), "AGENT_PORT": str(agent)}
        settings |= {"DRAIN_TIMEOUT_SECONDS": "1"}
        environment = {f"TUNESMITH_ROUTER_{name}": text for name, text in settings.items()}
        path = {"PYTHONPATH": str(REPOSITORY / "operator")}
        subprocess.run(
            [*python, "tunesmith_router", "init"], env=os.environ | path | environment, check=True
        )
        for name, port in zip(("stable", "canary"), ports, strict=True):
            stack.enter_context(process(*python, "tests.router.backends", name, str(port)))
        stack.enter_context(process(*python, "tunesmith_router", **environment))
        stack.enter_context(process("haproxy", "-W", "-db", "-f", f"{folder}/haproxy.cfg"))
        local = "http://127.0.0.1"
        is_met = asyncio.run(measure(f"{local}:{router}", f"{local}:{agent}", ports))
        return 0 if is_met else 1


if __name__ == "__main__":
    sys.exit(main())
