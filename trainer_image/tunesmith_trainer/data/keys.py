"""What stands for the contents of rows: 16 bytes each, many of them as one array. Pure.

Called by ``repeats`` and ``splitting``, which compare rows by their keys.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.uint64]
"""[N, 2]: in the order of the bytes they are made of."""


class Groups(NamedTuple):
    """Equal keys, numbered in the order in which they first come."""

    numbers: NDArray[np.int32]
    """[N]: the group of each key."""
    firsts: NDArray[np.int32]
    """[groups]: the place of each group's first key."""


def as_keys(digests: Iterable[bytes]) -> Keys:
    """Give digests of 16 bytes as keys."""
    data = bytearray()
    for digest in digests:
        data += digest
    return np.frombuffer(data, ">u8").astype(np.uint64).reshape(-1, 2)


def key_bytes(key: Keys) -> bytes:
    """Give the digest that a key, [2], was made of."""
    return key.astype(">u8").tobytes()


def grouped(keys: Keys) -> Groups:
    """Find the equal ones among keys; takes about 50 bytes a key for as long as it runs."""
    order = np.lexsort((keys[:, 1], keys[:, 0])).astype(np.int32)
    begins = np.ones(len(order), np.bool_)
    begins[1:] = (keys[order[1:]] != keys[order[:-1]]).any(axis=1)
    # Sorting is stable: the first of equal keys is the one that comes first.
    firsts = order[begins]
    by_place = np.argsort(firsts).astype(np.int32)
    ranks = np.empty_like(by_place)
    ranks[by_place] = np.arange(len(by_place), dtype=np.int32)
    numbers = np.empty_like(order)
    numbers[order] = ranks[np.cumsum(begins) - 1]
    return Groups(numbers, firsts[by_place])
