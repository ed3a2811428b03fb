"""Where things are kept, and what the environment may say about it.

Read once, at the start of a command. Everything outside the checkout lives under two folders:
``cache`` (expensive to make, useful to the next cluster) and ``state`` (one running cluster).
Nothing else in ``deploy`` reads the environment to find a path.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent

# A unix socket's path has room for 107 characters, and the longest of ours is 42 below the state.
LONGEST_STATE_PATH = 107 - 42


@dataclass(frozen=True)
class Settings:
    """The folders of this run and the wishes of the caller."""

    cache: Path
    state: Path
    cluster: str
    registry: str

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig of the native cluster."""
        return self.state / "admin.kubeconfig"

    @property
    def references(self) -> Path:
        """The full names of the images that were built last."""
        return self.state / "images.json"

    @property
    def images(self) -> Path:
        """The native cluster's images, unpacked: containerd's, kept from cluster to cluster."""
        return self.cache / "containerd"

    @property
    def logs(self) -> Path:
        """One log for each step of the last run; the cluster's own are under ``state/log``."""
        return self.cache / "logs"


def read_settings() -> Settings:
    """Read ``TUNESMITH_CACHE``, ``TUNESMITH_STATE``, ``CLUSTER`` and ``REGISTRY``.

    Raises ``ValueError`` when the state's path is too long for the sockets below it.
    """
    cache = Path(os.environ.get("TUNESMITH_CACHE") or Path.home() / ".cache" / "tunesmith")
    state = Path(os.environ.get("TUNESMITH_STATE") or cache / "native")
    state = state.expanduser().absolute()
    if len(str(state)) > LONGEST_STATE_PATH:
        raise ValueError(f"TUNESMITH_STATE is too long for unix sockets: {state}")
    return Settings(
        cache=cache.expanduser().absolute(),
        state=state,
        cluster=os.environ.get("CLUSTER") or "auto",
        registry=os.environ.get("REGISTRY", ""),
    )
