"""What the sidecar costs: direct against through it, with a stand-in engine that answers at once.

``make bench-sidecar``. Engine and sidecar are processes of their own on this machine. Three
measurements: latency of single requests (direct and through the sidecar by turns, so that both
see the same machine), requests a second of CPU time of the sidecar under load, and the time to the
first token of a stream. Latencies are the median of the quietest of some rounds, as whatever else
runs on a machine only ever adds. Prints a table; exits with 1 when a target is missed.
"""

import asyncio
import contextlib
import math
import os
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import aiohttp

REPOSITORY = Path(__file__).resolve().parent.parent
PATH = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "How do I return a broken kettle? " * 12}]
TARGET_OVERHEAD_MS = 3.0
TARGET_REQUESTS_PER_CORE = 500.0
TARGET_FIRST_TOKEN_MS = 1.0
WARM_UP = 200
ROUNDS = 4
SINGLES = 400
STREAMS = 200
LOAD_SECONDS = 4.0
CLIENTS = 32

Pair = tuple[list[float], list[float]]
"""Seconds of requests, direct and through the sidecar."""


def free_port() -> int:
    """Give a port that nobody listens on just now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def process(*arguments: str, **environment: str) -> Iterator[int]:
    """Run a module of ours; yield its pid."""
    path = f"{REPOSITORY / 'operator'}:{REPOSITORY}"
    running = subprocess.Popen(
        [sys.executable, "-m", *arguments],
        env=os.environ | {"PYTHONPATH": path} | environment,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield running.pid
    finally:
        running.terminate()
        running.wait(timeout=15)


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has taken, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def wait_until_ready(session: aiohttp.ClientSession, url: str) -> None:
    """Wait until the sidecar says that the engine serves."""
    for _ in range(300):
        with contextlib.suppress(aiohttp.ClientError):
            async with session.get(url + "/readyz") as answer:
                if answer.ok:
                    return
        await asyncio.sleep(0.05)
    raise TimeoutError("the sidecar did not become ready")


async def ask(session: aiohttp.ClientSession, url: str) -> float:
    """Send a request; return its seconds."""
    began = time.perf_counter()
    async with session.post(url + PATH, json={"messages": MESSAGES}) as answer:
        await answer.read()
        answer.raise_for_status()
    return time.perf_counter() - began


async def first_token(session: aiohttp.ClientSession, url: str) -> float:
    """Start a stream of an engine that thinks for 2 ms; return the seconds until its first bytes.

    Everybody sleeps meanwhile, so waking up is part of it, as with a real engine.
    """
    return await stream(session, url, 0.002)


async def first_token_at_once(session: aiohttp.ClientSession, url: str) -> float:
    """Start a stream of an engine that answers at once: what the sidecar does, without sleep."""
    return await stream(session, url, 0)


async def stream(session: aiohttp.ClientSession, url: str, delay: float) -> float:
    """Start a stream; return the seconds until its first bytes."""
    body = {"messages": MESSAGES, "stream": True, "test": {"tokens": 3, "delay": delay}}
    began = time.perf_counter()
    async with session.post(url + PATH, json=body) as answer:
        await answer.content.readany()
        seconds = time.perf_counter() - began
        await answer.read()
    return seconds


async def load(session: aiohttp.ClientSession, url: str) -> tuple[int, float]:
    """Ask from many clients; return the number of answers and the seconds."""
    began = time.perf_counter()
    count = 0

    async def client() -> None:
        nonlocal count
        while time.perf_counter() - began < LOAD_SECONDS:
            await ask(session, url)
            count += 1

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return count, time.perf_counter() - began


def percentile(values: list[float], percent: float) -> float:
    """Return the nearest-rank percentile, in milliseconds."""
    return sorted(values)[max(math.ceil(len(values) * percent / 100) - 1, 0)] * 1000


def row(name: str, direct: float, through: float, unit: str) -> None:
    """Print a line of the table."""
    difference = f"{through - direct:+9.2f}" if unit == "ms" else " " * 9
    ratio = through / direct
    print(f"{name:<28}{direct:>10.2f}{through:>12.2f}{difference}  {ratio:5.2f}x  {unit}")


async def quietest(
    send: Callable[[aiohttp.ClientSession, str], Awaitable[float]],
    session: aiohttp.ClientSession,
    engine: str,
    sidecar: str,
    count: int,
) -> Pair:
    """Send in rounds, by turns direct and through the sidecar; return the quietest round."""
    rounds: list[Pair] = []
    for _ in range(ROUNDS):
        turns = [(await send(session, engine), await send(session, sidecar)) for _ in range(count)]
        rounds.append(([turn[0] for turn in turns], [turn[1] for turn in turns]))
    return min(rounds, key=median_added)


def median_added(pair: Pair) -> float:
    """Return by how much the second median is above the first, in milliseconds."""
    return percentile(pair[1], 50) - percentile(pair[0], 50)


async def measure(engine: str, sidecar: str, pid: int) -> bool:
    """Measure all; tell whether every target is met."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        await wait_until_ready(session, sidecar)
        for _ in range(WARM_UP):
            await ask(session, engine)
            await ask(session, sidecar)
        single = await quietest(ask, session, engine, sidecar, SINGLES)
        streams = await quietest(first_token, session, engine, sidecar, STREAMS)
        at_once = await quietest(first_token_at_once, session, engine, sidecar, STREAMS)
        direct_count, direct_seconds = await load(session, engine)
        used = cpu_seconds(pid)
        count, seconds = await load(session, sidecar)
        used = cpu_seconds(pid) - used
    print(f"{'':<28}{'direct':>10}{'sidecar':>12}{'added':>9}  ratio")
    for name, (direct, through) in (
        ("latency", single),
        ("first token", streams),
        ("first token at once", at_once),
    ):
        for percent in (50, 99):
            figures = percentile(direct, percent), percentile(through, percent)
            row(f"{name} p{percent}", *figures, "ms")
    row(f"requests/s, {CLIENTS} clients", direct_count / direct_seconds, count / seconds, "1/s")
    per_core = count / used
    print(f"requests a second and core of the sidecar: {per_core:.0f}")
    return judge(median_added(single), per_core, median_added(streams))


