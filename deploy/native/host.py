"""Looks at the machine: what it is able to do, and which packages it lacks.

Facts are measured, never assumed: the same code must work with cgroup v1 and v2, and with and
without the capabilities that containers on cloud machines often lack. Called by ``cluster``.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deploy.shell import Log, StepError

CAP_SYS_RESOURCE = 24
CNI_FOLDERS = (Path("/usr/lib/cni"), Path("/opt/cni/bin"))
# program -> Debian package. The CNI plugins are no programs on the path and are looked at apart.
PACKAGES = {
    "containerd": "containerd",
    "runc": "runc",
    "buildah": "buildah",
    "mmdebstrap": "mmdebstrap",
    "iptables": "iptables",
    "ip": "iproute2",
    "conntrack": "conntrack",
    "docker-registry": "docker-registry",
    "openssl": "openssl",
    "mount": "mount",
}
# What tests run beside Kubernetes; those that need one are skipped where it cannot be had.
TEST_PACKAGES = {"haproxy": "haproxy", "prometheus": "prometheus"}
POLICY = Path("/usr/sbin/policy-rc.d")


@dataclass(frozen=True)
class Host:
    """What the cluster's configuration depends on."""

    cgroup_version: int
    can_raise_limits: bool
    cni_folder: Path


def why_not_native() -> str:
    """Return why this machine cannot run the native cluster, or an empty string."""
    if sys.platform != "linux":
        return "not Linux"
    if os.geteuid() != 0:
        return "not root"
    if missing_packages() and not shutil.which("apt-get"):
        return "no apt-get to install " + " ".join(missing_packages())
    return ""


def inspect_host() -> Host:
    """Look at cgroups, capabilities and the CNI plugins."""
    unified = Path("/sys/fs/cgroup/cgroup.controllers").exists()
    status = Path("/proc/self/status").read_text()
    effective = next(line for line in status.splitlines() if line.startswith("CapEff:"))
    return Host(
        cgroup_version=2 if unified else 1,
        can_raise_limits=bool(int(effective.split()[1], 16) >> CAP_SYS_RESOURCE & 1),
        cni_folder=_cni_folder() or CNI_FOLDERS[0],
    )


def missing_packages() -> list[str]:
    """Return the Debian packages whose programs are not here."""
    missing = _missing(PACKAGES)
    if not _cni_folder():
        missing.append("containernetworking-plugins")
    return missing


def install_packages(log: Log) -> None:
    """Install what is missing; their services are kept from starting."""
    missing = missing_packages()
    if not missing:
        log.say("nothing to install")
        return
    hint = apt_get(missing, log)
    if missing_packages():
        raise StepError(f"still missing: {' '.join(missing_packages())}", hint)


def install_test_packages(log: Log) -> None:
    """Install what only tests need, where that can be done; say what stays away."""
    missing = _missing(TEST_PACKAGES)
    if not missing:
        return
    if os.geteuid() == 0 and shutil.which("apt-get"):
        print(f"installing {' '.join(missing)}, log: {log.path}", file=sys.stderr)
        apt_get(missing, log)
    else:
        print(f"some tests are skipped without {' '.join(missing)}", file=sys.stderr)


def _missing(packages: Mapping[str, str]) -> list[str]:
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    return [package for name, package in packages.items() if not shutil.which(name, path=path)]


def apt_get(packages: list[str], log: Log) -> str:
    """Install packages without their services; return the hint for what is still missing."""
    env = {"DEBIAN_FRONTEND": "noninteractive"}
    hint = f"try by hand: apt-get install {' '.join(packages)}"
    with _no_services():
        log.run(["apt-get", "update"], env=env, hint=hint)
        install = ["apt-get", "install", "-y", "--no-install-recommends", *packages]
        log.run(install, env=env, hint=hint)
    return hint


@contextmanager
def _no_services() -> Iterator[None]:
    """Keep packages from starting their daemons: we run our own, elsewhere and otherwise."""
    if POLICY.exists():
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink()


def _cni_folder() -> Path | None:
    return next((folder for folder in CNI_FOLDERS if (folder / "bridge").exists()), None)
