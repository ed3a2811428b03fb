"""How fast and how small the operator is: 500 FineTuneJobs created at once.

``make bench-operator``. Starts a real etcd and kube-apiserver, runs the operator as a process of
its own beside them, creates the jobs as fast as the API server takes them and watches for each
one's first child Job. Prints a table beside the published peer; exits with 1 when a target is
missed. The clock of a job starts when its create call was answered.
"""

import argparse
import asyncio
import contextlib
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from deploy.native.apiserver import ControlPlane, free_ports
from tunesmith_operator.kube.client import KubeClient
from tunesmith_operator.kube.connection import Connection, connect
from tunesmith_operator.kube.kinds import KINDS, Object
from tunesmith_operator.kube.transport import Wire

REPOSITORY = Path(__file__).resolve().parent.parent
NAMESPACE = "default"
CREATORS = 16
GIVE_UP_SECONDS = 120.0

# Kubeflow training-operator 1.8.1 with its defaults, on the same kind of machine (2 cores).
PEER = {"all": 48.8, "p99": 46.6, "rss": 71.0}
TARGET = {"all": 6.0, "p99": 5.0, "rss": 150.0}


@dataclass
class Figures:
    """What was measured."""

    created: dict[str, float] = field(default_factory=dict)
    child: dict[str, float] = field(default_factory=dict)
    began: float = 0.0
    rss_mib: float = 0.0
    peak_mib: float = 0.0
    cpu_seconds: float = 0.0

    @property
    def latencies(self) -> list[float]:
        """Seconds from a job's creation to its first child, sorted."""
        return sorted(max(at - self.created[name], 0.0) for name, at in self.child.items())


def percentile(values: list[float], percent: float) -> float:
    """Nearest-rank percentile; ``values`` need not be sorted."""
    return sorted(values)[max(math.ceil(len(values) * percent / 100) - 1, 0)]


def job(number: int) -> Object:
    """A job as a user would write it."""
    return {
        "apiVersion": KINDS["FineTuneJob"].api_version,
        "kind": "FineTuneJob",
        "metadata": {"namespace": NAMESPACE, "name": f"bench-{number:05d}"},
        "spec": {
            "model": {"uri": "builtin://tiny"},
            "s3": {"secretRef": {"name": "s3-credentials"}},
            "dataset": {"train": {"uri": "s3://tunesmith/data/tiny.jsonl"}},
            "hyperparameters": {"maxSteps": 20, "learningRate": "5e-3"},
            "compute": {"gpusPerNode": 0},
            "output": {"uri": "s3://tunesmith/models/bench/"},
        },
    }


@contextlib.contextmanager
def operator_process(directory: Path, kubeconfig: Path, port: int) -> Iterator[int]:
    """Run the operator; yield its pid."""
    config = directory / "config.yaml"
    config.write_text(json.dumps({"trainerImage": "localhost/trainer:bench", "probePort": port}))
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY / "operator")}
    arguments = ["--config", str(config), "--kubeconfig", str(kubeconfig)]
    with (directory / "operator.log").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "tunesmith_operator", *arguments],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait(timeout=15)


async def wait_until_ready(port: int) -> None:
    """Wait until the operator leads and has listed everything."""
    deadline = time.monotonic() + 60
    async with aiohttp.ClientSession() as session:
        while time.monotonic() < deadline:
            with contextlib.suppress(aiohttp.ClientError):
                async with session.get(f"http://127.0.0.1:{port}/metrics") as answer:
                    text = await answer.text()
                    if answer.ok and "tunesmith_is_leader 1.0" in text:
                        async with session.get(f"http://127.0.0.1:{port}/readyz") as ready:
                            if ready.ok:
                                return
            await asyncio.sleep(0.1)
    raise TimeoutError("the operator did not become ready, see operator.log")


