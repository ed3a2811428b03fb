"""How the operator carries a large fleet: thousands of FineTuneJobs, 5 % of them edited a minute.

``make bench-fleet`` (OBJECTS=10000 for the large one). Starts a real etcd and kube-apiserver and
fills them with suspended jobs before the operator starts. Then it edits jobs at random and watches
for the status that has seen each edit. Prints time from edit to reconcile and memory over time;
exits with 1 when a target is missed (p99 5 s; 150 MB and 30 kB an object).
"""

import argparse
import asyncio
import os
import random
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import orjson

from benchmarks.bench_operator import (
    NAMESPACE,
    REPOSITORY,
    Figures,
    create_all,
    job,
    operator_process,
    percentile,
    read_process,
    wait_until_ready,
)
from deploy.native.apiserver import ControlPlane, free_ports
from tunesmith_operator.kube.client import KubeClient
from tunesmith_operator.kube.connection import Connection, connect
from tunesmith_operator.kube.kinds import KINDS, Object
from tunesmith_operator.kube.transport import Request, Wire

SHARE_A_MINUTE = 0.05
TAKE_IN_SECONDS = 600.0
P99_TARGET_SECONDS = 5.0
BASE_MB, OBJECT_KB = 150.0, 30.0


@dataclass
class Fleet:
    """What is known of the jobs, by name."""

    observed: dict[str, int] = field(default_factory=dict)
    edited: dict[str, tuple[int, float]] = field(default_factory=dict)
    """Generation after the last edit, and when it was answered."""
    latencies: list[float] = field(default_factory=list)

    def saw(self, name: str, observed: int, at: float) -> None:
        """Note that a status has seen a generation."""
        self.observed[name] = max(observed, self.observed.get(name, 0))
        generation, since = self.edited.get(name, (0, 0.0))
        if generation and observed >= generation:
            self.latencies.append(at - since)
            del self.edited[name]


def suspended_job(number: int) -> Object:
    """A job that is looked after but runs nothing."""
    manifest = job(number)
    return {**manifest, "spec": {**manifest["spec"], "suspend": True}}


async def watch(connection: Connection, fleet: Fleet) -> None:
    """Take in every status."""
    url = f"{connection.host}{KINDS['FineTuneJob'].path(NAMESPACE)}?watch=true"
    timeout = aiohttp.ClientTimeout(total=None)
    async with (
        connection.watch_session(lambda _: None) as session,
        session.get(url, timeout=timeout) as stream,
    ):
        async for line in stream.content:
            at, body = time.monotonic(), orjson.loads(line)["object"]
            observed = body.get("status", {}).get("observedGeneration", 0)
            fleet.saw(body["metadata"]["name"], observed, at)


async def edit(client: KubeClient, fleet: Fleet, count: int, seconds: float) -> None:
    """Edit one job after the other, evenly over time."""
    rng = random.Random(7)
    pause = 60.0 / (count * SHARE_A_MINUTE)
    path, kind = KINDS["FineTuneJob"].path, "FineTuneJob"
    began = time.monotonic()
    for turn in range(int(seconds / pause)):
        name = f"bench-{rng.randrange(count):05d}"
        body = {"spec": {"runPolicy": {"ttlSecondsAfterFinished": 1000 + turn}}}
        content_type = "application/merge-patch+json"
        request = Request("patch", kind, "PATCH", path(NAMESPACE, name), {}, body, content_type)
        answer = await client._exchange(request)
        generation = orjson.loads(answer.body)["metadata"]["generation"]
        fleet.edited[name] = (generation, time.monotonic())
        fleet.saw(name, fleet.observed.get(name, 0), time.monotonic())
        await asyncio.sleep(max(0.0, began + (turn + 1) * pause - time.monotonic()))


async def wait_until_taken_in(fleet: Fleet, count: int) -> None:
    """Wait until every job has a status."""
    deadline = time.monotonic() + TAKE_IN_SECONDS
    while sum(1 for seen in fleet.observed.values() if seen) < count:
        if time.monotonic() > deadline:
            raise TimeoutError("not every job has a status, see operator.log")
        await asyncio.sleep(0.25)


async def measure(plane: ControlPlane, directory: Path, count: int, seconds: float) -> bool:
    """Run the benchmark once; print as it goes; return whether the targets are met."""
    fleet = Fleet()
    (port,) = free_ports(1)
    connection = await connect(plane.kubeconfig)
    client = KubeClient(Wire(connection))
    print(f"[bench] creating {count} suspended FineTuneJobs", flush=True)
    await create_all(client, map(suspended_job, range(count)))
    watching = asyncio.create_task(watch(connection, fleet))
    memory: list[float] = []
    with operator_process(directory, plane.kubeconfig, port) as pid:
        began = time.monotonic()
        await wait_until_ready(port)
        await wait_until_taken_in(fleet, count)
        print(f"[bench] all have a status after {time.monotonic() - began:.1f} s", flush=True)
        for minute in range(3):
            await edit(client, fleet, count, seconds / 3)
            figures = Figures()
            read_process(pid, figures)
            memory.append(figures.rss_mib * 1.048576)
            print(f"[bench] part {minute + 1} of 3: {memory[-1]:.0f} MB", flush=True)
        await asyncio.sleep(P99_TARGET_SECONDS + 1)
    watching.cancel()
    await connection.close()
    return report(fleet, memory, count)


def report(fleet: Fleet, memory: list[float], count: int) -> bool:
    """Print the table; return whether all targets are met."""
    if not fleet.latencies:
        print("no edit was seen: take more objects or seconds")
        return False
    limit = BASE_MB + count * OBJECT_KB / 1000
    p99 = percentile(fleet.latencies, 99)
    print(f"{count} objects, {len(fleet.latencies)} edits seen, {len(fleet.edited)} never")
    print(f"{'':32}{'Tunesmith':>10}{'target':>9}")
    print(f"{'edit to reconcile, p50 (s)':32}{percentile(fleet.latencies, 50):10.2f}")
    print(f"{'edit to reconcile, p99 (s)':32}{p99:10.2f}{P99_TARGET_SECONDS:9.1f}")
    print(f"{'memory, most (MB)':32}{max(memory):10.0f}{limit:9.0f}")
    print(f"{'memory, last to first part (MB)':32}{memory[-1] - memory[0]:+10.0f}")
    return not fleet.edited and p99 <= P99_TARGET_SECONDS and max(memory) <= limit


def main() -> int:
    """Run and judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--objects", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=90.0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tunesmith-bench-") as folder:
        directory = Path(folder)
        print(
            f"[bench] {os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}: others count"
        )
        with ControlPlane(directory / "control-plane") as plane:
            plane.install_crds(REPOSITORY / "crds")
            is_met = asyncio.run(measure(plane, directory, arguments.objects, arguments.seconds))
        return 0 if is_met else 1


if __name__ == "__main__":
    sys.exit(main())
