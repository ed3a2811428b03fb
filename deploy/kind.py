"""A kind cluster with a registry beside it, for machines with Docker.

As in kind's own guide: the registry is a container on kind's network, and every node is told that
``localhost:PORT`` means it.
"""

from __future__ import annotations

from pathlib import Path

from deploy.docker import Docker
from deploy.settings import Settings
from deploy.shell import Log, StepError
from deploy.steps import Step

CLUSTER = "tunesmith"
REGISTRY = "tunesmith-registry"
PORT = 5001
CONFIG = """\
kind: Cluster
apiVersion: kind.x-k8s.io/v1alpha4
containerdConfigPatches:
  - |-
    [plugins."io.containerd.grpc.v1.cri".registry]
      config_path = "/etc/containerd/certs.d"
"""


class Kind:
    """A ``deploy.cluster.Cluster`` in Docker containers."""

    name = "kind"

    def __init__(self, settings: Settings) -> None:
        """Describe the cluster; nothing is started."""
        self.kubeconfig: Path | None = settings.cache / "kind.kubeconfig"
        self.builder = Docker(f"localhost:{PORT}", insecure=True)

    def steps(self) -> list[Step]:
        """Return the steps that bring the cluster up."""
        return [
            Step("image building", self._start_registry),
            Step("kind", self._create),
            Step("cluster", self._connect, ("kind", "image building")),
        ]

    def down(self) -> list[Step]:
        """Return the steps that remove the cluster and its registry."""
        return [
            Step("remove the cluster", self._delete),
            Step("remove the registry", lambda log: _try(log, "docker", "rm", "-f", REGISTRY)),
        ]

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

    def _start_registry(self, log: Log) -> None:
        if log.succeeds(["docker", "start", REGISTRY]):
            return
        port = f"127.0.0.1:{PORT}:5000"
        log.run(["docker", "run", "-d", "--name", REGISTRY, "-p", port, "registry:2"])

    def _create(self, log: Log) -> None:
        if CLUSTER not in log.run(["kind", "get", "clusters"]).split():
            log.run(["kind", "create", "cluster", "--name", CLUSTER, "--config=-"], stdin=CONFIG)
        text = log.run(["kind", "get", "kubeconfig", "--name", CLUSTER])
        assert self.kubeconfig
        self.kubeconfig.touch(mode=0o600)
        self.kubeconfig.write_text(text)

    def _connect(self, log: Log) -> None:
        networks = log.run(
            ["docker", "inspect", "-f", "{{json .NetworkSettings.Networks}}", REGISTRY]
        )
        if '"kind"' not in networks:
            log.run(["docker", "network", "connect", "kind", REGISTRY])
        folder = f"/etc/containerd/certs.d/localhost:{PORT}"
        host = f'[host."http://{REGISTRY}:5000"]\n'
        nodes = log.run(["kind", "get", "nodes", "--name", CLUSTER]).split()
        if not nodes:
            raise StepError(
                "the kind cluster has no nodes", f"kind delete cluster --name {CLUSTER}"
            )
        for node in nodes:
            write = f"mkdir -p {folder} && cat > {folder}/hosts.toml"
            log.run(["docker", "exec", "-i", node, "sh", "-c", write], stdin=host)

    def _delete(self, log: Log) -> None:
        log.run(["kind", "delete", "cluster", "--name", CLUSTER])


def _try(log: Log, *command: str) -> None:
    log.succeeds(command)
