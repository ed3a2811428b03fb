"""Deletes the caches: only folders that this package makes, never the folder's other guests."""

from __future__ import annotations

import shutil
from pathlib import Path

from deploy.native.leftovers import unmount_below
from deploy.shell import Log, StepError

OURS = (
    "bin",
    "go",
    "registry",
    "containerd",
    "buildah",
    "pip",
    "uv",
    "base-model",
    "logs",
    "roots",
    "vllm",
    "peers",
    "mypy",
)
FILES = (
    "pip.conf",
    "uv.toml",
    "kind.kubeconfig",
    ".go.lock",
    ".deploy.lock",
    "vllm.lock",
    "cluster",
)


def remove_caches(cache: Path, log: Log) -> None:
    """Delete everything that a later run would have to make again."""
    for name in OURS:
        folder = cache / name
        if not folder.exists():
            continue
        log.say(f"removing {folder}")
        # Go marks its module cache read-only, which stops nobody but rmtree.
        for path in folder.rglob("*") if name == "go" else ():
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o755)
        # A build that was interrupted leaves its layers mounted.
        unmount_below(folder, log)
        shutil.rmtree(folder, ignore_errors=True)
        if folder.exists():
            raise StepError(f"{folder} cannot be removed", f"see: mount | grep {folder}")
    for file in FILES:
        (cache / file).unlink(missing_ok=True)
    if cache.exists() and not any(cache.iterdir()):
        cache.rmdir()
