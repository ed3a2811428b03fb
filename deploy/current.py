"""The current kube-context as the demo's cluster. Asks nothing of the machine but Docker.

Images go to ``REGISTRY``, which both this machine and the cluster must reach. Nothing but the
demo's own namespaces is removed from it afterwards.
"""

from __future__ import annotations

from pathlib import Path

from deploy.docker import Docker
from deploy.settings import Settings
from deploy.shell import Log
from deploy.steps import Step


class Current:
    """A ``deploy.cluster.Cluster`` that exists already."""

    name = "current"
    kubeconfig: Path | None = None

    def __init__(self, settings: Settings) -> None:
        """Describe the cluster."""
        # Docker, too, speaks plain HTTP to a registry on this machine.
        is_local = settings.registry.startswith(("localhost:", "127.0.0.1:"))
        self.builder = Docker(settings.registry, insecure=is_local)

    def steps(self) -> list[Step]:
        """Only look whether it answers."""
        return [
            Step("image building", lambda log: _run(log, "docker", "version")),
            Step("cluster", lambda log: _run(log, "kubectl", "get", "nodes")),
        ]

    def down(self) -> list[Step]:
        """The cluster is not ours to remove."""
        return []

    def program(self, name: str) -> str:
        """``kubectl`` and ``helm`` are the machine's."""
        return name

    def storage_image(self) -> str:
        """Return the image of the S3 server."""
        return self.builder.storage_image()

    def make_storage_image(self, log: Log) -> None:
        """Build the S3 server's image."""
        self.builder.make_storage_image(log)

    def serving_images(self) -> dict[str, str]:
        """The chart names public ones."""
        return {}

    def serving_steps(self) -> list[Step]:
        """Nothing has to be made."""
        return []


def _run(log: Log, *command: str) -> None:
    log.run(command)
