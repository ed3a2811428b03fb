"""Keeps two commands from doing the same thing at once.

Advisory file locks: the kernel lets go of them when their holder dies, so none is ever stale.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(path: Path, waiting: str = "", *, shared: bool = False) -> Iterator[None]:
    """Hold the lock at ``path`` for the block; say ``waiting`` when somebody else has it.

    A ``shared`` one keeps out only those who want it for themselves.
    """
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if waiting:
                print(waiting, flush=True)
            fcntl.flock(file, kind)
        yield
