"""Environments of the programs that Tunesmith is measured against, made at the first call.

They see the packages of the environment that runs the benchmark, so torch is there once.
"""

import subprocess
import sys
from pathlib import Path

CACHE = Path.home() / ".cache" / "tunesmith"


def peer_python(name: str, alone: str, others: str) -> Path:
    """Give the interpreter of an environment in the cache.

    `alone` is installed without what it asks for, `others` with it; both are pinned requirements.
    """
    folder = CACHE / "peers" / name
    python = folder / "bin" / "python"
    done = folder / ".done"
    is_new = not done.exists()
    if is_new:
        print(f"installing {alone} into {folder}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
    # Each time: the cache outlives the checkout that it was made from.
    site = next(folder.glob("lib/python*/site-packages"))
    mine = next(path for path in sys.path if path.endswith("site-packages"))
    (site / "ours.pth").write_text(mine + "\n")
    if is_new:
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--no-deps", alone], check=True)
        subprocess.run([*pip, others], check=True)
        done.touch()
    return python


def base_model() -> Path:
    """Give the folder of SmolLM2-135M-Instruct, which `make demo` puts into the cache."""
    found = next(CACHE.glob("base-model/*/config.json"), None)
    if found is None:
        sys.exit("There is no base model in the cache yet; run `make demo` once.")
    return found.parent
