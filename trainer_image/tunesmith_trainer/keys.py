"""Keys for services: from a Secret's folder in a pod, from the environment without a cluster.

Gives them to whoever calls a service; never logs them.
"""

import os
from pathlib import Path


def read_key(folder: Path, name: str, *, is_asked: bool = True) -> str:
    """Give the key ``name`` of the Secret mounted at ``folder``, else the variable of that name.

    Empty where there is neither. ``is_asked``: whether the job names a Secret at all; otherwise a
    variable is somebody else's.
    """
    file = folder / name
    if file.is_file():
        return file.read_text(encoding="utf-8").strip()
    return os.environ.get(name, "").strip() if is_asked else ""
