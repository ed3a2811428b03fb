"""The native cluster as steps, side by side where they do not need each other.

The long pole is the Kubernetes build on two cores; packages, the base image and the registry
come up beside it. Called through ``deploy.cluster``.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources
from pathlib import Path

from deploy.native import host, node
from deploy.native.binaries import RECIPES, ensure_binaries
from deploy.native.buildah import Buildah
from deploy.native.cluster import Native
from deploy.native.roots import HAPROXY, LLAMA_CPP, PYTHON, Root
from deploy.settings import Settings
from deploy.shell import Log
from deploy.steps import Step

_VERSIONS = {recipe.name: recipe.version for recipe in RECIPES}
_SERVING = {"haproxy": HAPROXY, "llamaCpp": LLAMA_CPP}
FORWARD = "forward . /etc/resolv.conf"


class NativeCluster:
    """A ``deploy.cluster.Cluster`` that is built on this machine."""

    name = "native"

    def __init__(self, settings: Settings) -> None:
        """Describe the cluster; nothing is started."""
        self._settings = settings
        self._native = Native(settings)
        self.kubeconfig: Path | None = settings.kubeconfig

    @property
    def builder(self) -> Buildah:
        """Builds images with buildah into the local registry."""
        return Buildah(self._settings.cache, self._native.registry)

    def steps(self) -> list[Step]:
        """Return the steps that bring the cluster up."""
        native = self._native
        return [
            Step("packages", host.install_packages),
            Step("clean leftovers", native.prepare, ("packages",)),
            Step("remove old files", native.remove_old, ("clean leftovers",)),
            Step("image registry", native.start_registry, ("clean leftovers",)),
            Step("base image", self._base_image, ("image registry",)),
            Step("image building", lambda log: log.say("ready"), ("base image",)),
            Step("build Kubernetes", _building("etcd", "kubelet")),
            Step(
                "control plane",
                native.start_control_plane,
                ("build Kubernetes", "clean leftovers"),
            ),
            Step("build CoreDNS", _building("coredns", "pause"), ("build Kubernetes",)),
            Step("cluster images", self._cluster_images, ("build CoreDNS", "image registry")),
            Step("node", native.start_node, ("control plane", "cluster images")),
            Step("cluster", self._cluster_dns, ("node",)),
            # One after the other: a Go build takes all the cores there are.
            Step("build Helm", _building("helm"), ("build CoreDNS",)),
            Step("build S3 server", _building("versitygw"), ("build Helm",)),
        ]

    def down(self) -> list[Step]:
        """Return the steps that remove the cluster."""
        return [Step("remove the cluster", self._native.remove)]

    def program(self, name: str) -> str:
        """Return the path of ``kubectl`` or ``helm`` from the cache."""
        return str(ensure_binaries([name])[name])

    def storage_image(self) -> str:
        """Return the image of the S3 server; the step ``storage image`` makes it."""
        return f"{self._native.registry}/versitygw:{_VERSIONS['versitygw']}"

    def make_storage_image(self, log: Log) -> None:
        """Build the S3 server and its image."""
        self._push_program("versitygw", log)

    def serving_images(self) -> dict[str, str]:
        """Return the images of what serves, by their names in the chart's values."""
        return {name: self.builder.full_name(root) for name, root in _SERVING.items()}

    def serving_steps(self) -> list[Step]:
        """Return the steps that make them; they may begin once images can be built."""
        return [
            Step(f"{root.name} image", self._making(root), ("image building",))
            for root in _SERVING.values()
        ]

    def _making(self, root: Root) -> Callable[[Log], None]:
        def make(log: Log) -> None:
            self.builder.ensure_root(root, log)

        return make

    def _base_image(self, log: Log) -> None:
        self.builder.ensure_root(PYTHON, log)

    def _cluster_images(self, log: Log) -> None:
        for name in ("pause", "coredns"):
            self._push_program(name, log)

    def _push_program(self, name: str, log: Log) -> None:
        binary = ensure_binaries([name], log)[name]
        self.builder.ensure_single_binary(name, _VERSIONS[name], binary, log)

    def _cluster_dns(self, log: Log) -> None:
        manifest = resources.files("deploy.manifests").joinpath("coredns.yaml").read_text()
        image = f"{self._native.registry}/coredns:{_VERSIONS['coredns']}"
        text = (
            manifest.replace("${IMAGE}", image)
            .replace("${DNS_IP}", node.DNS_IP)
            .replace("${FORWARD}", FORWARD if node.resolver_forwards() else "")
        )
        self._native.kubectl(log, ["apply", "-f", "-"], stdin=text)
        rollout = ["rollout", "status", "deployment/coredns", "-n", "kube-system", "--timeout=90s"]
        self._native.kubectl(log, rollout)


def _building(*programs: str) -> Callable[[Log], None]:
    def build(log: Log) -> None:
        ensure_binaries(programs, log)

    return build
