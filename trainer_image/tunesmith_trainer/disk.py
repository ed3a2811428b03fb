"""Room on the disk: how much there is, and how much is needed, before and after it runs out.

Called by whatever writes large files. Knows nothing of what they hold.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from tunesmith_trainer.outcome import Infrastructure, is_disk_full

_MIB = 1024**2
_FEWEST_ROWS = 512
# A forecast is taken for sure when a twentieth is done and twice the room is needed.
_CLEAR_SHARE = 20
_CLEAR = 2
_DO = (
    "Free some and run it again, or choose a larger disk (in a cluster"
    " compute.resources.requests.ephemeral-storage)."
)


def free_bytes(place: Path) -> int:
    """Give the room on the disk that ``place`` is on, or will be on."""
    return shutil.disk_usage(next(p for p in (place, *place.absolute().parents) if p.exists())).free


def check_room(place: Path, needed: int, what: str, do: str = _DO) -> None:
    """Raise Infrastructure (DiskFull) where ``needed`` bytes for ``what`` do not fit."""
    if needed > free_bytes(place):
        raise disk_full(place, needed, what, do)


@contextmanager
def room_for(place: Path, needed: int, what: str, do: str = _DO) -> Iterator[None]:
    """Check that ``needed`` bytes fit, and say the same where the disk is full nevertheless.

    Raises Infrastructure (DiskFull).
    """
    check_room(place, needed, what, do)
    with full_disk_told(place, lambda: needed, what, do):
        yield


@contextmanager
def full_disk_told(
    place: Path, needed: Callable[[], int], what: str, do: str = _DO
) -> Iterator[None]:
    """Make a full disk's error say how much was needed. Raises Infrastructure (DiskFull)."""
    try:
        yield
    except Exception as error:
        if not is_disk_full(error):
            raise
        raise disk_full(place, needed(), what, do) from error


class Forecast:
    """How much will be written into a folder, going by what is there for the rows done so far."""

    def __init__(self, folder: Path, rows: int, what: str) -> None:
        self._folder, self._rows, self._what = folder, rows, what
        self._done = 0

    @property
    def needed(self) -> int:
        """Bytes for all rows."""
        # Whoever meets a full disk within the first rows has not counted them yet.
        done = max(self._done, min(self._rows, _FEWEST_ROWS), 1)
        return self._written() * max(self._rows, done) // done

    def add(self, rows: int) -> None:
        """Count rows that are done. Raises Infrastructure (DiskFull) where the others cannot fit.

        What is left may be shorter than what is done: only what is clear is said.
        """
        self._done += rows
        left = self.needed - self._written()
        if self._done * _CLEAR_SHARE >= self._rows and left > _CLEAR * free_bytes(self._folder):
            raise disk_full(self._folder, left, f"the rest of {self._what}")

    def told(self) -> AbstractContextManager[None]:
        """Make a full disk's error say how much is needed."""
        return full_disk_told(self._folder, lambda: self.needed, self._what)

    def _written(self) -> int:
        files = self._folder.iterdir() if self._folder.exists() else ()
        return sum(file.stat().st_size for file in files)


def disk_full(place: Path, needed: int, what: str, do: str = _DO) -> Infrastructure:
    """Give the error of a disk without room for ``needed`` bytes of ``what``."""
    return Infrastructure(
        "DiskFull",
        f"The disk of {place} is full: {needed / _MIB:,.1f} MiB are needed for {what},"
        f" {free_bytes(place) / _MIB:,.1f} MiB are free. {do}",
    )