async def watch_children(connection: Connection, figures: Figures, count: int) -> None:
    """Note when each job's first child appears."""
    path = KINDS["Job"].path(NAMESPACE)
    timeout = aiohttp.ClientTimeout(total=GIVE_UP_SECONDS)
    async with (
        connection.watch_session(lambda _: None) as session,
        session.get(f"{connection.host}{path}?watch=true", timeout=timeout) as stream,
    ):
        async for line in stream.content:
            at = time.monotonic()
            # Parsing is dear beside the operator on two cores; the owner's name is enough.
            name = line.partition(b'"name":"bench-')[2][:5].decode()
            figures.child.setdefault(f"bench-{name}", at)
            if len(figures.child) == count:
                return


async def create_all(client: KubeClient, manifests: Iterable[Object]) -> dict[str, float]:
    """Create the objects, some at a time; return when the answer for each name came."""
    created: dict[str, float] = {}
    waiting = iter(manifests)

    async def create_some() -> None:
        for manifest in waiting:
            await client.create(manifest)
            created[manifest["metadata"]["name"]] = time.monotonic()

    await asyncio.gather(*(create_some() for _ in range(CREATORS)))
    return created


def read_process(pid: int, figures: Figures) -> None:
    """Note the operator's memory and CPU time."""
    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    figures.rss_mib = int(status["VmRSS"].split()[0]) / 1024
    figures.peak_mib = int(status["VmHWM"].split()[0]) / 1024
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    figures.cpu_seconds = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def measure(control_plane: ControlPlane, directory: Path, count: int) -> Figures:
    """Run the benchmark once."""
    figures = Figures()
    (port,) = free_ports(1)
    connection = await connect(control_plane.kubeconfig)
    with operator_process(directory, control_plane.kubeconfig, port) as pid:
        await wait_until_ready(port)
        before = Figures()
        read_process(pid, before)
        watching = asyncio.create_task(watch_children(connection, figures, count))
        await asyncio.sleep(0.5)
        figures.began = time.monotonic()
        figures.created = await create_all(KubeClient(Wire(connection)), map(job, range(count)))
        await asyncio.wait_for(watching, GIVE_UP_SECONDS)
        # Statuses and Events are still being written.
        await asyncio.sleep(3)
        read_process(pid, figures)
        figures.cpu_seconds -= before.cpu_seconds
    await connection.close()
    return figures


def report(figures: Figures, count: int) -> bool:
    """Print the table; return whether all targets are met."""
    whole = max(figures.child.values()) - figures.began
    creating = max(figures.created.values()) - figures.began
    rows = [
        (f"all {count} have a child (s)", whole, TARGET["all"], PEER["all"]),
        ("create to child, p99 (s)", percentile(figures.latencies, 99), TARGET["p99"], PEER["p99"]),
        ("operator RSS, peak (MiB)", figures.peak_mib, TARGET["rss"], PEER["rss"]),
    ]
    print(f"{'':32}{'Tunesmith':>10}{'target':>9}{'Kubeflow 1.8.1':>16}{'ratio':>8}")
    for name, value, target, peer in rows:
        print(f"{name:32}{value:10.2f}{target:9.1f}{peer:16.1f}{peer / value:7.1f}x")
    print(f"{'create to child, p50 (s)':32}{percentile(figures.latencies, 50):10.2f}")
    print(f"{'creating them took (s)':32}{creating:10.2f}")
    print(f"{'operator RSS, settled (MiB)':32}{figures.rss_mib:10.2f}")
    print(f"{'operator CPU (s)':32}{figures.cpu_seconds:10.2f}")
    return all(value <= target for _, value, target, _ in rows)


def main() -> int:
    """Run and judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=500)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tunesmith-bench-") as folder:
        directory = Path(folder)
        print("[bench] starting etcd and kube-apiserver")
        with ControlPlane(directory / "control-plane") as control_plane:
            control_plane.install_crds(REPOSITORY / "crds")
            load = os.getloadavg()[0]
            print(f"[bench] creating {arguments.jobs} FineTuneJobs")
            print(
                f"[bench] {os.cpu_count()} cores, load average {load:.1f} before it: others count"
            )
            figures = asyncio.run(measure(control_plane, directory, arguments.jobs))
        return 0 if report(figures, arguments.jobs) else 1


if __name__ == "__main__":
    sys.exit(main())
