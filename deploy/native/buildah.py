"""Builds images without a daemon, with ``buildah`` in a chroot, for the native cluster.

Base images come from Debian packages, so no container registry on the internet is needed. What a
build has to know about this machine (certificates, the package index) is mounted into it and
leaves no trace in the image; the Dockerfiles stay clean. Storage is in the cache: layers of an
unchanged requirements file survive the cluster.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from deploy.images import is_pushed
from deploy.native.roots import PYTHON, Root, unpack
from deploy.settings import REPOSITORY
from deploy.shell import Log

CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
_PIP_OPTIONS = ("index-url", "extra-index-url", "trusted-host", "timeout", "retries")


class Buildah:
    """Builds into storage under ``cache`` and pushes to a registry on this machine."""

    insecure = True

    def __init__(self, cache: Path, registry: str) -> None:
        """Use ``cache`` for layers and downloads."""
        self.registry = registry
        self._cache = cache
        storage = cache / "buildah"
        self._buildah: list[object] = [
            *("buildah", "--root", storage / "root", "--runroot", storage / "run"),
            *("--storage-driver", "overlay"),
        ]

    @property
    def base_image(self) -> str:
        """The stand-in for ``python:3.11-slim-bookworm``."""
        return self.full_name(PYTHON)

    def full_name(self, root: Root) -> str:
        """Return an image's full name."""
        return f"{self.registry}/{root.reference}"

    def ensure_root(self, root: Root, log: Log) -> None:
        """Make and push an image out of Debian packages, once."""
        full = self.full_name(root)
        if is_pushed(full, insecure=True):
            log.say(f"{full}: there already")
            return
        folder = self._cache / "roots" / f"{root.name}.part"
        unpack(root, folder, log)
        self._from_folder(folder, full, log, entrypoint=root.entrypoint)
        shutil.rmtree(folder)

    def ensure_single_binary(self, name: str, version: str, binary: Path, log: Log) -> str:
        """Make and push an image that holds one static program; return its full name."""
        full = f"{self.registry}/{name}:{version}"
        if not is_pushed(full, insecure=True):
            folder = self._cache / "roots" / f"image-{name}.part"
            shutil.rmtree(folder, ignore_errors=True)
            # No image is complete without these: /tmp for scratch, certificates for TLS.
            (folder / "tmp").mkdir(parents=True)
            (folder / "tmp").chmod(0o1777)
            shutil.copy2(binary.resolve(), folder / name)
            self._from_folder(folder, full, log, entrypoint=f"/{name}")
            shutil.rmtree(folder)
        return full

    def build(self, dockerfile: Path, reference: str, log: Log, context: Path = REPOSITORY) -> None:
        """Build ``dockerfile`` with the files of ``context`` and push it as ``reference``."""
        downloads = self._cache / "uv"
        downloads.mkdir(parents=True, exist_ok=True)
        log.run(
            [
                *(*self._buildah, "bud", "--isolation", "chroot", "--layers"),
                *("--tls-verify=false", "--file", dockerfile, "--tag", reference),
                *("--build-arg", f"BASE_IMAGE={self.base_image}"),
                *("--build-arg", "UV_CACHE_DIR=/uv-cache", "--volume", f"{downloads}:/uv-cache"),
                *self._host_mounts(),
                str(context),
            ]
        )
        self._push(reference, log)

    def _host_mounts(self) -> list[str]:
        """Mount what pip and uv need to know about this machine's network."""
        mounts = []
        config = ["[global]"]
        if CERTIFICATES.exists():
            mounts += ["--volume", f"{CERTIFICATES}:{CERTIFICATES}:ro"]
            config.append(f"cert = {CERTIFICATES}")
        config += [f"{key} = {value}" for key, value in _pip_options().items()]
        file = self._cache / "pip.conf"
        # The index's address may hold a password.
        file.touch(mode=0o600)
        file.write_text("\n".join(config) + "\n")
        uv = self._cache / "uv.toml"
        uv.touch(mode=0o600)
        # uv trusts only the authorities that it brings along unless it is told otherwise.
        uv.write_text("\n".join(["system-certs = true", *_uv_index()]) + "\n")
        mounts += ["--volume", f"{uv}:/etc/uv/uv.toml:ro"]
        return [*mounts, "--volume", f"{file}:/etc/pip.conf:ro"]

    def _from_folder(self, folder: Path, full: str, log: Log, entrypoint: str = "") -> None:
        dockerfile = "FROM scratch\nCOPY . /\n"
        if entrypoint:
            dockerfile += f'ENTRYPOINT ["{entrypoint}"]\n'
        command = [*self._buildah, "bud", "--isolation", "chroot", "--tag", full]
        log.run([*command, "--file", "-", folder], stdin=dockerfile)
        self._push(full, log)

    def _push(self, full: str, log: Log) -> None:
        # zstd packs and unpacks the trainer's gigabytes in two thirds of gzip's time.
        packing = ("--format", "oci", "--compression-format", "zstd", "--compression-level", "1")
        push = ("push", "--quiet", "--tls-verify=false", *packing)
        log.run([*self._buildah, *push, full, f"docker://{full}"])


def _uv_index() -> list[str]:
    """Return uv's setting for the package index that pip is told to use, if it is told one."""
    url = _pip_options().get("index-url")
    return [f'index-url = "{url}"'] if url else []


def _pip_options() -> dict[str, str]:
    """Return the machine's pip settings that concern where packages come from."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    ).stdout
    options = {}
    for line in listed.splitlines():
        key, _, value = line.partition("=")
        name = key.rpartition(".")[2]
        if name in _PIP_OPTIONS:
            options[name] = value.strip("'")
    for name in _PIP_OPTIONS:
        if given := os.environ.get("PIP_" + name.upper().replace("-", "_")):
            options[name] = given
    return options
