"""Removes what a native cluster left on the machine, whether it was stopped, killed or rebooted.

Order matters: programs that would start others again go first, then containers, then mounts, then
network. Only what carries our folders or our names is touched: processes by ``processes``,
mounts below the state and the images, the node's bridge, and iptables rules that name our network.
The ``KUBE-`` chains carry no owner; they go only when nobody else runs a kube-proxy here.
Called before a start and by ``down``.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from pathlib import Path

from deploy.native import processes
from deploy.native.node import NETWORK, NODE_BRIDGE
from deploy.shell import Log

_ASIDE = ".old-"
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
TABLES = ("filter", "nat", "mangle")
# The kubelet first (it restarts pods), containerd before its shims (it would report to them).
STOP_ORDER = (
    ("kubelet", "kube-proxy", "kube-scheduler", "kube-controller-manager"),
    ("containerd",),
    ("containerd-shim-runc-v2",),
    ("kube-apiserver",),
    ("etcd", "docker-registry"),
)


def clean(state: Path, images: Path, log: Log) -> None:
    """Bring the machine back to where no cluster of ``state`` ever ran. Safe to repeat.

    ``images`` is containerd's folder, which stays.
    """
    ran = (state / "log").exists()
    _end_processes(state, images, log)
    for folder in (state, images):
        unmount_below(folder, log)
    _remove_interfaces(log)
    if ran and not processes.find_foreign_cluster(state):
        _remove_rules(log)
    for pid_file in state.glob("*.pid"):
        pid_file.unlink()
    _remove_cgroups()


def set_aside(folder: Path, log: Log) -> None:
    """Make a folder's place free; call ``clean`` first, and ``remove_set_aside`` later.

    Unpacked images are a hundred thousand files: deleting them takes a minute that nobody need
    wait for.
    """
    if _mounts(folder):
        log.say(f"mounts are left, {folder} is kept")
    elif folder.exists():
        folder.rename(folder.with_name(f"{folder.name}{_ASIDE}{time.time_ns()}"))


def set_aside_of_other_boot(images: Path, log: Log) -> None:
    """Set containerd's folder aside unless it was only used since the machine was last started.

    Programs that were killed leave it as containerd expects it; a machine that went down may not
    have written all of it to the disk, and nothing would notice a file that is half there.
    """
    note, boot = images / "boot_id", BOOT_ID.read_text()
    if images.exists() and (not note.exists() or note.read_text() != boot):
        set_aside(images, log)
    images.mkdir(parents=True, exist_ok=True)
    note.write_text(boot)


def remove_set_aside(folder: Path) -> None:
    """Delete what was set aside, also by earlier runs that were interrupted."""
    for old in folder.parent.glob(f"{folder.name}{_ASIDE}*"):
        shutil.rmtree(old, ignore_errors=True)


def _end_processes(state: Path, images: Path, log: Log) -> None:
    for programs in STOP_ORDER:
        found = [p for p in processes.find(state) if p.program in programs]
        for process in found:
            log.say(f"ending {process.program} ({process.pid})")
        if programs == ("containerd-shim-runc-v2",):
            # While a shim lives, ending its containers first lets it clean up after them.
            containers = processes.find_containers(state, images)
            log.say(f"ending {len(containers)} container processes")
            processes.end(containers, grace_seconds=1)
        processes.end([p.pid for p in found], grace_seconds=8)


def _mounts(folder: Path) -> list[str]:
    """Return mount points below ``folder``, deepest last mounted first."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    points = [re.sub(r"\\(\d{3})", _octal, line.split(" ")[4]) for line in lines]
    return [point for point in reversed(points) if point.startswith(f"{folder}/")]


def _octal(match: re.Match[str]) -> str:
    return chr(int(match.group(1), 8))


def unmount_below(folder: Path, log: Log) -> None:
    """Unmount everything below a folder of ours."""
    for point in _mounts(folder):
        if not log.succeeds(["umount", point]):
            # Lazily, so that a reader in another namespace cannot keep it in our way.
            log.succeeds(["umount", "-l", point])


def _remove_interfaces(log: Log) -> None:
    # The pods' cables went with their network namespaces, once those were unmounted.
    if Path(f"/sys/class/net/{NODE_BRIDGE}").exists():
        log.run(["ip", "link", "delete", NODE_BRIDGE])


def _remove_rules(log: Log) -> None:
    """Remove the rules of our network and the service rules, in IPv4 and IPv6."""
    for family in ("iptables", "ip6tables"):
        if not shutil.which(f"{family}-save"):
            continue
        for table in TABLES:
            saved = log.run([f"{family}-save", "-t", table]).splitlines()
            batch = removal_batch(table, saved)
            if batch:
                log.run([f"{family}-restore", "--noflush"], stdin=batch)


def removal_batch(table: str, saved: list[str]) -> str:
    """Return ``iptables-restore`` input that removes our rules from ``saved``, or nothing.

    A chain is ours when its name starts with ``KUBE-``, or when it is a ``CNI-`` chain that a rule
    with our network's name in its comment jumps to or lies in.
    """
    chains = {line[1:].split()[0] for line in saved if line.startswith(":")}
    ours = {chain for chain in chains if chain.startswith("KUBE-")}
    named = [line for line in saved if f'name: \\"{NETWORK}\\"' in line]
    for line in named:
        ours |= {word for word in line.split() if word in chains and word.startswith("CNI-")}
    # A rule in a chain that is not ours leads into one that is: only that rule goes.
    jumps = [
        line.replace("-A ", "-D ", 1)
        for line in saved
        if line.startswith("-A ")
        and line.split()[1] not in ours
        and (line in named or ours & set(line.split()))
    ]
    if not ours and not jumps:
        return ""
    flush = [f"-F {chain}" for chain in sorted(ours)]
    delete = [f"-X {chain}" for chain in sorted(ours)]
    return "\n".join([f"*{table}", *jumps, *flush, *delete, "COMMIT", ""])


def _remove_cgroups() -> None:
    """Remove the pods' control groups. ``rmdir`` refuses while a process is in one."""
    for root in (Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").glob("*")):
        for folder, _, _ in os.walk(root / "kubepods", topdown=False):
            with contextlib.suppress(OSError):
                Path(folder).rmdir()
