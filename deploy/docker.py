"""Builds images with Docker, for the clusters that have it: kind and the current context."""

from __future__ import annotations

import subprocess
from pathlib import Path

from deploy.images import is_pushed
from deploy.native.binaries import RECIPES
from deploy.settings import REPOSITORY
from deploy.shell import Log


class Docker:
    """Builds with the Docker daemon and pushes to ``registry``."""

    def __init__(self, registry: str, *, insecure: bool) -> None:
        """``insecure`` registries speak plain HTTP: the local one of kind."""
        self.registry = registry
        self.insecure = insecure

    def build(self, dockerfile: Path, reference: str, log: Log, context: Path = REPOSITORY) -> None:
        """Build ``dockerfile`` with the files of ``context`` and push it as ``reference``."""
        log.run(["docker", "build", "-f", dockerfile, "-t", reference, context])
        log.run(["docker", "push", reference], hint=f"log in first: docker login {self.registry}")

    def storage_image(self) -> str:
        """Return the name of the S3 server's image."""
        version = next(recipe.version for recipe in RECIPES if recipe.name == "versitygw")
        return f"{self.registry}/versitygw:{version}"

    def make_storage_image(self, log: Log) -> None:
        """Build and push the S3 server's image unless the registry has it."""
        full = self.storage_image()
        if is_pushed(full, insecure=self.insecure):
            return
        folder = REPOSITORY / "deploy" / "manifests"
        version = f"VERSION={full.rpartition(':')[2]}"
        file = folder / "Dockerfile.storage"
        log.run(["docker", "build", "-f", file, "--build-arg", version, "-t", full, folder])
        log.run(["docker", "push", full])

    def remove_images(self, log: Log) -> None:
        """Remove from Docker what was built for this registry. Its build cache is everybody's."""
        # By name: an id may have other names, of somebody else's.
        named = ["docker", "images", "--format", "{{.Repository}}:{{.Tag}}"]
        ours = [f"--filter=reference={self.registry}/{depth}" for depth in ("*", "*/*")]
        if images := sorted(set(log.run([*named, *ours]).split())):
            log.run(["docker", "rmi", *images])


def why_no_docker() -> str:
    """Return why the Docker daemon is of no use to this user, or an empty string."""
    ask = ["docker", "version", "--format", "{{.Server.Version}}"]
    try:
        asked = subprocess.run(ask, capture_output=True, text=True, check=False, timeout=30)
    except subprocess.TimeoutExpired:
        return "docker does not answer"
    said = asked.stderr.strip().splitlines() or ["docker does not work"]
    return "" if asked.returncode == 0 else said[-1]
