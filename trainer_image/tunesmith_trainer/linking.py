"""The same files in a second folder, without a second copy where the disk can do so.

Several artifacts hold the merged model or the GGUF file; on the trainer's disk it is there once.
Called by `artifacts` and `package`.
"""

import os
import shutil
from pathlib import Path


def link_tree(source: Path, target: Path) -> None:
    """Put all files below the folder `source` into `target`. What is there already stays."""
    target.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        if path.is_dir():
            link_tree(path, target / path.name)
        else:
            link(path, target / path.name)


def link(source: Path, target: Path) -> None:
    """Give the file `source` a second name; copy it where the disk cannot."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
