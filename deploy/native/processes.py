"""Starts, finds and ends the long-running programs of one native cluster.

A process is ours only when it is one of our programs *and* its command line names our state
folder; a pid file alone is never trusted, because pids are used again after a reboot. Containers
are found by what cannot be faked: a root file system that lives below a folder of ours.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
PROGRAMS = frozenset(
    {
        "etcd",
        "kube-apiserver",
        "kube-controller-manager",
        "kube-scheduler",
        "kubelet",
        "kube-proxy",
        "containerd",
        "containerd-shim-runc-v2",
        "docker-registry",
    }
)

# Programs that keep service rules up to date, alone or as a part of them.
CLUSTERS = frozenset({"kubelet", "kube-proxy", "k3s", "k3s-server", "rke2", "kubelite", "k0s"})


@dataclass(frozen=True)
class Process:
    """A live process as ``/proc`` shows it."""

    pid: int
    program: str
    arguments: tuple[str, ...]


def start(state: Path, name: str, command: list[str | Path]) -> None:
    """Start ``command`` so that it outlives us; its output goes to ``state/log/name.log``."""
    log = state / "log" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=state,
            start_new_session=True,
        )
    (state / f"{name}.pid").write_text(f"{process.pid}\n")


def find(state: Path) -> list[Process]:
    """Return our running programs: known by name, and with the state folder in their arguments."""
    return [
        process
        for process in _all_processes()
        if process.program in PROGRAMS
        and any(f"{state}/" in f"{word}/" for word in process.arguments[1:])
    ]


def find_containers(*folders: Path) -> list[int]:
    """Return the pids whose root file system is an overlay below one of the folders."""
    pids = []
    for entry in PROC.iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            for line in (entry / "mountinfo").read_text(errors="replace").splitlines():
                fields = line.split(" ")
                if fields[4] != "/" or "overlay" not in fields:
                    continue
                if any(f"{folder}/" in fields[-1] for folder in folders):
                    pids.append(int(entry.name))
    return pids


def find_foreign_cluster(state: Path) -> list[Process]:
    """Return the processes of somebody else's cluster on this machine's own network.

    A cluster in containers, such as kind's, has a network of its own and does not count.
    """
    ours = {process.pid for process in find(state)}
    return [
        process
        for process in _all_processes()
        if process.program in CLUSTERS and process.pid not in ours and _shares_network(process.pid)
    ]


def is_running(state: Path, name: str) -> bool:
    """Say whether our program ``name`` runs, whatever its pid file says."""
    return any(process.program == name for process in find(state))


def end(pids: Iterable[int], grace_seconds: float) -> None:
    """Ask processes to end, wait, then kill the rest and wait until they are gone."""
    left = set(pids)
    _signal_all(left, signal.SIGTERM)
    left = _wait(left, grace_seconds)
    _signal_all(left, signal.SIGKILL)
    _wait(left, 5)


def _shares_network(pid: int) -> bool:
    try:
        return (PROC / str(pid) / "ns/net").readlink() == (PROC / "self/ns/net").readlink()
    except OSError:
        return False


def _signal_all(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _wait(pids: set[int], seconds: float) -> set[int]:
    deadline = time.monotonic() + seconds
    while pids and time.monotonic() < deadline:
        for pid in pids:
            # Our own children stay as zombies until somebody asks for them.
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        pids = {pid for pid in pids if _is_alive(pid)}
        if pids:
            time.sleep(0.05)
    return pids


def _is_alive(pid: int) -> bool:
    try:
        # The state follows the name, which may itself hold spaces and parentheses.
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _all_processes() -> list[Process]:
    found = []
    for entry in PROC.iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if words[0]:
                found.append(Process(int(entry.name), Path(words[0]).name, tuple(words)))
    return found
