"""One `tunesmith run` at a time in the folder of a run.

Two would take each other's attempt numbers and scratch files. The folder itself is locked, by the
command and by its stage: so it is free when both have ended, however they did, and what is left of
scratch files then is nobody's. Called by ``running``.
"""

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tunesmith_cli.mistakes import Refused
from tunesmith_cli.terminal import err

_PATIENCE_SECONDS = 10.0
"""A stage whose command was killed needs a moment to save its checkpoint."""
_LOOKS_SECONDS = 0.1


@contextmanager
def alone_in(folder: Path) -> Iterator[int]:
    """Keep other runs out of ``folder``, which is made; give the lock, for stages to inherit.

    Removes what killed runs have left. Raises Refused where another run is at work, or nothing can
    be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise not_writable(folder, error) from error
    try:
        if _locked(lock, folder):
            shutil.rmtree(scratch_of(folder), ignore_errors=True)
        yield lock
    finally:
        os.close(lock)


def scratch_of(folder: Path) -> Path:
    """Give where stages have their scratch files."""
    return folder / "scratch"


def not_writable(folder: Path, error: OSError) -> Refused:
    """Say that a run has no folder for its files."""
    return Refused(
        f"{error.filename or folder}: {error.strerror}. Logs and scratch files need a"
        " folder that can be written: choose one with --work, or with --output for all."
    )


def _locked(lock: int, folder: Path) -> bool:
    """Lock the folder; False on file systems without locks, where nobody can tell."""
    until = time.monotonic() + _PATIENCE_SECONDS
    is_told = False
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                raise Refused(
                    f"Another `tunesmith run` of the same job is at work in {folder}: wait for its"
                    " end or stop it, or choose another folder with --output."
                ) from None
            if not is_told:
                err.print(f"Another run is at work in {folder}; waiting a moment.", markup=False)
            is_told = True
            time.sleep(_LOOKS_SECONDS)
        except OSError:
            return False
        else:
            return True
