"""Which rows are dropped because another one says the same.

Pure but for the memory of what was seen; called by ``prepare``.
"""

from collections.abc import Iterable, Iterator

from xxhash import xxh3_128_digest

from tunesmith_api.dataset import Deduplication
from tunesmith_trainer.data.reading import Row


def content_key(row: Row) -> bytes:
    """Return what stands for the row's content: 16 bytes, equal for equal conversations."""
    return xxh3_128_digest(row.content)


class Cleaner:
    """Drops rows: those that are held out, and repeated ones if asked for. Counts them."""

    def __init__(self, policy: Deduplication, held_out: Iterable[bytes] = ()) -> None:
        self._policy = policy
        self._held_out = frozenset(held_out)
        self.seen: set[bytes] = set()
        """Keys of the rows that stayed."""
        self.duplicates = 0
        """Rows dropped."""

    def clean(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Give the rows that stay, in order.

        A held-out row never stays, even with deduplication off: the gates would be judged on
        what was trained on.
        """
        for row in rows:
            key = content_key(row)
            repeated = key in self.seen and self._policy is Deduplication.EXACT
            if repeated or key in self._held_out:
                self.duplicates += 1
                continue
            self.seen.add(key)
            yield row
