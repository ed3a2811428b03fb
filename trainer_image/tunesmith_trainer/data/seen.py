"""A set of keys that grows on the disk: which rows were seen.

A table with open addressing (Knuth, The Art of Computer Programming 3, 6.4, algorithm L) in an
array of ``scratch``: 24 to 48 bytes a key there, nothing in memory. Called by ``cleaning``.
"""

import struct

import numpy as np

from tunesmith_trainer.data.scratch import Scratch, chunks

_HALVES = struct.Struct(">QQ")
_FEWEST_SLOTS = 1 << 12
_KEY_BITS = 64


class SeenKeys:
    """Digests of 16 bytes that were added. That of 16 zero bytes is never found: there is none."""

    def __init__(self, scratch: Scratch) -> None:
        self._scratch = scratch
        self._count = 0
        self._make(_FEWEST_SLOTS)

    def add(self, key: bytes) -> bool:
        """Add a key and say whether it is new. Raises Infrastructure (DiskFull)."""
        if 3 * self._count >= 2 * self._slots:
            self._grow()
        high, low = _HALVES.unpack(key)
        at = self._find(high, low)
        if self._table[at] or self._table[at + 1]:
            return False
        self._table[at], self._table[at + 1] = high, low
        self._count += 1
        return True

    def _find(self, high: int, low: int) -> int:
        """Give where a key is, or the empty slot that it belongs into."""
        table = self._table
        at = 2 * (high >> self._shift)
        while (found := table[at]) or table[at + 1]:
            if found == high and table[at + 1] == low:
                break
            at = (at + 2) % len(table)
        return at

    def _make(self, slots: int) -> None:
        self._slots = slots
        # By the upper bits, so that a table twice as large has its keys in the same order.
        self._shift = _KEY_BITS - (slots - 1).bit_length()
        self._array = self._scratch.zeros(2 * slots, np.uint64)
        # An item of it is had in a third of the time that one of an array takes.
        self._table = self._array.data

    def _grow(self) -> None:
        before = self._array.reshape(-1, 2)
        self._make(2 * self._slots)
        for part in chunks(len(before)):
            keys = before[part]
            for high, low in keys[keys.any(axis=1)].tolist():
                at = self._find(high, low)
                self._table[at], self._table[at + 1] = high, low
