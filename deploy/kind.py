"""A kind cluster with a registry beside it, for machines with Docker.

As in kind's own guide: the registry is a container on kind's network, and every node is told that
``localhost:PORT`` means it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from deploy.docker import Docker
from deploy.images import answers
from deploy.settings import Settings
from deploy.shell import Log, StepError
from deploy.steps import Step

CLUSTER = "tunesmith"
REGISTRY = "tunesmith-registry"
PORT = 5001
WAIT_SECONDS = 180
# Were images pulled one at a time, the operator's would wait minutes for the trainer's gigabytes.
# Nodes of kind 0.27 and later look into certs.d unasked.
CONFIG = """\
kind: Cluster
apiVersion: kind.x-k8s.io/v1alpha4
kubeadmConfigPatches:
  - |
    apiVersion: kubelet.config.k8s.io/v1beta1
    kind: KubeletConfiguration
    serializeImagePulls: false
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
        self._kubeconfig = settings.cache / "kind.kubeconfig"
        self.kubeconfig: Path | None = self._kubeconfig
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
            Step("remove the registry", _remove_registry),
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
        port = f"127.0.0.1:{PORT}:5000"
        hint = f"is port {PORT} taken? else: docker rm -f -v {REGISTRY}, then the same again"
        if log.succeeds(["docker", "inspect", "-f", "{{.State.Status}}", REGISTRY]):
            log.run(["docker", "start", REGISTRY], hint=hint)
        else:
            run = ["docker", "run", "-d", "--name", REGISTRY, "-p", port, "registry:2"]
            log.run(run, hint=hint)
        # Docker takes connections before the registry does, and then no image would be found there.
        _wait(
            lambda: answers(self.builder.registry), "the image registry", f"docker logs {REGISTRY}"
        )

    def _create(self, log: Log) -> None:
        # A file of its own: the person's kubeconfig and its current context are left alone.
        which = ["--name", CLUSTER, "--kubeconfig", self._kubeconfig]
        if CLUSTER not in log.run(["kind", "get", "clusters"]).split():
            log.run(["kind", "create", "cluster", *which, "--config=-"], stdin=CONFIG)
            return
        # They are stopped when somebody stopped them, or Docker.
        log.run(["docker", "start", *self._nodes(log)])
        log.run(["kind", "export", "kubeconfig", *which])

    def _connect(self, log: Log) -> None:
        networks = log.run(
            ["docker", "inspect", "-f", "{{json .NetworkSettings.Networks}}", REGISTRY]
        )
        if '"kind"' not in networks:
            log.run(["docker", "network", "connect", "kind", REGISTRY])
        folder = f"/etc/containerd/certs.d/localhost:{PORT}"
        host = f'[host."http://{REGISTRY}:5000"]\n'
        for node in self._nodes(log):
            write = f"mkdir -p {folder} && cat > {folder}/hosts.toml"
            log.run(["docker", "exec", "-i", node, "sh", "-c", write], stdin=host)
        hint = f"docker logs {CLUSTER}-control-plane; kind delete cluster --name {CLUSTER}"
        _wait(lambda: self._can_run_pods(log), "the cluster's node", hint)

    def _can_run_pods(self, log: Log) -> bool:
        kubectl = [self.program("kubectl"), f"--kubeconfig={self._kubeconfig}"]
        ready = ["wait", "node", "--all", "--for=condition=Ready", "--timeout=5s"]
        # No pod is taken before it is there, which may be later than the node.
        account = ["get", "serviceaccount", "default", "--namespace=default"]
        return log.succeeds([*kubectl, *ready]) and log.succeeds([*kubectl, *account])

    def _nodes(self, log: Log) -> list[str]:
        nodes = log.run(["kind", "get", "nodes", "--name", CLUSTER]).split()
        if not nodes:
            raise StepError(
                "the kind cluster has no nodes", f"kind delete cluster --name {CLUSTER}"
            )
        return nodes

    def _delete(self, log: Log) -> None:
        log.run(["kind", "delete", "cluster", "--name", CLUSTER, "--kubeconfig", self._kubeconfig])
        self._kubeconfig.unlink(missing_ok=True)


def _remove_registry(log: Log) -> None:
    # With its volume: gigabytes of images that nothing would ever find again.
    log.succeeds(["docker", "rm", "-f", "-v", REGISTRY])


def _wait(is_up: Callable[[], bool], what: str, hint: str) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not is_up():
        if time.monotonic() > deadline:
            raise StepError(f"{what} does not answer after {WAIT_SECONDS} s", hint)
        time.sleep(0.5)