def judge(overhead: float, per_core: float, added: float) -> bool:
    """Print each target and whether it is met; tell whether all are."""
    verdicts = [
        (
            f"p50 overhead {overhead:.2f} ms, target {TARGET_OVERHEAD_MS} ms",
            overhead <= TARGET_OVERHEAD_MS,
        ),
        (
            f"{per_core:.0f} requests/s a core, target {TARGET_REQUESTS_PER_CORE:.0f}",
            per_core >= TARGET_REQUESTS_PER_CORE,
        ),
        (
            f"first token +{added:.2f} ms, target {TARGET_FIRST_TOKEN_MS} ms",
            added <= TARGET_FIRST_TOKEN_MS,
        ),
    ]
    for text, is_met in verdicts:
        print(("met     " if is_met else "MISSED  ") + text)
    return all(is_met for _, is_met in verdicts)


def main() -> int:
    """Run the benchmark; returns the exit code."""
    ports = free_port(), free_port()
    engine, sidecar = (f"http://127.0.0.1:{port}" for port in ports)
    settings = {"REVISION": "bench", "ENGINE_URL": engine, "PORT": str(ports[1])}
    settings |= {"HOST": "127.0.0.1", "PRE_STOP_SECONDS": "0"}
    environment = {f"TUNESMITH_SIDECAR_{name}": text for name, text in settings.items()}
    with (
        process("tests.sidecar.standin", str(ports[0])),
        process("tunesmith_sidecar", **environment) as pid,
    ):
        return 0 if asyncio.run(measure(engine, sidecar, pid)) else 1


if __name__ == "__main__":
    sys.exit(main())
