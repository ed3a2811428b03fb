"""Says which programs a cluster needs that are not here, and the command that installs each.

Commands are those of the tools' own documentation; nothing is installed. Called by ``cluster``.
"""

from __future__ import annotations

import platform
import shutil
from collections.abc import Sequence

_BIN = "/usr/local/bin"
_KIND = "https://github.com/kubernetes-sigs/kind/releases/latest/download/kind-linux-{arch}"
_KUBECTL = (
    "https://dl.k8s.io/release/$(curl -fsSL https://dl.k8s.io/release/stable.txt)"
    "/bin/linux/{arch}/kubectl"
)
_LINUX = {
    "docker": "curl -fsSL https://get.docker.com | sudo sh",
    "kind": f"sudo curl -fLo {_BIN}/kind {_KIND} && sudo chmod +x {_BIN}/kind",
    "kubectl": f"sudo curl -fLo {_BIN}/kubectl {_KUBECTL} && sudo chmod +x {_BIN}/kubectl",
    "helm": "curl -fsSL https://raw.githubusercontent.com/helm/helm/main/scripts/get-helm-3 | bash",
}
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def missing(programs: Sequence[str]) -> list[str]:
    """Return the programs that are not on the path."""
    return [program for program in programs if not shutil.which(program)]


def how_to_install(programs: Sequence[str]) -> str:
    """Return a line with the command for each program; empty for none."""
    return "\n".join(f"  {program}: {_command(program)}" for program in programs)


def _command(program: str) -> str:
    if platform.system() == "Darwin":
        return f"brew install {'--cask ' if program == 'docker' else ''}{program}"
    machine = platform.machine()
    return _LINUX[program].replace("{arch}", _ARCHITECTURES.get(machine, machine))
