"""Builds the operator's and the trainer's image, and only when something in them changed.

An image's tag is a digest of everything that goes into it (the Dockerfile and the files its
``COPY`` lines name), so a tag that the registry already has need not be built, pushed or rolled
out again. How an image is built differs between clusters: see ``Builder``.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from deploy.settings import REPOSITORY
from deploy.shell import Log

NAMES = ("operator", "trainer")
# What .dockerignore keeps out, as far as it lies in folders that are copied.
IGNORED = ("__pycache__", ".pyc", ".egg-info")
# A registry hides what one does not ask for. Docker with containerd's store of images pushes an
# index, because of the attestations beside the image.
_KINDS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)


class Builder(Protocol):
    """Makes images and pushes them to one registry."""

    registry: str
    insecure: bool

    def build(self, dockerfile: Path, reference: str, log: Log, context: Path = REPOSITORY) -> None:
        """Build ``dockerfile`` with the files of ``context`` and push it as ``reference``."""


def reference(name: str, registry: str) -> str:
    """Return the full name of image ``name`` as it is in the checkout now."""
    return f"{registry}/tunesmith/{name}:{content_digest(REPOSITORY / f'Dockerfile.{name}')}"


def ensure_image(name: str, builder: Builder, log: Log) -> str:
    """Build and push ``name`` unless the registry has it; return its full name."""
    full = reference(name, builder.registry)
    if is_pushed(full, insecure=builder.insecure):
        log.say(f"{full}: nothing changed")
    else:
        builder.build(REPOSITORY / f"Dockerfile.{name}", full, log)
    return full


def write_references(file: Path, registry: str) -> dict[str, str]:
    """Write the images' full names as JSON to ``file`` and return them."""
    references = {name: reference(name, registry) for name in NAMES}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(references, indent=1) + "\n")
    return references


def forget_references(file: Path) -> None:
    """Delete what ``write_references`` wrote, and its folder when nothing else is in it."""
    file.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        file.parent.rmdir()


def content_digest(dockerfile: Path) -> str:
    """Return twelve hexadecimal digits that change with anything that goes into the image."""
    digest = hashlib.sha256(dockerfile.read_bytes())
    for source in _copied(dockerfile.read_text()):
        for file in _files(dockerfile.parent / source):
            digest.update(f"\0{file.relative_to(dockerfile.parent)}\0".encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def is_pushed(full_name: str, *, insecure: bool) -> bool:
    """Ask the registry whether it has an image."""
    registry, _, rest = full_name.partition("/")
    path, _, tag = rest.rpartition(":")
    # Not there, or not to be asked without a password: then building again is only slower.
    return _has(registry, f"{path}/manifests/{tag}", insecure=insecure)


def answers(registry: str) -> bool:
    """Say whether a registry that speaks plain HTTP is up."""
    return _has(registry, "", insecure=True)


def _has(registry: str, path: str, *, insecure: bool) -> bool:
    # "localhost" may mean ::1, where nobody listens.
    address = registry.replace("localhost", "127.0.0.1")
    url = f"{'http' if insecure else 'https'}://{address}/v2/{path}"
    request = urllib.request.Request(url, method="HEAD", headers={"Accept": ", ".join(_KINDS)})
    handlers = [urllib.request.ProxyHandler({})] if insecure else []
    try:
        with urllib.request.build_opener(*handlers).open(request, timeout=10):
            return True
    except (urllib.error.URLError, OSError, http.client.HTTPException):
        return False


def _copied(dockerfile: str) -> Iterator[str]:
    """Yield the sources of each COPY from the build context."""
    for line in dockerfile.splitlines():
        words = line.split()
        if words and words[0].upper() in {"COPY", "ADD"}:
            if any(word.startswith("--from") for word in words):
                continue
            paths = [word for word in words[1:] if not word.startswith("--")]
            yield from paths[:-1]


def _files(source: Path) -> list[Path]:
    if source.is_file():
        return [source]
    found = [file for file in source.rglob("*") if file.is_file()]
    return sorted(f for f in found if not any(mark in str(f) for mark in IGNORED))
