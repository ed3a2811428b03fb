"""Chooses a cluster: one of three, all alike to the rest of ``deploy``.

``native`` builds Kubernetes on this machine, ``kind`` uses Docker, ``current`` takes the current
kube-context as it is. ``auto`` is the first of native, kind and current that can work here; the
reason is said aloud, because a surprising choice is worse than none.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from deploy.current import Current
from deploy.docker import why_no_docker
from deploy.images import Builder
from deploy.kind import Kind
from deploy.native.host import why_not_native
from deploy.native.steps import NativeCluster
from deploy.settings import Settings
from deploy.shell import Log, StepError
from deploy.steps import Step
from deploy.tools import how_to_install, missing

# What each needs to be there; native installs its own.
PROGRAMS = {
    "native": (),
    "kind": ("docker", "kind", "kubectl", "helm"),
    "current": ("docker", "kubectl", "helm"),
}
KINDS = tuple(PROGRAMS)
# File in the cache that holds the kind chosen last.
MEMORY = "cluster"


class Cluster(Protocol):
    """What the demo needs of a cluster.

    ``steps`` bring it up; among them are ``cluster`` (pods can run) and ``image building``
    (``builder`` may be used).
    """

    @property
    def name(self) -> str:
        """The word for it in ``CLUSTER``."""

    @property
    def kubeconfig(self) -> Path | None:
        """Its kubeconfig, or nothing for the current one."""

    @property
    def builder(self) -> Builder:
        """What makes images for it; usable after the step ``image building``."""

    def steps(self) -> list[Step]:
        """Return the steps that bring the cluster up."""

    def program(self, name: str) -> str:
        """Return the path of ``kubectl`` or ``helm``."""

    def storage_image(self) -> str:
        """Return the image of the S3 server."""

    def make_storage_image(self, log: Log) -> None:
        """Make the image of the S3 server unless it is there."""

    def serving_images(self) -> Mapping[str, str]:
        """Return images of what serves, by their names in the chart; the chart has the others."""

    def serving_steps(self) -> list[Step]:
        """Return the steps that make them; they need the step ``image building``."""

    def down(self) -> Sequence[Step]:
        """Return the steps that remove the cluster."""


def choose_cluster(settings: Settings) -> tuple[Cluster, str]:
    """Return the cluster that ``settings.cluster`` asks for, and why it is that one.

    The choice is remembered until ``forget_choice``, so that ``down`` removes what ``up`` made.
    Raises ``StepError`` when it cannot work here, with what is missing.
    """
    wish = settings.cluster
    memory = settings.cache / MEMORY
    if wish == "auto" and memory.exists():
        kind = memory.read_text().strip()
        return _make(kind, settings), "as the last time"
    if wish not in (*KINDS, "auto"):
        raise StepError(f"CLUSTER={wish} is not one of auto, {', '.join(KINDS)}")
    obstacles: dict[str, str] = {}
    for kind in KINDS if wish == "auto" else [wish]:
        obstacle = _why_not(kind, settings)
        if not obstacle:
            because = "it works here" if wish == "auto" else "you asked for it"
            memory.parent.mkdir(parents=True, exist_ok=True)
            memory.write_text(kind + "\n")
            passed = [f"not {other}: {why}" for other, why in obstacles.items()]
            return _make(kind, settings), "; ".join([because, *passed])
        obstacles[kind] = obstacle
    listed = "\n".join(f"  {kind}: {why}" for kind, why in obstacles.items())
    absent = how_to_install(missing(sorted({p for kind in obstacles for p in PROGRAMS[kind]})))
    hint = f"what is not installed can be:\n{absent}" if absent else "see deploy/README.md"
    raise StepError(f"no cluster can be had here:\n{listed}", hint)


def forget_choice(settings: Settings) -> None:
    """Choose afresh the next time."""
    (settings.cache / MEMORY).unlink(missing_ok=True)


def _why_not(kind: str, settings: Settings) -> str:
    if kind == "native":
        return why_not_native()
    absent = missing(PROGRAMS[kind])
    if absent:
        return f"not installed: {', '.join(absent)}"
    if obstacle := why_no_docker():
        return obstacle
    if kind == "kind":
        return ""
    if not settings.registry:
        return "REGISTRY is not set (an image registry that you and the cluster reach)"
    asked = subprocess.run(["kubectl", "version"], capture_output=True, check=False, timeout=30)
    return "" if asked.returncode == 0 else "the current kube-context does not answer"


def _make(kind: str, settings: Settings) -> Cluster:
    if kind == "native":
        return NativeCluster(settings)
    return Kind(settings) if kind == "kind" else Current(settings)
